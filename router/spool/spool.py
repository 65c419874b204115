"""The spool: a log of self-describing records in numbered segments, committed in groups.

::

    submit ─▶ queue ─▶ spool thread: take all that waits ─▶ pwritev ─▶ written(group) ─▶ fdatasync ─▶ synced(group)
                                                                          │ (the ledger commits meanwhile)
    stream ─▶ its own segment, written as it arrives, synced ─▶ header ───┘

Invariants, each held by a test:

1. A record is reported *synced* only after an fdatasync that began after all its bytes were written returned without error.
2. A group is written to the log only after the group before it in the same segment was synced; the header's ``synced`` says up to where. So
   a damaged record below the highest ``synced`` of its segment is damage, and one above it may be a torn write of a crash.
3. After the first failed sync or write (other than for want of space) the spool is *failed*: every waiter hears SpoolError, and
   nothing is ever reported synced again.
4. A segment is written from the front with a new epoch only when none of its records is needed. A record of another epoch is not
   there.
5. Names are numbers. Nothing that a peer sent is part of a path.
6. A process that starts never appends to a segment of an earlier run: what was torn stays behind, without an owner.

Overwriting blocks that were written before halves the cost of a sync against appending to a growing file (4 KiB records on the
machine this was written on: 0.18 against 0.37 ms; 512 KiB: 1.3 against 0.6 GB/s), so settled segments are kept for that.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from router.errors import SpoolCorrupt, SpoolError, SpoolFull
from router.model import Decision, Delivery, InstanceInfo, Location, SpoolSettings
from router.ports import Log, SpoolEntry
from router.spool import durable
from router.spool.record import (
    FOOTER_SIZE,
    HEADER_SIZE,
    STREAMED,
    FoundRecord,
    Header,
    encode_footer,
    encode_header,
    encode_meta,
)
from router.spool.segment import (
    BLOCK,
    FIRST_RECORD,
    KIND_LOG,
    KIND_STREAM,
    STREAM_DATA_OFFSET,
    SUFFIX,
    Segment,
    align,
    path_of,
    problem_with,
    read_header_at,
    read_segment_header,
    scan,
    write_all,
)
from router.spool.source import StoredData, open_record, read_whole
from router.spool.stream import SpoolStream

GROUP_ENTRIES = 512
GROUP_BYTES = 32 << 20
READERS = 4
STREAM_WRITERS = 4
COMPACT_BELOW = 0.25
"""A full segment with less than this share alive is worth compacting."""
GIB = 1 << 30
CLOSE = object()


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    bytes: int
    """Of all segment files."""
    live_bytes: int
    free_bytes: int
    """Of the file system, for unprivileged users."""
    largest_object: int


@dataclass(slots=True)
class _Move:
    """A record that goes to another place without being news to the ledger's receiving side."""

    info: InstanceInfo
    decision: Decision
    chunks: list[bytes]
    done: Callable[[Location | SpoolError], None]
    location: Location | None = None


@dataclass(slots=True)
class _Streamed:
    entry: SpoolEntry
    stream: SpoolStream


class Spool:
    """See the module's text. Everything is called on the loop unless it says otherwise."""

    def __init__(self, folder: Path, settings: SpoolSettings, log: Log) -> None:
        self.folder = folder
        self.settings = settings
        self.log = log
        self.failed = False
        self.segments: dict[int, Segment] = {}
        self.largest_object = 0
        self._quarantine = folder.parent / "quarantine"
        self._lock = threading.Lock()
        self._free: list[Segment] = []
        self._current: Segment | None = None
        self._next_number = 1
        self._next_epoch = 1
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._written: Callable[[Sequence[SpoolEntry]], None] = lambda entries: None
        self._synced: Callable[[Sequence[SpoolEntry]], None] = lambda entries: None
        self._failed: Callable[[Sequence[SpoolEntry], SpoolError], None] = lambda entries, error: None
        self._readers = ThreadPoolExecutor(READERS, "spool-read")
        self._writers = ThreadPoolExecutor(STREAM_WRITERS, "spool-stream")
        self._lock_file = -1
        self._free_bytes = 0
        self._total_bytes = 0

    # Opening and recovering (blocking, before the loop) ------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, settings: SpoolSettings, *, log: Log) -> Spool:
        """Open or create the spool; takes its lock and reads the headers of its segments.

        Raises:
            SpoolError: Not writable, or another process has it, or a newer version wrote it.
        """
        spool = cls(folder, settings, log)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool._quarantine.mkdir(mode=0o700, exist_ok=True)
            spool._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(spool._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(f"the spool {folder} is in use by another process") from None
        except OSError as error:
            raise SpoolError(
                f"cannot use the spool {folder}: {error.strerror}; it must be writable for this user"
            ) from error
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            spool._adopt_file(path)
        spool.refresh_free()
        return spool

    def _adopt_file(self, path: Path) -> None:
        if not path.stem.isdigit():
            return
        number = int(path.stem)
        descriptor = os.open(path, os.O_RDWR)
        size = os.fstat(descriptor).st_size
        header = read_segment_header(descriptor)
        self._next_number = max(self._next_number, number + 1)
        segment = Segment(number, descriptor, size)
        if header is None or header[1] != number:
            # Created and never used, or its first block is damaged: records still tell their epoch themselves.
            found = next(
                (h for at in range(FIRST_RECORD, min(size, 64 << 20), BLOCK) if (h := read_header_at(descriptor, at))),
                None,
            )
            if found is not None:
                segment.epoch = found.epoch
                segment.kind = KIND_STREAM if found.flags & STREAMED else KIND_LOG
                self.log.error("segment header damaged, read by its records", segment=number)
        else:
            segment.kind, _, segment.epoch = header
        self._next_epoch = max(self._next_epoch, segment.epoch + 1)
        self.segments[number] = segment

    @property
    def empty(self) -> bool:
        return not self.segments

    def scan(self) -> Iterator[FoundRecord]:
        """Every record of every segment, in the order in which segments were used. Blocking."""
        for segment in sorted(self.segments.values(), key=lambda segment: segment.epoch):
            yield from scan(segment)

    def in_doubt(self, rows: Sequence[tuple[InstanceInfo, Location]]) -> list[InstanceInfo]:
        """Of the newest instances that the ledger knows, those whose record was torn by a crash before anybody was told.

        Rows and sync go side by side, so the last group may have rows without whole records. Blocking.
        """
        torn: list[InstanceInfo] = []
        by_segment: dict[int, list[tuple[InstanceInfo, Location]]] = {}
        for info, location in rows:
            by_segment.setdefault(location.segment, []).append((info, location))
        for number, members in by_segment.items():
            segment = self.segments.get(number)
            if segment is None:
                continue  # the whole file is gone: damage, told when it is read
            headers = [(info, location, self._header_of(segment, info, location)) for info, location in members]
            known_whole = max((header.synced for _, _, header in headers if header is not None), default=FIRST_RECORD)
            for info, location, header in headers:
                if header is None:
                    if location.offset >= known_whole:
                        torn.append(info)
                elif segment.kind == KIND_STREAM:
                    if problem_with(segment.descriptor, location.offset, header, hash_data=False):
                        torn.append(info)
                elif location.offset >= known_whole and problem_with(segment.descriptor, location.offset, header):
                    torn.append(info)
        return torn

    @staticmethod
    def _header_of(segment: Segment, info: InstanceInfo, location: Location) -> Header | None:
        try:
            return open_record(segment.descriptor, info, location)
        except SpoolCorrupt:
            return None

    def adopt(self, live: Mapping[int, tuple[int, int]]) -> None:
        """What still lives, by segment: (records, bytes). Every other segment is free."""
        for number, segment in self.segments.items():
            segment.live, segment.live_bytes = live.get(number, (0, 0))
        for segment in list(self.segments.values()):
            if not segment.live:
                self._release(segment)

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        written: Callable[[Sequence[SpoolEntry]], None],
        synced: Callable[[Sequence[SpoolEntry]], None],
        failed: Callable[[Sequence[SpoolEntry], SpoolError], None],
    ) -> None:
        """Start the thread. The three are called in it, with the entries of one group."""
        self._loop = loop
        self._written, self._synced, self._failed = written, synced, failed
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    # Writing -----------------------------------------------------------------------------------------------

    def submit(self, entry: SpoolEntry) -> None:
        """One whole small record (``entry.chunks``). Any thread."""
        self._queue.put(entry)

    def stream(self) -> SpoolStream:
        if self._loop is None:
            raise SpoolError("the spool has not been started")
        return SpoolStream(self, self._loop, self._writers)

    def submit_stream(self, entry: SpoolEntry, stream: SpoolStream) -> None:
        """From a stream's thread: its data is on the disk, the header is missing."""
        self._queue.put(_Streamed(entry, stream))

    async def close(self) -> None:
        """Finish what was submitted, stop the threads, give the lock back."""
        if self._thread is not None:
            self._queue.put(CLOSE)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._thread = None
        self._writers.shutdown(wait=False)
        self._readers.shutdown(wait=False)
        self.close_files()

    def close_files(self) -> None:
        for segment in self.segments.values():
            os.close(segment.descriptor)
        self.segments.clear()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    # The spool thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            items = [self._queue.get()]
            size = self._size_of(items[0])
            while len(items) < GROUP_ENTRIES and size < GROUP_BYTES:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                items.append(item)
                size += self._size_of(item)
            if CLOSE in items:
                items.remove(CLOSE)
                closing = True
            if items:
                self._commit(items)

    @staticmethod
    def _size_of(item: object) -> int:
        info = getattr(item, "info", None)
        return info.size if info is not None else 0

    def _commit(self, items: list[object]) -> None:
        logged = [item for item in items if not isinstance(item, _Streamed)]
        streamed = [item for item in items if isinstance(item, _Streamed)]
        moves = [item for item in logged if isinstance(item, _Move)]
        if self.failed:
            self._tell_failed(items, SpoolError("the spool has failed"))
            return
        log: Segment | None = None
        descriptors: list[int] = []
        try:
            if logged:
                log = self._log_segment(sum(self._size_of(item) + STREAM_DATA_OFFSET for item in logged))
                end = self._write_group(log, logged)
                descriptors.append(log.descriptor)
            good: list[_Streamed] = []
            for item in streamed:
                if item.stream.problem is None:
                    self._write_stream_header(item)
                    descriptors.append(item.stream.segment.descriptor)  # type: ignore[union-attr]
                    good.append(item)
        except (OSError, SpoolError) as error:
            self._tell_failed(items, self.problem_of(error) if isinstance(error, OSError) else error)
            return
        refused = [item for item in streamed if item.stream.problem is not None]
        for item in refused:
            self._abandon(item)
            self._failed([item.entry], item.stream.problem or SpoolError("stream failed"))
        entries = [item for item in logged if not isinstance(item, _Move)] + [item.entry for item in good]
        if entries:
            self._written(entries)  # type: ignore[arg-type]
        try:
            for descriptor in descriptors:
                durable.sync_data(descriptor)
        except OSError as error:
            self.failed = True
            problem = SpoolError(f"sync failed: {error.strerror}")
            if entries:
                self._failed(entries, problem)  # type: ignore[arg-type]
            for move in moves:
                move.done(problem)
            return
        if log is not None:
            log.synced = log.position = end
        if entries:
            self._synced(entries)  # type: ignore[arg-type]
        for move in moves:
            move.done(move.location or SpoolError("not written"))
        self.refresh_free()

    def _tell_failed(self, items: list[object], problem: SpoolError) -> None:
        entries = []
        for item in items:
            if isinstance(item, _Move):
                item.done(problem)
            elif isinstance(item, _Streamed):
                self._abandon(item)
                entries.append(item.entry)
            else:
                entries.append(item)
        if entries:
            self._failed(entries, problem)  # type: ignore[arg-type]

    def _abandon(self, item: _Streamed) -> None:
        segment, item.stream.segment = item.stream.segment, None
        if segment is not None:
            self.stream_abandoned(segment)

    def problem_of(self, error: OSError) -> SpoolError:
        """No space is a passing thing; anything else ends the spool. Any thread."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return SpoolFull("no space left for the spool")
        self.failed = True
        return SpoolError(f"write failed: {error.strerror}")

    def _write_group(self, segment: Segment, items: list[object]) -> int:
        """All records of a group with one vectored write; gives the offset behind it."""
        buffers: list[bytes] = []
        start = at = segment.position
        epoch, synced = segment.epoch, segment.synced
        for item in items:
            info: InstanceInfo = item.info  # type: ignore[attr-defined]
            meta = encode_meta(info, item.decision)  # type: ignore[attr-defined]
            header = Header(0, epoch, info.id, HEADER_SIZE + len(meta), info.size, synced, info.checksum, meta)
            length = header.length
            buffers.append(encode_header(header))
            buffers.extend(item.chunks)  # type: ignore[attr-defined]
            padding = align(length) - length
            buffers.append(encode_footer(epoch, info.id, info.checksum) + bytes(padding))
            item.location = Location(segment.number, epoch, at, length)  # type: ignore[attr-defined]
            at += length + padding
            if info.size > self.largest_object:
                self.largest_object = info.size
        end = align(at, BLOCK)
        if end > at:
            buffers.append(bytes(end - at))
        write_all(segment.descriptor, buffers, start)
        with self._lock:
            segment.live += len(items)
            segment.live_bytes += end - start
            segment.size = max(segment.size, end)
        return end

    def _write_stream_header(self, item: _Streamed) -> None:
        entry, stream = item.entry, item.stream
        segment, info = stream.segment, entry.info
        if segment is None or stream.size != info.size:
            raise SpoolError("a streamed record has another size than was received")
        meta = encode_meta(info, entry.decision)
        header = Header(
            STREAMED, segment.epoch, info.id, STREAM_DATA_OFFSET, info.size, FIRST_RECORD, info.checksum, meta
        )
        end = FIRST_RECORD + STREAM_DATA_OFFSET + info.size
        footer = encode_footer(segment.epoch, info.id, info.checksum)
        write_all(segment.descriptor, [footer.ljust(align(end + FOOTER_SIZE, BLOCK) - end, b"\0")], end)
        write_all(segment.descriptor, [encode_header(header)], FIRST_RECORD)
        entry.location = Location(segment.number, segment.epoch, FIRST_RECORD, header.length)
        self.largest_object = max(self.largest_object, info.size)
        with self._lock:
            segment.live, segment.live_bytes = 1, header.length
            segment.size = max(segment.size, align(end + FOOTER_SIZE, BLOCK))

    # Segments ----------------------------------------------------------------------------------------------

    def _log_segment(self, needed: int) -> Segment:
        """The open segment, or a new one when the group does not fit any more."""
        current = self._current
        if current is not None and current.position + needed <= self.settings.segment_size:
            return current
        if current is not None and current.position == FIRST_RECORD:
            return current  # a group larger than a segment: it gets one that grows
        self._current = None
        fresh = self._take(KIND_LOG)
        if current is not None and not current.live:
            self._release(current)
        self._current = fresh
        return fresh

    def segment_for_stream(self) -> Segment:
        """From a stream's thread. Raises SpoolFull or OSError."""
        return self._take(KIND_STREAM)

    def stream_abandoned(self, segment: Segment) -> None:
        """Any thread."""
        segment.live = segment.live_bytes = 0
        self._release(segment)

    def _take(self, kind: int) -> Segment:
        """A segment to write from the front: the smallest free one for the log, the largest for a stream, or a new file."""
        with self._lock:
            self._free.sort(key=lambda segment: segment.size)
            segment = self._free.pop(0 if kind == KIND_LOG else -1) if self._free else None
            epoch = self._next_epoch
            self._next_epoch += 1
            if segment is None:
                number = self._next_number
                self._next_number += 1
        try:
            if segment is None:
                segment = self._create(number, self.settings.segment_size if kind == KIND_LOG else 0)
            segment.kind, segment.epoch = kind, epoch
            segment.position = segment.synced = FIRST_RECORD
            segment.live = segment.live_bytes = 0
            segment.write_header()
        except OSError as error:
            if segment is not None:
                self._release(segment)
            raise self.problem_of(error) from error
        with self._lock:
            self.segments[segment.number] = segment
        return segment

    def _create(self, number: int, size: int) -> Segment:
        path = path_of(self.folder, number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if size:
                # Space is taken now, so that a full disk is met here and not in the middle of a group.
                os.posix_fallocate(descriptor, 0, size)
            durable.sync_data(descriptor)
            durable.sync_directory(self.folder)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise
        return Segment(number, descriptor, size)

    def _release(self, segment: Segment) -> None:
        """Nothing in it is needed: keep it to be overwritten, or delete it."""
        with self._lock:
            if segment in self._free or segment is self._current:
                return
            if len(self._free) < self.settings.spare_segments and not self._tight:
                self._free.append(segment)
                return
            self.segments.pop(segment.number, None)
        with suppress(FileNotFoundError):
            path_of(self.folder, segment.number).unlink()
        os.close(segment.descriptor)

    def settled(self, locations: Sequence[Location]) -> None:
        """These records are not needed any more."""
        emptied = []
        with self._lock:
            for location in locations:
                segment = self.segments.get(location.segment)
                if segment is None or segment.epoch != location.epoch:
                    continue
                segment.live -= 1
                segment.live_bytes -= location.length
                if segment.live <= 0 and segment is not self._current:
                    segment.live = segment.live_bytes = 0
                    emptied.append(segment)
        for segment in emptied:
            self._release(segment)

    # Reading -----------------------------------------------------------------------------------------------

    def _descriptor(self, number: int) -> int:
        segment = self.segments.get(number)
        if segment is None:
            raise SpoolCorrupt("the segment file is missing")
        return segment.descriptor

    def source(self, delivery: Delivery) -> StoredData:
        return StoredData(delivery.instance, delivery.location, delivery.chunks, self._descriptor, self._readers)

    async def load(self, info: InstanceInfo, location: Location) -> list[bytes]:
        """The whole data set of a small instance, verified. Raises SpoolCorrupt, SpoolError. Cancelling it is safe."""
        descriptor = self._descriptor(location.segment)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read_whole, descriptor, info, location)

    def quarantine(self, location: Location) -> Path | None:
        """Copy the raw bytes of a damaged record aside, under a number; None if there is nothing to copy. Blocking."""
        segment = self.segments.get(location.segment)
        if segment is None:
            return None
        path = self._quarantine / f"{location.segment:010d}-{location.epoch}-{location.offset}.rec"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            at, end = location.offset, location.offset + location.length
            while at < end:
                data = os.pread(segment.descriptor, min(1 << 20, end - at), at)
                if not data:
                    break
                os.write(descriptor, data)
                at += len(data)
            durable.sync_data(descriptor)
        finally:
            os.close(descriptor)
        return path

    # Compacting --------------------------------------------------------------------------------------------

    def compaction_candidates(self) -> list[int]:
        """Segments of the log that are mostly dead, the emptiest first; a few at a time."""
        with self._lock:
            candidates = [
                segment
                for segment in self.segments.values()
                if segment.kind == KIND_LOG
                and segment is not self._current
                and segment.live
                and segment not in self._free
                and segment.live_bytes < segment.size * COMPACT_BELOW
            ]
        return [segment.number for segment in sorted(candidates, key=lambda segment: segment.live_bytes)[:4]]

    async def move(self, info: InstanceInfo, decision: Decision, location: Location) -> Location:
        """Write a record again at the end of the log, synced. The old place stays valid until ``settled``.

        Raises SpoolCorrupt, SpoolError.
        """
        chunks = await self.load(info, location)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Location] = loop.create_future()

        def done(result: Location | SpoolError) -> None:
            if isinstance(result, SpoolError):
                loop.call_soon_threadsafe(future.set_exception, result)
            else:
                loop.call_soon_threadsafe(future.set_result, result)

        self._queue.put(_Move(info, decision, chunks, done))
        return await future

    # Space -------------------------------------------------------------------------------------------------

    def refresh_free(self) -> None:
        """Ask the file system; any thread."""
        state = os.statvfs(self.folder)
        self._free_bytes = state.f_bavail * state.f_frsize
        self._total_bytes = state.f_blocks * state.f_frsize

    @property
    def _reusable(self) -> int:
        return sum(segment.size for segment in self._free)

    @property
    def _tight(self) -> bool:
        return self._free_bytes < self._association_floor()

    def _association_floor(self) -> int:
        floor = self.settings.reserve_associations
        return max(5 * 10**9, self._total_bytes // 20) if floor is None else floor

    def below_associations_floor(self) -> bool:
        """Too little space for new associations."""
        return self._free_bytes + self._reusable < self._association_floor()

    def below_objects_floor(self) -> bool:
        """Too little space for another object."""
        floor = self.settings.reserve_objects
        if floor is None:
            floor = max(2 * 10**9, 2 * self.largest_object)
        return self._free_bytes + self._reusable < floor

    def usage(self) -> SpoolUsage:
        self.refresh_free()
        with self._lock:
            total = sum(segment.size for segment in self.segments.values())
            live = sum(segment.live_bytes for segment in self.segments.values())
        return SpoolUsage(total, live, self._free_bytes, self.largest_object)
