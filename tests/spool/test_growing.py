"""A large object read while it is written: from memory, from its segment, and never past what counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.errors import SpoolCorrupt, SpoolError
from router.spool.growing import GrowingData, GrowingStoredData
from tests.spool.support import DECISION, Entry, Running, bytes_of, info_of

SIZE = 3 << 20
PIECE = 100_000


async def read(source: GrowingStoredData, found: list[bytes]) -> None:
    async for chunk in source.chunks():
        found.append(chunk)


class Growing:
    """A stream of ``SIZE`` bytes, of which ``begun`` had come before anybody looked."""

    def __init__(self, running: Running, begun: int, keep: int) -> None:
        self.data = bytes_of(SIZE, 1)
        self.released = 0
        self.stream = running.spool.stream()
        self.at = 0
        self._write(begun, None)
        self.growing = running.spool.growing(self.stream, recent=[], size=begun, keep=keep, released=self._released)

    def _released(self) -> None:
        self.released += 1

    def _write(self, end: int, growing: GrowingData | None) -> None:
        while self.at < end:
            chunk = self.data[self.at : min(self.at + PIECE, end)]
            self.at += len(chunk)
            self.stream.write(chunk)
            if growing is not None:
                growing.append(chunk)

    def write(self, end: int = SIZE) -> None:
        self._write(end, self.growing)


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("keep", [0, 1 << 20, 1 << 30])
@pytest.mark.parametrize("begun", [0, 4096, 1_000_001])
async def test_it_is_read_as_it_comes_and_ends_when_it_is_complete(tmp_path: Path, begun: int, keep: int) -> None:
    async with Running(tmp_path / "s") as running:
        growing = Growing(running, begun, keep)
        source = growing.growing.source()
        found: list[bytes] = []
        task = asyncio.create_task(read(source, found))
        growing.write(2_000_000)
        await until(lambda: source.given >= 2_000_000 - 4096)
        growing.write()
        await until(lambda: source.given >= SIZE - 4096)
        assert not task.done()
        await until(lambda: growing.stream.pending == 0)
        growing.stream.finish(entry := Entry(info_of(1, growing.data), DECISION, None))
        await running.ended(entry)
        source.complete(entry.info)
        await task
        assert b"".join(found) == growing.data
        assert source.ended
        source.close()
        source.close()
        assert growing.released == 1


async def test_who_lags_reads_the_segment_and_memory_stays_bounded(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        growing = Growing(running, 0, 200_000)
        fast, slow = growing.growing.source(), growing.growing.source()
        found: list[bytes] = []
        task = asyncio.create_task(read(fast, found))
        growing.write()
        await until(lambda: growing.stream.pending == 0 and fast.given >= SIZE - 4096)
        assert sum(map(len, growing.growing.recent)) < 200_000 + PIECE
        late: list[bytes] = []
        other = asyncio.create_task(read(slow, late))
        await until(lambda: slow.given == SIZE)
        assert b"".join(late) == growing.data
        for source in (fast, slow):
            source.close()
        for ended in (task, other):
            with pytest.raises(SpoolError):
                await ended
        growing.stream.discard()


async def test_nothing_is_given_of_what_was_discarded(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        growing = Growing(running, 1_000_000, 0)
        source = growing.growing.source()
        found: list[bytes] = []
        await until(lambda: growing.stream.pending == 0)
        growing.stream.discard()
        with pytest.raises(SpoolError):
            await read(source, found)
        assert found == []
        source.close()


async def test_it_does_not_end_if_what_was_stored_is_something_else(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        growing = Growing(running, 0, 1 << 30)
        source = growing.growing.source()
        found: list[bytes] = []
        growing.write()
        source.complete(info_of(1, bytes(SIZE)))
        with pytest.raises(SpoolCorrupt):
            await read(source, found)
        assert not source.ended
        source.close()
        growing.stream.discard()
