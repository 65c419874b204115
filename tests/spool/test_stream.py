"""Large objects: as they arrive to the disk, in little memory, without holding up the loop or one another."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import xxhash

from router.errors import SpoolError, SpoolFull
from router.model import Location
from router.spool import Spool, durable
from router.spool import stream as stream_module
from router.spool.pool import Segment, SegmentPool
from router.spool.segment import KIND_STREAM, SegmentFile
from router.spool.staging import Staging
from tests.spool.support import (
    DECISION,
    SMALL,
    Entry,
    Log,
    Running,
    bytes_of,
    delivery_of,
    entry_of,
    found,
    info_of,
    streamed,
)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65_536, 1_000_003, 3 << 20])
@pytest.mark.parametrize("piece", [1448, 100_000, 1 << 20])
async def test_a_streamed_object_reads_back_as_it_came(tmp_path: Path, size: int, piece: int) -> None:
    async with Running(tmp_path / "s") as running:
        entry = await running.put_stream(1, size, piece=piece)
        assert await streamed(running.spool, entry) == bytes_of(size, 1)
        assert await running.read(entry) == bytes_of(size, 1)
    (record,) = found(tmp_path / "s")
    assert (record.info, record.decision, record.location, record.state) == (entry.info, DECISION, entry.place, "ok")


async def test_data_is_synced_before_the_header_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, write_header = durable.sync_data, stream_module.SpoolStream.write_header

    def traced_sync(descriptor: int) -> None:
        sync(descriptor)
        order.append("sync")

    def traced_header(self: stream_module.SpoolStream, *arguments: Any) -> Location:
        order.append("header")
        return write_header(self, *arguments)

    async with Running(
        tmp_path / "s",
        on_synced=lambda entries: order.append("synced"),
    ) as running:
        monkeypatch.setattr(durable, "sync_data", traced_sync)
        monkeypatch.setattr(stream_module.SpoolStream, "write_header", traced_header)
        await running.put_stream(1, 200_000)
    assert order == ["sync", "header", "sync", "synced"]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_memory_and_loop_are_free_while_a_large_object_streams(tmp_path: Path) -> None:
    piece = bytes_of(256 << 10, 1)
    size = 192 << 20
    async with Running(tmp_path / "s") as running:
        await running.put_stream(1, 4 << 20)
        before = resident()
        stream = running.spool.stream()
        drained = asyncio.Event()
        stream.on_drain(1 << 20, drained.set)
        hasher = xxhash.xxh3_128()
        most = longest = 0.0
        for _ in range(size // len(piece)):
            hasher.update(piece)
            start = time.perf_counter()
            stream.write(piece)
            longest = max(longest, time.perf_counter() - start)
            most = max(most, stream.pending)
            while stream.pending > 4 << 20:
                drained.clear()
                await drained.wait()
        entry = Entry(info_of(2, b""), DECISION, None)
        entry.info = info_of(2, b"", size=size, checksum=hasher.digest())
        stream.finish(entry)
        await running.ended(entry)
        grown = resident() - before
        hasher.reset()
        async for data in running.spool.source(delivery_of(entry)).chunks():
            hasher.update(data)
        assert hasher.digest() == entry.info.checksum
    assert most <= (4 << 20) + len(piece)
    assert grown < 16 << 20
    assert longest < 0.1, "handing a piece over waited for the disk"


async def test_many_streams_at_once_do_not_mix_nor_wait_for_the_first(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        endless = running.spool.stream()
        entries = await asyncio.gather(*(running.put_stream(n, 300_000 + n) for n in range(1, 21)))
        endless.write(b"x" * 100_000)
        for entry in entries:
            assert await streamed(running.spool, entry) == bytes_of(300_000 + entry.info.id, entry.info.id)
        endless.discard()


@pytest.mark.parametrize("size", [0, 100, 500_000])
async def test_a_discarded_object_leaves_nothing_and_its_segment_is_free(tmp_path: Path, size: int) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        for _ in range(20):
            stream = running.spool.stream()
            if size:
                stream.write(bytes(size))
            stream.discard()
        await running.put_stream(2, 100_000)
        running.spool._streamers.shutdown()
        await running.files_settled()
        streams = [segment for segment in running.pool.segments.values() if segment.kind == KIND_STREAM]
        assert sum(segment.live for segment in streams) == 1
        assert len(streams) <= 5
    assert sorted(record.info.id for record in found(tmp_path / "s") if record.info) == [1, 2]


async def test_a_segment_used_again_gives_back_what_a_small_object_does_not_fill(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        large = await running.put_stream(1, 150_000)
        await running.put(entry_of(3))  # the thread has let go of the segment by then
        running.spool.settled([large.place])
        await running.files_settled()
        small = await running.put_stream(2, 5000)
        assert small.place.segment == large.place.segment
        assert running.segment(small).path.stat().st_size < 100_000
        assert await running.read(small) == bytes_of(5000, 2)


async def test_an_end_that_does_not_fit_the_data_is_refused_alone(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        stream = running.spool.stream()
        stream.write(b"x" * 5000)
        entry = Entry(info_of(1, b"x" * 4999), DECISION, None)
        stream.finish(entry)
        with pytest.raises(SpoolError, match="another size"):
            await running.ended(entry)
        nothing = Entry(info_of(2, b""), DECISION, None)
        running.spool.stream().finish(nothing)
        with pytest.raises(SpoolError):
            await running.ended(nothing)
        assert not running.spool.failed
        await running.put_stream(3, 5000)


async def test_no_room_is_told_at_the_end_and_drains_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Staging.write

    def full(self: Staging, descriptor: int, buffers: list[bytes], offset: int) -> int:
        if offset > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, descriptor, buffers, offset)

    monkeypatch.setattr(Staging, "write", full)
    async with Running(tmp_path / "s") as running:
        stream = running.spool.stream()
        drained = asyncio.Event()
        stream.on_drain(0, drained.set)
        for _ in range(40):
            drained.clear()
            stream.write(bytes(100_000))
            await drained.wait()
        await running.files_settled()
        assert stream.pending == 0
        assert all(not segment.being_written for segment in running.pool.segments.values())
        entry = Entry(info_of(1, bytes(4_000_000)), DECISION, None)
        stream.finish(entry)
        with pytest.raises(SpoolFull):
            await running.ended(entry)
        assert not running.spool.failed
        await running.put(entry_of(2))


@pytest.mark.parametrize("end", ["finish", "discard", "fault"])
async def test_every_byte_is_told_of_once_when_it_is_not_held_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    go_on, writing, write = threading.Event(), threading.Event(), Staging.write

    def stalled(self: Staging, *arguments: Any) -> int:
        writing.set()
        assert go_on.wait(20)
        return faulty() if end == "fault" else write(self, *arguments)

    async with Running(tmp_path / "s") as running:
        monkeypatch.setattr(Staging, "write", stalled)
        freed: list[int] = []
        stream = running.spool.stream()
        stream.on_freed = freed.append
        stream.write(bytes(100_000))
        await running.loop.run_in_executor(None, writing.wait, 20)
        stream.write(bytes(200_000))
        assert freed == []
        if end == "discard":
            stream.discard()
            assert (freed, stream.pending) == ([200_000], 100_000), "a thread holds the rest until the disk goes on"
        go_on.set()
        if end != "discard":
            entry = Entry(info_of(1, bytes(300_000)), DECISION, None)
            stream.finish(entry)
            with suppress(SpoolError):
                await running.ended(entry)
        running.spool._streamers.shutdown()
        await asyncio.sleep(0)
        assert (sum(freed), stream.pending) == (300_000, 0)


def faulty(*arguments: Any) -> Any:
    raise MemoryError("secret")


@pytest.mark.parametrize(
    ("where", "what"), [(Staging, "write"), (stream_module.SpoolStream, "write_header"), (SegmentPool, "take")]
)
async def test_a_fault_of_ours_refuses_the_object_it_met_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: type, what: str
) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        await running.files_settled()
        with monkeypatch.context() as patch:
            patch.setattr(where, what, faulty)
            stream = running.spool.stream()
            stream.write(bytes(1 << 20))
            entry = Entry(info_of(2, bytes(1 << 20)), DECISION, None)
            stream.finish(entry)
            with pytest.raises(SpoolError, match=r"fault of ours: MemoryError at test_stream\.py:\d+$"):
                await running.ended(entry)
        assert stream.pending == 0
        assert not running.spool.failed
        assert running.log.lines[-1][:2] == ("error", "fault while streaming")
        assert "secret" not in str(running.log.lines)
        await running.files_settled()
        assert [
            segment for segment in running.pool.segments.values() if segment.kind == KIND_STREAM and segment.live
        ] == []
        assert not any(
            segment.being_written for segment in running.pool.segments.values() if segment.kind == KIND_STREAM
        )
        await running.put_stream(3, 100_000)


async def test_a_segment_that_cannot_be_closed_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = SegmentPool.close

    def closing(self: SegmentPool, segment: Segment, file: SegmentFile) -> None:
        close(self, segment, file)
        raise OSError(errno.EIO, "Input/output error")

    async with Running(tmp_path / "s") as running:
        monkeypatch.setattr(Staging, "write", faulty)
        monkeypatch.setattr(SegmentPool, "close", closing)
        with pytest.raises(SpoolError, match="fault of ours"):
            await running.put_stream(1, 1 << 20)
        monkeypatch.undo()
        await running.put_stream(2, 100_000)


async def test_a_sync_that_fails_while_streaming_ends_the_spool_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        stream = running.spool.stream()
        drained = asyncio.Event()
        stream.on_drain(0, drained.set)
        stream.write(b"x")
        await drained.wait()
        monkeypatch.setattr(os, "fdatasync", failing)
        for _ in range(stream_module.SYNC_EVERY // (1 << 20)):
            drained.clear()
            stream.write(bytes(1 << 20))
            await drained.wait()
        assert running.spool.failed
        assert len(running.broken) == 1
        monkeypatch.undo()
        with pytest.raises(SpoolError, match="sync failed"):
            await running.put(entry_of(2))
        stream.discard()


async def test_a_stream_before_the_start_is_refused(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s", SMALL, log=Log())
    try:
        with pytest.raises(SpoolError, match="not been started"):
            spool.stream()
    finally:
        spool.close_files()
