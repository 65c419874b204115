"""A damaged ledger is set aside at a start, and only a damaged one."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from router.errors import LedgerError
from router.ledger import SqliteLedger
from tests.ledger.support import SilentLog, receipt, record

PAGE = 4096


def opened(folder: Path) -> SqliteLedger:
    return SqliteLedger.open(folder / "ledger.db", node="n1", log=SilentLog())


def aside(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.glob("*damaged*"))


async def filled(folder: Path) -> None:
    ledger = opened(folder)
    ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
    await record(ledger, *[receipt() for _ in range(300)])
    await ledger.close()


@pytest.mark.parametrize("damage", ["noise", "zeros", "cut"])
async def test_a_ledger_that_sqlite_cannot_open_is_set_aside(tmp_path: Path, damage: str) -> None:
    await filled(tmp_path)
    path = tmp_path / "ledger.db"
    size = path.stat().st_size
    if damage == "cut":
        os.truncate(path, PAGE // 2)
    else:
        path.write_bytes(os.urandom(size) if damage == "noise" else bytes(size))
    ledger = opened(tmp_path)
    assert ledger.fresh
    assert aside(tmp_path) == ["ledger.db.damaged"]
    ledger.close_files()


async def test_damage_that_is_met_in_use_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    await filled(tmp_path)
    path = tmp_path / "ledger.db"
    with closing(apsw.Connection(str(path))) as connection:
        roots = [row[0] for row in connection.execute("select rootpage from sqlite_schema where tbl_name='delivery'")]
    with path.open("r+b") as file:
        for page in roots:  # counted from 1
            file.seek((page - 1) * PAGE)
            file.write(b"\xff" * PAGE)
    with pytest.raises(LedgerError, match="malformed"):
        opened(tmp_path)
    assert not aside(tmp_path), "what is in use is not taken away"
    ledger = opened(tmp_path)
    assert ledger.fresh
    assert aside(tmp_path)
    ledger.close_files()


async def test_a_suspect_ledger_that_is_sound_stays(tmp_path: Path) -> None:
    await filled(tmp_path)
    (tmp_path / "ledger.suspect").touch()
    ledger = opened(tmp_path)
    assert not ledger.fresh
    assert not aside(tmp_path)
    assert not (tmp_path / "ledger.suspect").exists()
    ledger.close_files()
