"""Group commit: what is told when, and what a disk that is full or failing does to it."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import SpoolError, SpoolFull
from router.model import Decision, Location, LogPosition, Verdict
from router.ports import Buffer, SpoolEntry
from router.spool import durable
from router.spool.pool import Segment, SegmentPool
from router.spool.segment import BLOCK, SegmentFile, path_of
from router.spool.staging import Staging
from router.spool.writer import Move
from tests.spool.faulty import Faulty
from tests.spool.support import DECISION, Entry, Running, bytes_of, entry_of, found, info_of, live_of
from tests.support.plain_committer import PlainCommitter


async def test_synced_is_told_after_the_sync_and_the_record_can_be_read(tmp_path: Path, faulty: type[Faulty]) -> None:
    synced_to_disk: list[int] = []

    def synced(entries: Sequence[SpoolEntry]) -> None:
        synced_to_disk.append(faulty.syncs)
        for entry in entries:
            assert entry.location is not None
            with open(path_of(tmp_path / "s", entry.location.segment), "rb") as file:
                file.seek(entry.location.offset)
                assert b"".join(entry.chunks or ()) in file.read(entry.location.length)

    async with Running(tmp_path / "s", on_synced=synced) as running:
        await running.put(entry_of(1))
        await running.put(entry_of(2))
    assert synced_to_disk == [1, 2]


@given(
    groups=st.lists(st.lists(st.integers(0, 9000), max_size=6), max_size=8),
    staging=st.sampled_from([BLOCK, 2 * BLOCK, 16 * BLOCK]),
    group_bytes=st.sampled_from([1, 3 * BLOCK, 1 << 20]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_committer_writes_what_the_plain_one_writes(
    tmp_path: Path, groups: list[list[int]], staging: int, group_bytes: int
) -> None:
    pieces = [[os.urandom(size) for size in sizes] for sizes in groups]
    images = []
    for kind in (durable.Committer, PlainCommitter):
        descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        committer = kind(staging, group_bytes)
        at = 0
        for number, buffers in enumerate(pieces):
            committer.submit(descriptor, buffers, at, number)
            at += -(-sum(map(len, buffers)) // BLOCK) * BLOCK
        committer.close()
        assert committer.done() == [(number, 0, 0) for number in range(len(pieces))]
        images.append(os.pread(descriptor, 1 << 20, 0))
        os.close(descriptor)
    assert images[0] == images[1]


@pytest.mark.parametrize("kind", [durable.Committer, PlainCommitter])
def test_after_a_problem_the_committer_writes_nothing_until_it_is_reset(tmp_path: Path, kind: Any) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    committer = kind(BLOCK, 1 << 20)

    def ended(count: int) -> list[tuple[Any, int, int]]:
        found: list[tuple[Any, int, int]] = []
        while len(found) < count:
            select.select([committer.fileno()], [], [], 10)
            found += committer.done()
        return found

    committer.submit(-1, [b"x"], 0, "bad")
    committer.submit(descriptor, [b"y"], 0, "behind")
    assert ended(2) == [("bad", errno.EBADF, 0), ("behind", errno.ECANCELED, 0)]
    assert os.fstat(descriptor).st_size == 0
    committer.reset()
    reader, writer = os.pipe()
    committer.submit(writer, [], 0, "nothing to write, and what cannot be synced")
    ((_, wrote, synced),) = ended(1)
    assert (wrote, synced) == (0, errno.EINVAL)
    committer.reset()
    committer.submit(descriptor, [b"z"], BLOCK, "again")
    committer.close()
    assert committer.done() == [("again", 0, 0)]
    assert os.fstat(descriptor).st_size == 2 * BLOCK
    with pytest.raises(ValueError, match="closed"):
        committer.submit(descriptor, [b"z"], 0, "late")
    for one in (descriptor, reader, writer):
        os.close(one)


async def test_the_place_in_the_log_rises_and_lies_behind_what_is_told(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        for number in range(1, 12):
            before = running.position
            entry = entry_of(number, 20_000)
            await running.put(entry)
            start = LogPosition(entry.place.epoch, entry.place.offset)
            assert before <= start < running.position
        before = running.position
        await running.put_stream(100, 100_000)
        assert running.position == before, "a streamed record has no place in the log"


async def test_what_arrives_during_a_sync_is_the_next_group(tmp_path: Path, faulty: type[Faulty]) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        running.told.calls.clear()
        faulty.go_on.clear()
        faulty.syncing.clear()
        later = [entry_of(n, 100) for n in range(2, 12)]  # they fit into one segment
        running.spool.submit(later[0])
        await asyncio.to_thread(faulty.syncing.wait, 10)
        for entry in later[1:]:
            running.spool.submit(entry)
        faulty.go_on.set()
        for entry in later:
            await running.ended(entry)
    assert faulty.syncs == 3
    assert [number for what, numbers in running.told.calls for number in numbers if what == "synced"] == list(
        range(2, 12)
    )


async def test_records_go_to_the_next_segment_when_one_is_full(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = [entry_of(n, 20_000) for n in range(1, 30)]
        for entry in entries:
            await running.put(entry)
        assert len({entry.place.segment for entry in entries}) > 4
        for entry in entries:
            assert await running.read(entry) == entry.data()
    assert sorted(record.info.id for record in found(tmp_path / "s") if record.info) == list(range(1, 30))


async def test_a_group_larger_than_a_segment_goes_in_whole(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = entry_of(1, 500_000, chunk=65_536)
        await running.put(entry, entry_of(2))
        assert await running.read(entry) == entry.data()


async def test_an_object_without_any_data_is_a_record_too(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = Entry(info_of(1, b""), DECISION, [])
        await running.put(entry)
        assert await running.read(entry) == b""


async def test_the_first_failed_sync_is_the_last(tmp_path: Path, faulty: type[Faulty]) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        faulty.sync_problem = errno.EIO
        with pytest.raises(SpoolError, match="sync failed") as caught:
            await running.put(entry_of(2))
        assert not isinstance(caught.value, SpoolFull)
        assert running.spool.failed
        faulty.sync_problem = 0
        # The disk works again, as it does after the kernel has dropped the pages. It is not believed.
        with pytest.raises(SpoolError, match="sync failed"):
            await running.put(entry_of(3))
        stream = running.spool.stream()
        stream.write(b"x")
        last = Entry(info_of(4, b"x"), DECISION, None)
        stream.finish(last)
        with pytest.raises(SpoolError):
            await running.ended(last)
    assert faulty.syncs == 2
    assert len(running.broken) == 1
    assert [number for number, problem in running.told.settled.items() if problem is None] == [1]


async def test_what_was_behind_a_failed_group_is_refused_with_its_problem(tmp_path: Path, faulty: type[Faulty]) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        faulty.go_on.clear()
        faulty.syncing.clear()
        entries = [entry_of(n, 9000) for n in range(2, 20)]  # over the end of the segment too
        running.spool.submit(entries[0])
        await asyncio.to_thread(faulty.syncing.wait, 10)
        for entry in entries[1:]:
            running.spool.submit(entry)
        faulty.sync_problem = errno.EIO
        faulty.go_on.set()
        for entry in entries:
            with pytest.raises(SpoolError, match="sync failed"):
                await running.ended(entry)
    assert faulty.syncs == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENXIO])
async def test_a_write_error_ends_the_spool(tmp_path: Path, faulty: type[Faulty], number: int) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        faulty.write_problem = number
        with pytest.raises(SpoolError, match="write failed"):
            await running.put(entry_of(2))
        assert running.spool.failed
        assert ("failed", [2]) in running.told.calls


async def test_a_write_cut_short_by_a_full_disk_leaves_no_trace_and_the_spool_lives(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    async with Running(tmp_path / "s") as running:
        kept = entry_of(1)
        await running.put(kept)
        faulty.write_problem, faulty.after_writing = errno.ENOSPC, True
        refused = [entry_of(2), entry_of(3), entry_of(4)]
        for entry in refused:
            with pytest.raises(SpoolFull):
                await running.put(entry)
        faulty.write_problem = 0
        assert not running.spool.failed
        later = entry_of(5)
        await running.put(later)
        assert await running.read(kept) == kept.data()
        assert await running.read(later) == later.data()
    assert {record.info.id for record in found(tmp_path / "s") if record.info} == {1, 5}


async def test_sync_errors_for_want_of_room_are_final_like_any_other(tmp_path: Path, faulty: type[Faulty]) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        faulty.sync_problem = errno.ENOSPC
        with pytest.raises(SpoolError) as caught:
            await running.put(entry_of(2))
        assert not isinstance(caught.value, SpoolFull)


@pytest.fixture
def tiny_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """1 MiB of its own: a tmpfs, or for a user who may not mount one, a folder whose files may not grow beyond that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    fallocate, write = os.posix_fallocate, Staging.write

    def room_for(descriptor: int, end: int) -> None:
        used = sum(path.stat().st_size for path in folder.rglob("*.seg"))
        if used + max(0, end - os.fstat(descriptor).st_size) > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    def tight_fallocate(descriptor: int, offset: int, length: int) -> None:
        room_for(descriptor, offset + length)
        fallocate(descriptor, offset, length)

    def tight_write(self: Staging, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        room_for(descriptor, offset + sum(map(len, buffers)))
        return write(self, descriptor, buffers, offset)

    monkeypatch.setattr(os, "posix_fallocate", tight_fallocate)
    monkeypatch.setattr(Staging, "write", tight_write)
    yield folder


async def test_a_disk_that_fills_up_refuses_keeps_what_it_has_and_heals(tiny_disk: Path) -> None:
    folder = tiny_disk / "s"
    async with Running(folder) as running:
        kept: list[Entry] = []
        refused = 0
        for number in range(1, 80):
            entry = entry_of(number, 20_000)
            try:
                await running.put(entry)
            except SpoolFull:
                refused += 1
            else:
                kept.append(entry)
        assert refused
        assert kept
        assert not running.spool.failed
        for entry in kept:
            assert await running.read(entry) == entry.data()
        running.spool.settled([entry.place for entry in kept[:-1]])
        await running.files_settled()
        again = entry_of(500, 20_000)
        await running.put(again)
        assert await running.read(again) == again.data()
    states = [record.state for record in found(folder)]
    assert "damaged" not in states


async def test_a_large_object_that_does_not_fit_leaves_nothing_behind(tiny_disk: Path) -> None:
    folder = tiny_disk / "s"
    async with Running(folder) as running:
        small = entry_of(1)
        await running.put(small)
        with pytest.raises(SpoolFull):
            await running.put_stream(2, 3_000_000)
        await running.files_settled()
        assert not running.spool.failed
        again = await running.put_stream(3, 200_000)
        assert await running.read(again) == bytes_of(200_000, 3)
        assert await running.read(small) == small.data()
    assert {record.info.id for record in found(folder) if record.info} == {1, 3}


async def test_one_entry_that_is_wrong_does_not_harm_its_group(tmp_path: Path) -> None:
    wrong = replace(entry_of(2), chunks=[b"short"])
    huge = replace(
        entry_of(3),
        decision=Decision(verdict=Verdict.ROUTE, destinations=tuple(f"destination-{n:05d}" for n in range(5000))),
    )
    no_bytes = replace(entry_of(5), chunks=[None])  # type: ignore[list-item]
    good = [entry_of(1), entry_of(4)]
    async with Running(tmp_path / "s") as running:
        for entry in (good[0], wrong, huge, no_bytes, good[1]):
            running.spool.submit(entry)
        for entry in good:
            await running.ended(entry)
            assert await running.read(entry) == entry.data()
        for entry in (wrong, huge, no_bytes):
            with pytest.raises(SpoolError):
                await running.ended(entry)
        assert not running.spool.failed


async def test_a_failed_disk_is_left_as_it_is_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Running(tmp_path / "s") as running:
        kept = entry_of(1)
        await running.put(kept)

        def failing(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        stream = running.spool.stream()
        stream.write(bytes(100_000))
        while stream.pending:
            await asyncio.sleep(0.001)
        assert stream.segment is not None
        monkeypatch.setattr(os, "fdatasync", failing)
        entry = Entry(info_of(2, bytes(100_000)), DECISION, None)
        stream.finish(entry)
        with pytest.raises(SpoolError, match="sync failed"):
            await running.ended(entry)
        running.spool.settled([kept.place])
        monkeypatch.undo()
        await running.files_settled()
    # What the disk holds is for the next start to judge.
    assert len(list((tmp_path / "s").glob("*.seg"))) == 2
    assert path_of(tmp_path / "s", kept.place.segment).exists()


async def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    entries = [entry_of(n) for n in range(1, 200)]
    async with Running(tmp_path / "s") as running:
        for entry in entries:
            running.spool.submit(entry)
        data = bytes_of(300_000, 500)
        stream, unfinished = running.spool.stream(), running.spool.stream()
        for at in range(0, len(data), 1000):
            stream.write(data[at : at + 1000])
            unfinished.write(data[at : at + 1000])
        stream.finish(Entry(info_of(500, data), DECISION, None))
    unfinished.write(b"too late")
    unfinished.discard()
    assert set(running.told.settled) == {500, *(entry.info.id for entry in entries)}
    assert len(found(tmp_path / "s")) == len(entries) + 1


async def test_a_process_that_starts_never_appends_to_an_older_segment(tmp_path: Path) -> None:
    first, second = entry_of(1), entry_of(2)
    async with Running(tmp_path / "s") as running:
        await running.put(first)
    async with Running(tmp_path / "s", live=live_of(first)) as running:
        await running.put(second)
        assert await running.read(first) == first.data()
    assert second.place.segment != first.place.segment
    assert second.place.epoch > first.place.epoch


async def test_a_fault_of_who_is_told_of_records_keeps_nobody_else_of_their_group_waiting(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))

    def synced(entries: Sequence[SpoolEntry]) -> None:
        # A loop that is late is told of both groups at once.
        if any(entry.info.id == 2 for entry in entries):
            raise RuntimeError("a fault of ours")

    async with Running(tmp_path / "s", on_synced=synced) as running:
        await running.put(entry_of(1))
        faulty.go_on.clear()
        faulty.syncing.clear()
        running.spool.submit(entry_of(5))  # while it is synced, the others come together
        await asyncio.to_thread(faulty.syncing.wait, 10)
        moved: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        broken, copy = entry_of(2), entry_of(3)
        running.spool.submit(broken)
        running.spool._writer.submit(Move(copy.info, copy.decision, copy.chunks or (), moved.set_result))
        faulty.go_on.set()
        assert isinstance(await asyncio.wait_for(moved, 10), Location)
        await running.put(entry_of(4))
    assert len(faults) == 1


async def test_a_fault_while_a_segment_is_taken_refuses_who_waits_for_it_and_nobody_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(pool: SegmentPool, kind: int) -> None:
        raise RuntimeError("fault of ours")

    async with Running(tmp_path / "s") as running, asyncio.timeout(20):
        with monkeypatch.context() as faulty:
            faulty.setattr(SegmentPool, "take", fault)
            with pytest.raises(SpoolError, match="fault of ours"):
                await running.put(entry_of(1))
        await running.put(entry_of(2))


@pytest.mark.parametrize("large", [False, True])
async def test_a_disk_that_hangs_before_anything_is_written_is_seen_to_be_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    go_on = threading.Event()
    take = SegmentPool.take

    def hanging(pool: SegmentPool, kind: int) -> tuple[Segment, SegmentFile]:
        assert go_on.wait(20)
        return take(pool, kind)

    monkeypatch.setattr(SegmentPool, "take", hanging)
    async with Running(tmp_path / "s") as running, asyncio.timeout(20):
        assert running.spool.stuck_for == 0
        put = asyncio.create_task(running.put_stream(1, 100_000) if large else running.put(entry_of(1)))
        await asyncio.sleep(0.2)
        assert running.spool.stuck_for > 0.1
        go_on.set()
        await put
        while running.spool.stuck_for:
            await asyncio.sleep(0.001)
