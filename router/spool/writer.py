"""The spool's thread: group commit.

It takes everything that waits, writes it in one piece, syncs, tells ``synced``; the next group gathers meanwhile.
There is no artificial wait: alone, an object is a group of one; under load the sync of one group is the time in which
the next one grows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import ftruncate

from router.errors import SpoolError, fault_location
from router.model import Decision, InstanceInfo, Location, LogPosition
from router.ports import Log, SpoolEntry
from router.spool import durable
from router.spool.health import Health
from router.spool.pool import Segment, SegmentPool
from router.spool.record import align, encode_record
from router.spool.segment import BLOCK, FIRST_RECORD, KIND_LOG, SegmentFile, write_mark
from router.spool.space import Space
from router.spool.staging import Staging
from router.spool.stream import SpoolStream

GROUP_ENTRIES = 512
GROUP_BYTES = 16 << 20
"""A larger group gains nothing: at 4 MiB the sync already runs at the bandwidth of the disk."""
STAGING = 4 << 20
"""Bytes assembled for one write of the kernel."""
REFRESH = 1.0
"""Seconds after which the free space is asked for again, without groups."""
REFRESH_BUSY = 0.1

Told = Callable[[Sequence[SpoolEntry], LogPosition | None], None]
"""Entries, and the end of the log behind them; None when none of them lies in the log."""
Refused = Callable[[Sequence[SpoolEntry], SpoolError], None]


@dataclass(slots=True, eq=False)
class Move:
    """A record that goes to another place without being news to the ledger's receiving side."""

    info: InstanceInfo
    decision: Decision
    chunks: list[bytes]
    done: Callable[[Location | SpoolError], None]
    """Called in the spool's thread, exactly once."""


class _Close:
    """Ends the queue."""


Item = SpoolEntry | Move | SpoolStream | _Close


class _OpenLog:
    """The segment that the log goes to now."""

    __slots__ = ("file", "marked", "position", "segment")

    def __init__(self, segment: Segment, file: SegmentFile) -> None:
        self.segment = segment
        self.file = file
        self.position = FIRST_RECORD
        """Where the next group goes; everything below is synced."""
        self.marked = FIRST_RECORD
        """What its sync mark says."""


class GroupWriter:
    """Owns the thread and the open segment of the log. ``submit`` may be called from any thread, the rest from the
    owner's."""

    def __init__(self, pool: SegmentPool, *, segment_size: int, health: Health, space: Space, log: Log) -> None:
        self._pool = pool
        self._segment_size = segment_size
        self._health = health
        self._space = space
        self._log = log
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open: _OpenLog | None = None
        self._staging = Staging(STAGING)
        self._refreshed_at = 0.0
        self._synced: Told = _nobody
        self._failed: Refused = _nobody_refused

    def start(self, *, synced: Told, failed: Refused) -> None:
        self._synced, self._failed = synced, failed
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def submit(self, item: SpoolEntry | Move | SpoolStream) -> None:
        self._queue.put(item)

    def close(self) -> None:
        """Commit what was submitted and end the thread. Blocking."""
        if self._thread is not None:
            self._queue.put(_Close())
            self._thread.join()
            self._thread = None

    # The thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            try:
                items = [self._queue.get(timeout=REFRESH)]
            except queue.Empty:
                self._rest()
                continue
            size = _size(items[0])
            with suppress(queue.Empty):
                while len(items) < GROUP_ENTRIES and size < GROUP_BYTES:
                    items.append(self._queue.get_nowait())
                    size += _size(items[-1])
            kept = [item for item in items if not isinstance(item, _Close)]
            closing = len(kept) < len(items)
            if kept:
                self._group(kept)
        self._close_log()

    def _group(self, items: list[SpoolEntry | Move | SpoolStream]) -> None:
        group = _Group(items)
        try:
            if self._health.failure is not None:
                self._refuse(group.all(), self._health.failure)
                return
            self._commit(group)
        except Exception as error:
            # A bug of ours, here or in what we call. Whether the group is durable is now unknown: as after a failed
            # sync.
            self._log.error("the spool's thread met a fault", place=fault_location(error))
            problem = SpoolError("the spool's thread met a fault")
            self._health.fail(problem)
            self._refuse(group.unanswered(), problem)
        if time.monotonic() > self._refreshed_at + REFRESH_BUSY:
            self._refresh()

    def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        try:
            self._space.refresh()
        except OSError as error:
            self._health.judge(error)

    def _rest(self) -> None:
        """Nothing has come for a while."""
        self._refresh()
        log = self._open
        if log is None or log.marked == log.position:
            return
        try:
            # No later record says how far the segment is known to be whole.
            write_mark(log.file.descriptor, log.segment.epoch, log.position)
        except OSError as error:
            self._health.judge(error)
        log.marked = log.position

    def _commit(self, group: _Group) -> None:
        try:
            log = self._write_log(group)
            for stream in group.streams:
                if self._write_stream(group, stream) and stream.file is not None:
                    durable.sync_data(stream.file.descriptor)
        except durable.SyncFailed as error:
            self._health.fail(error)
            self._refuse(group.unanswered(), error)
            return
        answered = group.unanswered()
        group.answered = True
        entries = group.entries()
        if entries:
            self._synced(entries, LogPosition(log.segment.epoch, log.position) if log is not None else None)
        for item in answered:
            if isinstance(item, Move):
                item.done(group.moved[item])
        for stream in group.streams:
            try:
                stream.keep()
            except OSError as error:
                self._health.judge(error)

    def _write_log(self, group: _Group) -> _OpenLog | None:
        """All small records of the group, one behind the other, synced. What cannot be written is refused, and the
        rest goes on. Raises SyncFailed."""
        if not group.logged:
            return None
        try:
            log = self._log_segment()
        except SpoolError as error:
            self._refuse(group.drop(group.logged), error)
            return None
        segment, start = log.segment, log.position
        epoch = segment.epoch
        buffers: list[bytes] = []
        places: list[tuple[SpoolEntry | Move, Location]] = []
        at, total = start, 0
        for item in group.logged:
            try:
                record, length = encode_record(item.info, item.decision, item.chunks or (), epoch=epoch, synced=start)
            except SpoolError as error:
                self._refuse(group.drop([item]), error)
                continue
            buffers += record
            places.append((item, Location(segment.number, epoch, at, length)))
            at += align(length)
            total += length
            if item.info.size > self._space.largest_object:
                self._space.largest_object = item.info.size
        if not places:
            return None
        try:
            end = durable.write_and_sync(log.file.bulk, buffers, start, self._staging.memory)
        except OSError as error:
            problem = self._health.judge(error)
            self._cut(log)
            self._refuse(group.drop([item for item, _ in places]), problem)
            return None
        log.position = end
        self._pool.add(segment, len(places), total, end)
        for item, location in places:
            if isinstance(item, Move):
                group.moved[item] = location
            else:
                item.location = location
        return log

    def _write_stream(self, group: _Group, stream: SpoolStream) -> bool:
        problem = stream.problem
        segment = stream.segment
        entry = stream.entry
        if problem is None and segment is not None and entry is not None:
            try:
                length = stream.write_header()
            except (OSError, SpoolError) as error:
                # A size that does not fit is one entry's trouble, an error of the disk everybody's.
                problem = self._health.judge(error) if isinstance(error, OSError) else error
            else:
                entry.location = Location(segment.number, segment.epoch, FIRST_RECORD, length)
                self._pool.add(segment, 1, length, align(FIRST_RECORD + length, BLOCK))
                self._space.largest_object = max(self._space.largest_object, entry.info.size)
                return True
        stream.let_go()
        self._refuse(group.drop([stream]), problem or SpoolError("a stream without data"))
        return False

    def _refuse(self, items: Sequence[SpoolEntry | Move | SpoolStream], problem: SpoolError) -> None:
        entries: list[SpoolEntry] = []
        for item in items:
            if isinstance(item, Move):
                item.done(problem)
            elif isinstance(item, SpoolStream):
                item.let_go()
                if item.entry is not None:
                    entries.append(item.entry)
            else:
                entries.append(item)
        if entries:
            self._failed(entries, problem)

    # The open segment --------------------------------------------------------------------------------------

    def _log_segment(self) -> _OpenLog:
        """The open segment, or a new one when it is full; the group that crosses its end still goes in whole."""
        log = self._open
        if log is not None and log.position < self._segment_size:
            return log
        self._close_log()
        self._open = log = _OpenLog(*self._pool.take(KIND_LOG))
        self._pool.prepare()
        return log

    def _close_log(self) -> None:
        log, self._open = self._open, None
        if log is None:
            return
        try:
            write_mark(log.file.descriptor, log.segment.epoch, log.position)
        except OSError as error:
            self._health.judge(error)
        self._pool.close(log.segment, log.file)

    def _cut(self, log: _OpenLog) -> None:
        """A write failed half way: drop what there is of it, and leave the segment, so that nothing of it is ever
        found."""
        try:
            ftruncate(log.file.descriptor, log.position)
            log.segment.size = log.position
        except OSError as error:
            self._health.judge(error)
        self._close_log()


class _Group:
    """What is written and synced together."""

    def __init__(self, items: Sequence[SpoolEntry | Move | SpoolStream]) -> None:
        self.logged: list[SpoolEntry | Move] = [item for item in items if not isinstance(item, SpoolStream)]
        self.streams = [item for item in items if isinstance(item, SpoolStream)]
        self.moved: dict[Move, Location] = {}
        self.answered = False

    def all(self) -> list[SpoolEntry | Move | SpoolStream]:
        return [*self.logged, *self.streams]

    def unanswered(self) -> list[SpoolEntry | Move | SpoolStream]:
        return [] if self.answered else self.all()

    def drop(self, items: Sequence[SpoolEntry | Move | SpoolStream]) -> Sequence[SpoolEntry | Move | SpoolStream]:
        """These leave the group; gives them."""
        gone = set(map(id, items))
        self.logged = [item for item in self.logged if id(item) not in gone]
        self.streams = [item for item in self.streams if id(item) not in gone]
        return items

    def entries(self) -> list[SpoolEntry]:
        """What the ledger hears of."""
        entries: list[SpoolEntry] = [item for item in self.logged if not isinstance(item, Move)]
        entries.extend(stream.entry for stream in self.streams if stream.entry is not None)
        return entries


def _size(item: Item) -> int:
    return 0 if isinstance(item, SpoolStream | _Close) else item.info.size


def _nobody(entries: Sequence[SpoolEntry], position: LogPosition | None) -> None:
    """Before ``start``."""


def _nobody_refused(entries: Sequence[SpoolEntry], problem: SpoolError) -> None:
    """Before ``start``."""
