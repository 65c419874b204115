"""What happens now and then goes on happening."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from router.app import housekeeping as module
from router.app.housekeeping import Housekeeping
from router.app.known import KnownInstances
from router.errors import LedgerError
from router.model import Location, Share, SpoolSettings


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


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_known_begins_again_with_what_the_ledger_has(fails: bool) -> None:
    known = KnownInstances(["2.25.1", "2.25.2"], 2)
    known._filter.added = known._filter.capacity + 1
    flushed = 0

    async def flush() -> None:
        nonlocal flushed
        flushed += 1
        assert known.add("2.25.3"), "one that comes meanwhile"
        if fails:
            raise LedgerError("no space left for the ledger")

    housekeeping = Housekeeping(
        spool=None, ledger=SimpleNamespace(flush=flush, instances=lambda: 1, sop_instances=lambda: iter(["2.25.2"])),
        lanes={}, metrics=SimpleNamespace(), settings=SpoolSettings(), log=Log(), known=known,
    )  # type: ignore[arg-type]  # fmt: skip
    await housekeeping._attempt(housekeeping.forget)
    assert flushed == 1
    assert known.full is fails, "tried again if it failed"
    assert known.add("2.25.1") is not fails
    assert not known.add("2.25.2")
    assert not known.add("2.25.3")


class OtherLane:
    """What ``attend`` looks at and does."""

    def __init__(self, state: str = "up") -> None:
        self.state = state
        self.woken = 0

    def backlog(self) -> None:
        self.woken += 1

    def pause(self, reason: str) -> None:
        self.state = f"paused: {reason}"[:6]

    def resume(self) -> None:
        self.state = "up"


def among_others(lanes: dict[str, OtherLane], ledger: SimpleNamespace) -> Housekeeping:
    return Housekeeping(
        spool=SimpleNamespace(), ledger=ledger, lanes=lanes, metrics=SimpleNamespace(), settings=SpoolSettings(),
        log=Log(), share=Share(1, 2),
    )  # type: ignore[arg-type]  # fmt: skip


async def test_a_worker_takes_up_what_others_left_ready() -> None:
    lanes = {"a": OtherLane(), "b": OtherLane()}

    async def ready(names: list[str]) -> list[str]:
        return [name for name in names if name == "b"]

    await among_others(lanes, SimpleNamespace(ready_among=ready, paused=dict)).attend()
    assert (lanes["a"].woken, lanes["b"].woken) == (0, 1)


async def test_a_worker_finds_a_pause_that_it_was_not_told_of() -> None:
    paused = {"a": "by an operator"}
    lane = OtherLane()

    async def nothing(names: list[str]) -> list[str]:
        return []

    ledger = SimpleNamespace(ready_among=nothing, paused=lambda: dict(paused))
    housekeeping = among_others({"a": lane}, ledger)
    await housekeeping.attend()
    assert lane.state == "up", "it may be told in this moment"
    await housekeeping.attend()
    assert lane.state == "paused"
    paused.clear()
    await housekeeping.attend()
    assert lane.state == "paused"
    await housekeeping.attend()
    assert lane.state == "up"


async def test_what_is_told_while_the_ledger_is_read_is_newer() -> None:
    lane = OtherLane()

    async def nothing(names: list[str]) -> list[str]:
        return []

    def paused() -> dict[str, str]:
        lane.state = "paused"  # by an operator, just when it has been read
        return {}

    await among_others({"a": lane}, SimpleNamespace(ready_among=nothing, paused=paused)).attend()
    assert lane.state == "paused"
