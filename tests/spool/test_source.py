"""Nothing damaged is ever given out whole."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from router._blocks import PIECE_SIZE
from router.errors import SpoolCorrupt, SpoolError
from router.model import Location
from router.spool.segment import path_of
from tests.spool.support import Entry, Running, bytes_of, delivery_of, entry_of, streamed


def damage(running: Running, entry: Entry, offset: int) -> None:
    """Flip a bit of the record, ``offset`` from its end if negative."""
    place = entry.place
    at = place.offset + offset if offset >= 0 else place.offset + place.length + offset
    with open(path_of(running.folder, place.segment), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x80]))


async def test_what_is_in_memory_is_not_read_again(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = entry_of(1)
        await running.put(entry)
        source = running.spool.source(delivery_of(entry, chunks=entry.chunks))
        assert source.size == entry.info.size
        assert source.buffers is entry.chunks
        assert running.spool.source(delivery_of(entry)).buffers is None


@pytest.mark.parametrize("offset", [0, 30, 79, 90, -1, -39, -41, -500])
async def test_a_small_record_damaged_anywhere_is_not_given_out(tmp_path: Path, offset: int) -> None:
    async with Running(tmp_path / "s") as running:
        entry, other = entry_of(1), entry_of(2)
        await running.put(entry, other)
        damage(running, entry, offset)
        if offset not in (-1, -39):  # the footer is for recovery; the data is known to be right without it
            with pytest.raises(SpoolCorrupt):
                await running.read(entry)
        with pytest.raises(SpoolCorrupt):
            await streamed(running.spool, entry)
        assert await running.read(other) == other.data()


@pytest.mark.parametrize("offset", [0, 80, 70_000, 2_000_000, -41, -1])
async def test_the_last_piece_of_a_damaged_large_object_is_never_given_out(tmp_path: Path, offset: int) -> None:
    size = 3 * PIECE_SIZE + 5
    async with Running(tmp_path / "s") as running:
        entry = await running.put_stream(1, size)
        damage(running, entry, offset)
        got = 0
        with pytest.raises(SpoolCorrupt):
            async for piece in running.spool.source(delivery_of(entry)).chunks():
                assert len(piece) <= PIECE_SIZE
                got += len(piece)
        assert got < size


async def test_a_large_object_comes_in_bounded_pieces(tmp_path: Path) -> None:
    size = 2 * PIECE_SIZE + 5
    async with Running(tmp_path / "s") as running:
        entry = await running.put_stream(1, size)
        pieces = [piece async for piece in running.spool.source(delivery_of(entry)).chunks()]
        assert [len(piece) for piece in pieces] == [PIECE_SIZE, PIECE_SIZE, 5]
        assert b"".join(pieces) == bytes_of(size, 1)


async def test_a_place_that_holds_another_instance_is_corrupt(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry, other = entry_of(1), entry_of(2)
        await running.put(entry, other)
        place = entry.place
        for wrong in (
            replace(entry, location=other.place),
            replace(entry, info=replace(entry.info, checksum=bytes(16))),
            replace(entry, location=Location(place.segment, place.epoch, place.offset, place.length - 8)),
            replace(entry, location=Location(place.segment, place.epoch, place.offset, 10)),
            replace(entry, location=Location(place.segment, place.epoch, 1 << 40, place.length)),
        ):
            with pytest.raises(SpoolCorrupt):
                await running.read(wrong)


async def test_a_segment_cut_short_is_corrupt(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = await running.put_stream(1, 2 * PIECE_SIZE)
        os.truncate(path_of(running.folder, entry.place.segment), PIECE_SIZE)
        with pytest.raises(SpoolCorrupt):
            await running.read(entry)
        with pytest.raises(SpoolCorrupt):
            await streamed(running.spool, entry)


@pytest.mark.parametrize("what", ["os.pread", "router.spool.source.read_piece"])
async def test_a_disk_that_cannot_be_read_says_nothing_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    async with Running(tmp_path / "s") as running:
        entry = entry_of(1)
        await running.put(entry)
        monkeypatch.setattr(what, failing)
        for reading in (running.read(entry), streamed(running.spool, entry)):
            with pytest.raises(SpoolError, match="cannot read") as caught:
                await reading
            assert not isinstance(caught.value, SpoolCorrupt)
        monkeypatch.undo()


async def test_a_reader_that_stops_early_or_is_cancelled_leaks_no_descriptor(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = await running.put_stream(1, 4 * PIECE_SIZE)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(30):
            pieces = running.spool.source(delivery_of(entry)).chunks()
            await anext(pieces)
            await pieces.aclose()  # type: ignore[attr-defined]
        for turns in range(30):
            task = asyncio.ensure_future(streamed(running.spool, entry))
            for _ in range(turns % 7):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # Whatever waits in the threads that read comes before this.
        await asyncio.gather(*(running.read(entry) for _ in range(20)))
        assert len(os.listdir("/proc/self/fd")) <= before
