"""What happens now and then goes on happening."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router.app import housekeeping as module
from router.app.housekeeping import Housekeeping
from router.app.known import KnownInstances
from router.errors import LedgerError
from router.model import Decision, InstanceInfo, Location, Share, SpoolSettings
from tests.spool.support import SMALL, Entry, Running, entry_of


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


class Places:
    """The part of a ledger that compaction asks; it may be without room, or have failed."""

    def __init__(self, entries: list[Entry]) -> None:
        self.places = {entry.info.id: entry.place for entry in entries}
        self.entries = entries
        self.full = self.failed = False

    async def instances_in(self, segment: int) -> list[tuple[InstanceInfo, Decision, Location]]:
        return [
            (entry.info, entry.decision, place)
            for entry in self.entries
            if (place := self.places[entry.info.id]).segment == segment
        ]

    async def relocate(self, number: int, old: Location, new: Location) -> bool:
        if self.full or self.failed:
            raise LedgerError("no space left for the ledger")
        assert self.places[number] == old
        self.places[number] = new
        return True


async def mostly_dead(running: Running) -> list[Entry]:
    """What lives, when of the first segment only the first record does."""
    entries = [entry_of(n, 9000) for n in range(1, 21)]
    await running.put(*entries)
    first = [entry for entry in entries if entry.place.segment == entries[0].place.segment]
    running.spool.settled([entry.place for entry in first[1:]])
    await running.files_settled()  # it is closed
    return [entry for entry in entries if entry not in first[1:]]


def compacting(running: Running, ledger: Places) -> Housekeeping:
    return Housekeeping(
        spool=running.spool, ledger=ledger, lanes={}, metrics=SimpleNamespace(), settings=SpoolSettings(), log=Log()
    )  # type: ignore[arg-type]


def live_in(running: Running) -> int:
    return sum(segment.live for segment in running.pool.segments.values())


async def test_compaction_without_room_in_the_ledger_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        kept = await mostly_dead(running)
        ledger = Places(kept)
        housekeeping = compacting(running, ledger)
        ledger.full = True
        for _ in range(30):
            await housekeeping._attempt(housekeeping.compact)
        assert housekeeping.log.errors == ["housekeeping will try again"] * 30  # type: ignore[attr-defined]
        assert live_in(running) == len(kept), "no copy is kept"
        await running.put(*(entry_of(n, 9000) for n in range(100, 140)))
        assert await running.read(kept[0]) == kept[0].data(), "not led to where a copy was"
        ledger.full = False
        await housekeeping._attempt(housekeeping.compact)
        assert ledger.places[1] != kept[0].place
        assert live_in(running) == len(kept) + 40
        await running.put(*(entry_of(n, 9000) for n in range(200, 240)))
        assert await running.read(kept[0]) == kept[0].data(), "led to where it lies now"
        assert running.log.errors() == []


async def test_a_copy_that_a_failed_ledger_may_have_committed_is_kept(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        kept = await mostly_dead(running)
        ledger = Places(kept)
        ledger.failed = True
        housekeeping = compacting(running, ledger)
        await housekeeping._attempt(housekeeping.compact)
        assert live_in(running) == len(kept) + 1


async def test_who_reads_while_the_ledger_is_asked_for_a_move_is_not_led_to_the_copy(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        kept = await mostly_dead(running)
        ledger = Places(kept)
        places = []

        async def relocate(number: int, old: Location, new: Location) -> bool:
            places.append(running.spool._present(old))
            raise LedgerError("no space left for the ledger")

        ledger.relocate = relocate  # type: ignore[method-assign]
        housekeeping = compacting(running, ledger)
        await housekeeping._attempt(housekeeping.compact)
        assert places == [kept[0].place]


async def test_segments_that_damaged_records_keep_do_not_keep_others_from_being_emptied(tmp_path: Path) -> None:
    async with Running(tmp_path / "s", replace(SMALL, spare_segments=100)) as running:
        entries = [entry_of(n, 9000) for n in range(1, 81)]
        await running.put(*entries)
        segments: dict[int, list[Entry]] = {}
        for entry in entries:
            segments.setdefault(entry.place.segment, []).append(entry)
        full = list(segments.values())[:-2]
        running.spool.settled([entry.place for some in full for entry in some[1:]])
        damaged, sound = [some[0] for some in full[:5]], [some[0] for some in full[5:]]
        for entry in damaged:
            with running.segment(entry).path.open("r+b") as file:
                file.seek(entry.place.offset + 5000)
                file.write(b"other bytes")
        ledger = Places([*damaged, *sound])
        housekeeping = compacting(running, ledger)
        for _ in range(6):
            await housekeeping.compact()
        moved = {entry.info.id for entry in ledger.entries if ledger.places[entry.info.id] != entry.place}
        assert moved == {entry.info.id for entry in sound}


async def test_what_is_moved_is_moved_together_and_little_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOVED_AT_ONCE", 25_000)
    settings = replace(SMALL, segment_size=1 << 20)
    async with Running(tmp_path / "s", settings) as running:
        entries = [entry_of(n, 9000) for n in range(1, 120)]
        await running.put(*entries)
        first = [entry for entry in entries if entry.place.segment == entries[0].place.segment]
        kept = first[:8]
        running.spool.settled([entry.place for entry in first[8:]])
        await running.files_settled()
        ledger = Places(kept)
        asked = 0
        together: list[int] = []

        async def relocate(number: int, old: Location, new: Location) -> bool:
            nonlocal asked
            asked += 1
            await running.files_settled()
            together.append(asked)
            asked -= 1
            return await Places.relocate(ledger, number, old, new)

        ledger.relocate = relocate  # type: ignore[method-assign]
        await compacting(running, ledger).compact()
        assert all(ledger.places[entry.info.id] != entry.place for entry in kept)
        assert 1 < max(together) <= 3
        assert [await running.read(entry) for entry in kept] == [entry.data() for entry in kept]
        assert live_in(running) == len(entries) - len(first) + len(kept)
