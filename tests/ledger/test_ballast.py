"""Room that is there when it is needed."""

from __future__ import annotations

from pathlib import Path

from router.ledger.ballast import Ballast


def test_one_that_a_killed_process_left_half_made_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "ledger.ballast"
    ballast = Ballast(tmp_path / "ledger.db")
    ballast.make()
    size = file.stat().st_size
    assert size
    file.write_bytes(b"")
    ballast.make()
    assert file.stat().st_size == size
    whole = file.stat().st_ino
    ballast.make()
    assert file.stat().st_ino == whole, "a whole one stays"
    assert ballast.give()
    assert not ballast.give()
