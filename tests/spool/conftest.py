"""Fixtures of the spool's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.spool import durable
from tests.spool.faulty import Faulty


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    """The spool's committer, whose disk fails when the test says so."""
    Faulty.heal()
    monkeypatch.setattr(durable, "Committer", Faulty)
    yield Faulty
    Faulty.heal()
