"""What a machine lacks is a skip for a developer and a failure where CI=true."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.peers import cannot, require


def test_what_cannot_be_done_here_fails_where_it_must_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no disk"):
        cannot("no disk")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require("no-such-program")


def test_what_cannot_be_done_here_is_left_out_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no disk"):
        cannot("no disk")


TESTS = Path(__file__).resolve().parents[1]
SHORT_RUN = {
    "sanitize/test_sanitizers.py": 2,
    "support/seen.py": 1,  # the figure of cases that ran in several processes
    "torture/test_clock.py": 4,
    "torture/test_half_open.py": 2,
    "torture/test_strict_model.py": 1,
}
"""Tests that only a campaign takes the time for: how many, by file."""


def test_nothing_else_is_left_out() -> None:
    found = Counter(
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\bpytest\.(skip\(|importorskip|mark\.(skip|xfail))|\bunittest\.skip", line)
    )
    ours = {str(Path(__file__).relative_to(TESTS)), "support/peers.py"}
    assert {path: count for path, count in found.items() if path not in ours} == SHORT_RUN
