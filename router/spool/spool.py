"""The spool: a log of self-describing records in numbered segments, committed in groups.

::

    submit ─▶ a place in the log ─▶ a thread: take all that waits ─▶ write ─▶ fdatasync ─▶ synced(entries)
    stream ─▶ a thread: its own segment, synced as it grows ─▶ header ─▶ fdatasync ──────▶ synced(entry)

    ┌ segment 0000000007.seg ──────────────────────────────────────────────────────────────────────┐
    │ header │ mark │ record record record ░ │ record record ░░ │ record record rec▒▒▒             │
    └────────┴──────┴── group 1, synced ─────┴─ group 2, synced ┴─ group 3: torn, never told ──────┘

Invariants, each held by a test:

1. A record is reported *synced* only after an fdatasync returned without error that began after all its bytes were
   written.
2. A group is written only after the group before it was synced. The header of each record says up to where the log was
   known to be synced when it got its place (``synced``); when none follows, the mark of the segment says it. So a
   record that does not read back is *damaged* below that place, and a person is told; above it may be *torn* by a
   crash. The ledger's place in the log is the better witness; this one helps when the ledger is lost.
3. After the first failed sync, or a failed write other than for want of room, the spool has *failed*: every waiter
   hears SpoolError, nothing is ever reported synced again, and no sync is tried again.
4. Want of room refuses the group that met it, takes back what was half written, and nothing else.
5. A segment is written from the front only when each of its records has been settled, once. It then has a new epoch;
   a record of another epoch is not there.
6. Names are numbers. Nothing that a peer sent is part of a path.
7. A process that starts never appends to a segment of an earlier run: what was torn stays behind, without an owner.
8. The event loop never waits for the disk, and a streamed object holds no more memory than its caller lets wait
   (``pending``).

What a segment of the log guarantees: before ``take``, nothing; while it is written, whole records up to ``synced``;
closed, whole records throughout; spare, nothing again.

Why segments are used again, and why the page cache is left out. One group of each size, write + fdatasync, on ext4
(virtual disk, 2 cores, other work running; November 2026), median milliseconds:

    group      through the page cache                        past it (O_DIRECT)
               growing    fallocated   zero-filled  reused    growing   fallocated   reused
    4 KiB      0.35       0.28         0.21         0.18      0.21      0.22         0.16
    16 KiB     0.29       0.29         0.18         0.19      0.30      0.28         0.18
    512 KiB    0.67       0.62         0.45         0.41      0.65      0.66         0.47
    4 MiB      3.4        3.4          4.5          2.5       3.2       3.5          2.7

Overwriting saves the journal commit that new blocks and a new size cost, a third to a half of a small sync. Filling new
segments with zeros would buy the same, but costs every byte twice (50 to 260 ms for 64 MiB) just when the disk is
busy growing a backlog; so new segments are fallocated, one ahead of need, which at least meets a full disk before a
group is half written.

The times of one lone writer do not show what the page cache costs a busy router: 1,000 objects of 512 KiB through
this module took 1.37 ms of CPU each with it and 0.10 ms without (500 and 2,500 objects a second); of 16 KiB, 25 us
with either (20,000 and 27,000).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from router.errors import SpoolError
from router.folders import make_folder
from router.model import (
    ALONE,
    Decision,
    Delivery,
    InstanceInfo,
    Location,
    LogPosition,
    Share,
    SpoolSettings,
    log_of,
)
from router.ports import Buffer, Log, SpoolEntry
from router.spool import durable
from router.spool.growing import GrowingData
from router.spool.health import Health
from router.spool.lock import LOCK, take_lock
from router.spool.pool import Segment, SegmentPool
from router.spool.record import FoundRecord
from router.spool.scan import scan
from router.spool.segment import FIRST_RECORD, KIND_LOG, KIND_STREAM, read_at, read_header_at
from router.spool.source import StoredData, read_whole
from router.spool.space import Space
from router.spool.staging import can_write_direct
from router.spool.stream import SpoolStream
from router.spool.writer import LogWriter, Move, Refused, Told

ENDING = 2.0
"""Seconds for workers whose parent was killed: the system ends them at once, but not in no time."""
READERS = 4
STREAM_WRITERS = 4
MOVED_KEPT = 1 << 16
"""Moved records whose old place is still understood: deliveries in memory were leased with it."""
_BEHIND_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    bytes: int
    """Of all segment files."""
    live_bytes: int
    free_bytes: int
    """Of the file system, for unprivileged users."""
    largest_object: int


class Spool:
    """See the module's text. Everything is called on the loop unless it says otherwise.

    The order of a start is ``open``, ``tail`` from where the ledger stands, ``adopt``, ``start``.
    """

    def __init__(self, folder: Path, settings: SpoolSettings, log: Log, share: Share = ALONE) -> None:
        self.folder = folder
        self.share = share
        self.settings = settings
        self.log = log
        self._health = Health()
        self._space = Space(folder, settings)
        self._files = ThreadPoolExecutor(1, "spool-files")
        self._pool = SegmentPool(
            folder, settings, space=self._space, health=self._health, files=self._files, log=log, share=share
        )
        self._writer = LogWriter(
            self._pool,
            segment_size=settings.segment_size,
            health=self._health,
            space=self._space,
            files=self._files,
        )
        self._readers = ThreadPoolExecutor(READERS, "spool-read")
        self._streamers = ThreadPoolExecutor(STREAM_WRITERS, "spool-stream")
        self._quarantine = folder / "quarantine"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock_file = -1
        self._synced: Told
        self._failed: Refused
        self._streaming: dict[int, float] = {}
        self._moved: dict[tuple[int, int, int], Location] = {}

    # Opening and recovering (blocking, before the loop) ------------------------------------------------------

    @classmethod
    def open(cls, folder: Path, settings: SpoolSettings, *, log: Log, share: Share = ALONE) -> Spool:
        """Open or create the spool; takes its lock and reads the headers of its segments.

        Args:
            share: Of a process that shares the spool with others: it inherits the lock, and sees its own logs.

        Raises:
            SpoolError: Not writable, or another process has it, or a newer version wrote it.
        """
        spool = cls(folder, settings, log, share)
        try:
            spool._make_folders()
            if share.alone:
                spool._lock_file = take_lock(folder, ENDING)
            spool._pool.direct = can_write_direct(folder / LOCK)
            spool._pool.find()
            spool._space.refresh()
        except OSError as error:
            spool.close_files()
            raise SpoolError(
                f"cannot use the spool {folder}: {error.strerror}; it must be writable for this user"
            ) from error
        except SpoolError:
            spool.close_files()
            raise
        return spool

    def _make_folders(self) -> None:
        # mkdir's mode passes through the umask, chmod's does not.
        for folder in (self.folder, self._quarantine):
            make_folder(folder, 0o700)
            folder.chmod(0o700)

    @property
    def empty(self) -> bool:
        """Whether there is no segment at all: a new spool."""
        return not self._pool.segments

    def scan(self) -> Iterator[FoundRecord]:
        """Every record of every segment, in the order in which segments were begun, read and hashed. Blocking.

        Raises SpoolError when a segment cannot be read at all.
        """
        for segment in sorted(self._pool.segments.values(), key=lambda segment: segment.epoch):
            descriptor = self._open_segment(segment.path)
            try:
                yield from scan(descriptor, segment.number, segment.kind, segment.epoch)
            except OSError as error:
                raise SpoolError(f"cannot read segment {segment.number}: {error.strerror}") from error
            finally:
                os.close(descriptor)

    @staticmethod
    def _open_segment(path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise SpoolError(f"cannot open a segment: {error.strerror}") from error

    def holds(self, location: Location) -> bool:
        """Whether the segment is still in the use in which the record was written."""
        segment = self._pool.segments.get(location.segment)
        return segment is not None and segment.epoch == location.epoch

    @property
    def logs(self) -> list[int]:
        """Our own log, and those of which there is something and whose process there is not any more."""
        return sorted({self.share.worker} | {log_of(number) for number in self._pool.segments})

    def _segments_of(self, log: int) -> list[Segment]:
        """In the order of writing."""
        segments = [segment for number, segment in self._pool.segments.items() if log_of(number) == log]
        return sorted(segments, key=lambda segment: segment.epoch)

    def tail(
        self, after: LogPosition, known: Callable[[int, Location], bool] = lambda number, place: False, log: int = 0
    ) -> Iterator[FoundRecord]:
        """Every record that may lie behind this place, in the order of the log, read and hashed; synced before.

        What was written last before a crash may be whole without having been synced: from here on it can be relied
        upon. Streamed records have no place in the log: all are among them but those ``known``, by id and place.
        Blocking.

        Raises SpoolError when a segment cannot be synced or read at all.
        """
        for segment in self._segments_of(log):
            start = 0
            if segment.kind == KIND_LOG:
                start = after.offset if segment.epoch == after.epoch else 0
                if segment.epoch < after.epoch or start >= segment.size:
                    continue
            descriptor = self._open_segment(segment.path)
            try:
                if segment.kind == KIND_STREAM:
                    header = read_header_at(descriptor, FIRST_RECORD, segment.epoch)
                    if header is not None:
                        place = Location(segment.number, segment.epoch, FIRST_RECORD, header.length)
                        if known(header.id, place):
                            continue
                durable.sync_data(descriptor)
                yield from scan(descriptor, segment.number, segment.kind, segment.epoch, start=start)
            except OSError as error:
                raise SpoolError(f"cannot read segment {segment.number}: {error.strerror}") from error
            finally:
                os.close(descriptor)

    def end(self, log: int = 0) -> LogPosition:
        """A place behind everything that there is in a log. Before ``start``."""
        return LogPosition(max((segment.epoch for segment in self._segments_of(log)), default=0), _BEHIND_ALL)

    def adopt(self, live: Mapping[int, tuple[int, int]], position: LogPosition) -> None:
        """What still lives, by segment: (records, bytes). Every other segment may be overwritten or deleted from here
        on.

        Never call it with the counts of a ledger that has not been compared with this spool. Blocking.

        Args:
            position: Where the ledger stands in our own log: what is written from here on comes behind it.
        """
        self._pool.adopt(live, position)

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        synced: Callable[[Sequence[SpoolEntry], LogPosition | None], None],
        failed: Callable[[Sequence[SpoolEntry], SpoolError], None],
        broken: Callable[[SpoolError], None] | None = None,
    ) -> None:
        """Start the thread. ``synced`` and ``failed`` are called on the loop, never from within ``submit``; each entry
        is told of by exactly one of them.

        Args:
            synced: Gets the end of the log behind the entries too; None when none of them lies in the log.
            broken: Called once, in whatever thread meets it, when the disk has failed: nothing is stored from then on.
        """
        self._loop = loop
        self._health.on_failure = broken
        self._synced, self._failed = synced, failed
        self._writer.start(loop, synced=synced, failed=failed)

    @property
    def stuck_for(self) -> float:
        """Seconds for which records have waited for the disk without any of them getting there, or a step of a large
        one has."""
        since = list(self._streaming.values())
        return max(self._writer.stuck_for, time.monotonic() - min(since) if since else 0.0)

    async def close(self) -> None:
        """Finish what was submitted, stop the threads, give the lock back. Streams must have ended. Not to be
        cancelled."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._streamers.shutdown)
        await self._writer.close()
        await loop.run_in_executor(None, self.close_files)

    def close_files(self) -> None:
        """``close`` without a loop. Blocking."""
        self._streamers.shutdown()
        self._pool.shut()
        self._files.shutdown()
        self._writer.close_files()
        self._readers.shutdown()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    # Writing -----------------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """The disk has failed: nothing is stored any more. Any thread."""
        return self._health.failure is not None

    def submit(self, entry: SpoolEntry) -> None:
        """One whole small record, its data in ``entry.chunks``. Returns at once."""
        self._writer.submit(entry)

    def stream(self) -> SpoolStream:
        """Begin a large record, whose data need not fit into memory."""
        if self._loop is None:
            raise SpoolError("the spool has not been started")
        return SpoolStream(
            self._pool, self._health, self._loop, self._streamers, self._stream_ended, self.log, self._streaming
        )

    def growing(
        self, stream: SpoolStream, *, recent: list[Buffer], size: int, keep: int, released: Callable[[], None]
    ) -> GrowingData:
        """Let destinations read a large record while it is written; see ``GrowingData``."""
        if self._loop is None:
            raise SpoolError("the spool has not been started")
        return GrowingData(stream, self._loop, self._readers, recent=recent, size=size, keep=keep, released=released)

    def _stream_ended(self, stream: SpoolStream) -> None:
        entry = stream.entry
        if entry is None:
            return
        problem = stream.problem or self._health.failure
        if problem is not None:
            self._failed([entry], problem)
            return
        self._space.largest_object = max(self._space.largest_object, entry.info.size)
        self._synced([entry], None)

    def settled(self, locations: Sequence[Location]) -> None:
        """These records are not needed any more. Returns at once. Any thread.

        Saying so twice of one record changes nothing (and is logged: somebody's count is wrong).
        """
        self._pool.settle(locations)

    # Reading -----------------------------------------------------------------------------------------------

    def source(self, delivery: Delivery) -> StoredData:
        location = delivery.location
        return StoredData(
            delivery.instance, lambda: self._present(location), delivery.chunks, self._pool, self._readers
        )

    async def load(self, info: InstanceInfo, location: Location) -> list[Buffer]:
        """The whole data set of a small instance, verified. Cancelling it is safe.

        Raises:
            SpoolCorrupt: The record does not read back as it was written.
            SpoolError: It cannot be read, or nobody needs it any more.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, read_whole, self._pool, info, self._present(location))

    def _present(self, location: Location) -> Location:
        """Where a record lies now that lay here when its delivery was leased."""
        moved = self._moved
        while (new := moved.get((location.segment, location.epoch, location.offset))) is not None:
            location = new
        return location

    def ask_for_moved(self, place_now: Callable[[int], Location | None]) -> None:
        """How to learn where a record lies that another process has moved: by the id of its instance, in a thread."""
        self._pool.place_now = place_now

    def quarantine(self, location: Location) -> Path | None:
        """Copy the raw bytes of a damaged record aside, under a number; None if there is nothing to copy.

        The record stays where it is until it is settled. Blocking. Raises OSError, and SpoolError for a failed sync.
        """
        location = self._present(location)
        path = self._quarantine / f"{location.segment:010d}-{location.epoch}-{location.offset}.rec"
        try:
            source = self._pool.open(location)
        except SpoolError:
            return None
        try:
            with open(path, "wb", opener=_private) as target:
                try:
                    at, end = location.offset, location.offset + location.length
                    while at < end and (data := read_at(source, min(1 << 20, end - at), at)):
                        target.write(data)
                        at += len(data)
                    target.flush()
                except OSError:
                    path.unlink()  # half of it
                    raise
                durable.sync_data(target.fileno())
            durable.sync_directory(self._quarantine)
        except SpoolError as error:
            self._health.fail(error)
            raise
        finally:
            os.close(source)
        return path

    def quarantined(self) -> int:
        """How many damaged records lie aside. Blocking. Raises OSError."""
        return sum(1 for _ in self._quarantine.glob("*.rec"))

    # Compacting --------------------------------------------------------------------------------------------

    def compaction_candidates(self) -> list[int]:
        """Segments of the log that are mostly dead, the emptiest first; a few at a time."""
        return self._pool.candidates()

    async def move(self, info: InstanceInfo, decision: Decision, location: Location) -> Location:
        """Write one small record again at the end of the log, synced; gives its new place, of which only the caller
        knows. Ends with ``moved``, or by settling the new place.

        Raises SpoolCorrupt, SpoolError.
        """
        chunks = await self.load(info, location)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Location] = loop.create_future()

        def done(result: Location | SpoolError) -> None:
            loop.call_soon_threadsafe(_settle_future, future, result)

        self._writer.submit(Move(info, decision, chunks, done))
        return await future

    def moved(self, old: Location, new: Location) -> None:
        """The ledger has the new place: who was told the old one is led there, and the old one is settled.

        Not before: a copy that the ledger refused is settled, and whoever had been led to it would read what nobody
        keeps. Who is reading the old place meanwhile is safe by epoch and checksum: what is written over it never
        passes for the record, and the next attempt reads the new place.
        """
        if len(self._moved) >= MOVED_KEPT:
            del self._moved[next(iter(self._moved))]
        self._moved[old.segment, old.epoch, old.offset] = new
        self.settled([old])

    # Space -------------------------------------------------------------------------------------------------

    def below_associations_floor(self) -> bool:
        """Too little space for new associations. Costs nothing; the figure is a fraction of a second old."""
        return self._space.below_associations_floor()

    def below_objects_floor(self) -> bool:
        """Too little space for another object. Costs nothing; the figure is a fraction of a second old."""
        return self._space.below_objects_floor()

    def refresh_free(self) -> None:
        """Ask the file system now. Any thread; raises OSError."""
        self._space.refresh()

    def usage(self) -> SpoolUsage:
        total, live = self._pool.sizes()
        return SpoolUsage(total, live, self._space.free, self._space.largest_object)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _settle_future(future: asyncio.Future[Location], result: Location | SpoolError) -> None:
    if future.done():
        return
    if isinstance(result, SpoolError):
        future.set_exception(result)
    else:
        future.set_result(result)
