"""What happens now and then goes on happening."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from router.app import housekeeping as module
from router.app.housekeeping import Housekeeping
from router.errors import LedgerError
from router.model import Location, SpoolSettings


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **values: Any) -> None:
        self.errors.append(event)

    warning = info = debug = error


async def test_a_full_ledger_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAUGES_EVERY", 0.001)
    monkeypatch.setattr(module, "EXPIRE_EVERY", 0.001)
    attempts = 0
    freed: list[Location] = []
    place = Location(1, 1, 8192, 100)

    async def expire(keep_seconds: float, keep_bytes: int) -> list[tuple[int, Location]]:
        nonlocal attempts
        attempts += 1
        if attempts <= 2:
            raise LedgerError("no space left for the ledger")
        return [(1, place)] if attempts == 3 else []

    async def oldest() -> dict[str, float]:
        raise LedgerError("disk I/O error")

    usage = SimpleNamespace(bytes=0, free_bytes=1)
    log = Log()
    housekeeping = Housekeeping(
        spool=SimpleNamespace(usage=lambda: usage, settled=freed.extend, compaction_candidates=list),
        ledger=SimpleNamespace(expire=expire, oldest=oldest, counts=None),
        lanes={}, metrics=SimpleNamespace(), settings=SpoolSettings(), log=log,
    )  # type: ignore[arg-type]  # fmt: skip
    task = asyncio.create_task(housekeeping.run())
    async with asyncio.timeout(10):
        while not freed:
            await asyncio.sleep(0.001)
    assert not task.done()
    task.cancel()
    assert freed == [place], "the disk frees itself as soon as it can"
    assert set(log.errors) == {"housekeeping will try again"}
