"""One spool, several processes: each writes its own segments, and reads those of all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import SpoolCorrupt, SpoolError
from router.model import LOG_SEGMENTS, Delivery, Location, LogPosition, Share, log_of
from router.spool import Spool
from router.spool.lock import take_lock
from tests.spool.support import SMALL, Entry, Log, entry_of

FIRST, SECOND = Share(0, 2), Share(1, 2)


def numbers(folder: Path) -> set[int]:
    return {int(path.stem) for path in folder.glob("*.seg")}


class Writer:
    """A spool of one share, started; ``put`` waits for the commit."""

    def __init__(self, folder: Path, share: Share, live: dict[int, tuple[int, int]] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.spool = Spool.open(folder, SMALL, log=Log(), share=share)
        self.spool.adopt(live or {}, self.spool.end(share.worker))
        self.position = LogPosition()
        self.waiting: dict[int, asyncio.Future[Location]] = {}
        self.spool.start(self.loop, synced=self._synced, failed=self._failed)

    def _synced(self, entries: object, position: LogPosition | None) -> None:
        self.position = position or self.position
        for entry in entries:  # type: ignore[attr-defined]
            self.waiting.pop(entry.info.id).set_result(entry.location)

    def _failed(self, entries: object, problem: SpoolError) -> None:
        for entry in entries:  # type: ignore[attr-defined]
            self.waiting.pop(entry.info.id).set_exception(problem)

    async def put(self, entry: Entry) -> Location:
        future = self.waiting[entry.info.id] = self.loop.create_future()
        self.spool.submit(entry)
        return await asyncio.wait_for(future, 10)

    async def stream(self, entry: Entry) -> Location:
        future = self.waiting[entry.info.id] = self.loop.create_future()
        stream = self.spool.stream()
        for chunk in entry.chunks or ():
            stream.write(chunk)
        stream.finish(entry)
        return await asyncio.wait_for(future, 10)


async def both(folder: Path) -> tuple[Writer, Writer]:
    folder.mkdir()
    return Writer(folder, FIRST), Writer(folder, SECOND)


async def test_each_writes_segments_of_its_own(tmp_path: Path) -> None:
    first, second = await both(tmp_path / "s")
    for number in range(1, 40):
        one = await first.put(entry_of(number, 8_000))
        other = await second.put(entry_of(1000 + number, 8_000))
        assert (log_of(one.segment), log_of(other.segment)) == (0, 1)
    assert log_of((await second.stream(entry_of(2000, 300_000))).segment) == 1
    assert {log_of(number) for number in numbers(tmp_path / "s")} == {0, 1}
    await first.spool.close()
    await second.spool.close()


async def test_any_of_them_reads_what_another_wrote(tmp_path: Path) -> None:
    first, second = await both(tmp_path / "s")
    small, large = entry_of(1, 5_000), entry_of(2, 3_000_000)
    place, streamed = await second.put(small), await second.stream(large)
    assert b"".join(await first.spool.load(small.info, place)) == small.data()
    source = first.spool.source(Delivery(id=1, destination="a", instance=large.info, location=streamed))
    assert b"".join([chunk async for chunk in source.chunks()]) == large.data()
    await first.spool.close()
    await second.spool.close()


async def test_only_its_owner_lets_a_segment_go(tmp_path: Path) -> None:
    first, second = await both(tmp_path / "s")
    entry = entry_of(1, 5_000)
    place = await second.put(entry)
    first.spool.settled([place])
    assert b"".join(await first.spool.load(entry.info, place)) == entry.data()
    assert first.spool.compaction_candidates() == []
    await first.spool.close()
    await second.spool.close()
    # Neither does one that starts, though nobody counts anything there as alive for it.
    again = Writer(tmp_path / "s", FIRST)
    assert b"".join(await again.spool.load(entry.info, place)) == entry.data()
    await again.spool.close()
    assert place.segment in numbers(tmp_path / "s")


async def test_a_record_that_was_moved_meanwhile_is_read_where_it_lies_now(tmp_path: Path) -> None:
    first, second = await both(tmp_path / "s")
    entry = entry_of(1, 5_000)
    old = await second.put(entry)
    moved = entry_of(1, 5_000)
    new = await second.put(moved)
    first.spool.ask_for_moved({1: new}.get)
    path = tmp_path / "s" / f"{old.segment:010d}.seg"
    with path.open("r+b") as file:  # as when something else is written there
        file.seek(old.offset)
        file.write(os.urandom(4096))
    assert b"".join(await first.spool.load(entry.info, old)) == entry.data()
    source = first.spool.source(Delivery(id=1, destination="a", instance=entry.info, location=old))
    assert b"".join([chunk async for chunk in source.chunks()]) == entry.data()

    first.spool.ask_for_moved({1: old}.get)
    with pytest.raises(SpoolCorrupt):  # the ledger says that it should be there
        await first.spool.load(entry.info, old)
    first.spool.ask_for_moved(lambda instance: None)
    with pytest.raises(SpoolError, match="settled") as caught:
        await first.spool.load(entry.info, old)
    assert not isinstance(caught.value, SpoolCorrupt)

    gone = Location(LOG_SEGMENTS + 77, 1, 8192, old.length)
    with pytest.raises(SpoolError, match="settled"):
        await first.spool.load(entry.info, gone)
    first.spool.ask_for_moved({1: gone}.get)
    with pytest.raises(SpoolCorrupt, match="missing"):
        await first.spool.load(entry.info, gone)
    await first.spool.close()
    await second.spool.close()


async def test_logs_without_a_process_belong_to_those_that_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    places = {}
    for worker in range(4):
        writer = Writer(folder, Share(worker, 4))
        places[worker] = await writer.put(entry_of(worker + 1, 5_000))
        await writer.spool.close()
    for of in (1, 2, 3, 5):
        owned = []
        for worker in range(of):
            spool = Spool.open(folder, SMALL, log=Log(), share=Share(worker, of))
            owned += spool.logs
            for log in spool.logs:
                found = [record.info.id for record in spool.tail(LogPosition(), log=log) if record.info and record.ok]
                assert found == ([log + 1] if log < 4 else [])
            spool.close_files()
        assert sorted(owned) == list(range(max(of, 4))), f"{of} workers"


async def test_a_segment_of_a_log_without_a_process_is_deleted_and_not_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    writer = Writer(folder, SECOND)
    place = await writer.put(entry_of(1, 5_000))
    await writer.spool.close()
    alone = Writer(folder, Share(0, 1), {place.segment: (1, place.length)})
    mine = [await alone.put(entry_of(number, 8_000)) for number in range(10, 40)]
    alone.spool.settled([place, *mine])
    more = [await alone.put(entry_of(number, 8_000)) for number in range(50, 80)]
    assert {log_of(location.segment) for location in (*mine, *more)} == {0}
    deadline = time.monotonic() + 10
    while place.segment in numbers(folder) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert place.segment not in numbers(folder)
    await alone.spool.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    path.mkdir()
    yield path


def test_the_lock_is_held_as_long_as_any_process_lives_that_inherited_it(folder: Path) -> None:
    lock = take_lock(folder)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(lock,)
    )
    os.close(lock)
    with pytest.raises(SpoolError, match="in use"):
        take_lock(folder)
    with pytest.raises(SpoolError, match="in use"):
        Spool.open(folder, SMALL, log=Log())
    child.communicate()
    again = take_lock(folder, wait=10)
    os.close(again)
