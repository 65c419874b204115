"""The log: every record gets its place behind the last one, and is committed in groups.

::

    submit ─▶ place ─▶ committer (a thread without the interpreter): take all that waits ─▶ write ─▶ fdatasync
                                                                                                   │
    synced(entries, position) ◀── the loop, woken once for all that has been committed ◀───────────┘

There is no artificial wait: alone, an object is a group of one; under load the sync of one group is the time in which
the next one grows.

Everything is on the loop. What may take the disk a while (a new segment, marks, closing) is given to the thread of the
pool's files, in order.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from os import ftruncate

from router.errors import SpoolError
from router.model import Decision, InstanceInfo, Location, LogPosition
from router.ports import Buffer, SpoolEntry
from router.spool import durable
from router.spool.health import Health
from router.spool.pool import Segment, SegmentPool
from router.spool.record import align, encode_record
from router.spool.segment import FIRST_RECORD, KIND_LOG, SegmentFile, write_mark
from router.spool.space import Space

GROUP_BYTES = 16 << 20
"""A larger group gains nothing: at 4 MiB the sync already runs at the bandwidth of the disk."""
STAGING = 4 << 20
"""Bytes assembled for one write of the kernel."""
REFRESH = 0.25
"""Seconds after which the free space is asked for again, and a resting segment gets its sync mark."""

Told = Callable[[Sequence[SpoolEntry], LogPosition | None], None]
"""Entries, and the end of the log behind them; None when none of them lies in the log."""
Refused = Callable[[Sequence[SpoolEntry], SpoolError], None]


@dataclass(slots=True, eq=False)
class Move:
    """A record that goes to another place without being news to the ledger's receiving side."""

    info: InstanceInfo
    decision: Decision
    chunks: Sequence[Buffer]
    done: Callable[[Location | SpoolError], None]
    """Called exactly once."""


Item = SpoolEntry | Move


class _OpenLog:
    """A segment that the log goes to, or went to and is not yet committed throughout."""

    __slots__ = ("file", "in_flight", "left", "marked", "position", "segment", "synced", "untold", "untold_bytes")

    def __init__(self, segment: Segment, file: SegmentFile) -> None:
        self.segment = segment
        self.file = file
        self.position = FIRST_RECORD
        """Where the next record goes."""
        self.synced = FIRST_RECORD
        """Everything below is committed."""
        self.marked = FIRST_RECORD
        """What its sync mark says."""
        self.in_flight = 0
        self.untold = self.untold_bytes = 0
        """Records that are committed and not yet counted by the pool, and their bytes."""
        self.left = False
        """Nothing more goes there."""


class LogWriter:
    """See the module's text.

    Args:
        files: One thread for whatever opens, marks or closes files.
    """

    def __init__(self, pool: SegmentPool, *, segment_size: int, health: Health, space: Space, files: Executor) -> None:
        self._pool = pool
        self._segment_size = segment_size
        self._health = health
        self._space = space
        self._files = files
        self._loop: asyncio.AbstractEventLoop
        self._committer: durable.Committer | None = None
        self._waiting: deque[Item] = deque()
        self._open: _OpenLog | None = None
        self._next: _OpenLog | None = None
        """Taken ahead of need, so that nobody waits for it."""
        self._taking = False
        self._in_flight = 0
        self._moved_at = 0.0
        """When something was last committed, or first submitted after a rest; loop time."""
        self._problem: SpoolError | None = None
        """What a write met; nothing is placed until all that was behind it has come back."""
        self._refreshing = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None
        self._synced: Told = _nobody
        self._failed: Refused = _nobody_refused

    def start(self, loop: asyncio.AbstractEventLoop, *, synced: Told, failed: Refused) -> None:
        self._loop, self._synced, self._failed = loop, synced, failed
        self._committer = durable.Committer(STAGING, GROUP_BYTES)
        loop.add_reader(self._committer.fileno(), self._committed)
        self._tick()

    def submit(self, item: Item) -> None:
        """Returns at once; what becomes of it is told later, never from within."""
        if not self._in_flight and not self._waiting:
            self._moved_at = self._loop.time()
        self._waiting.append(item)
        self._place()

    @property
    def stuck_for(self) -> float:
        """Seconds for which records have waited for the disk without any of them getting there."""
        return self._loop.time() - self._moved_at if self._in_flight or self._waiting else 0.0

    async def close(self) -> None:
        """Commit what was submitted."""
        if self._committer is None:
            return
        if self._waiting or self._in_flight:
            self._closing = self._loop.create_future()
            await self._closing
        self._loop.remove_reader(self._committer.fileno())
        if self._timer is not None:
            self._timer.cancel()

    def close_files(self) -> None:
        """End the thread and let go of the segments. Blocking; the files' thread must have ended."""
        if self._committer is not None:
            self._committer.close()
            self._committer = None
        if self._open is not None:
            self._close(self._open)
        if self._next is not None:
            self._pool.abandon(self._next.segment, self._next.file)
        self._open = self._next = None

    # Placing -----------------------------------------------------------------------------------------------

    def _place(self) -> None:
        waiting = self._waiting
        while waiting:
            failure = self._health.failure
            if failure is not None:
                gone, self._waiting = list(waiting), deque()
                self._loop.call_soon(self._refuse, gone, failure)
                return
            if self._problem is not None:
                return
            log = self._open
            if log is None or log.position >= self._segment_size:
                log = self._go_on()
                if log is None:
                    return
            if self._committer is None:
                raise SpoolError("the spool is closed")
            item = waiting.popleft()
            segment, start, info = log.segment, log.position, item.info
            try:
                record, length = encode_record(
                    info, item.decision, item.chunks or (), epoch=segment.epoch, synced=log.synced
                )
                placed = log, item, Location(segment.number, segment.epoch, start, length)
                self._committer.submit(log.file.bulk, record, start, placed)
            except Exception as error:
                # Also for a fault of ours: nobody else has it any more, so nobody else would answer it.
                problem = (
                    error if isinstance(error, SpoolError) else SpoolError(f"fault of ours: {type(error).__name__}")
                )
                self._loop.call_soon(self._refuse, [item], problem)
                continue
            log.position = start + align(length)
            log.in_flight += 1
            self._in_flight += 1
            if info.size > self._space.largest_object:
                self._space.largest_object = info.size
            if log.position > self._segment_size // 2 and self._next is None:
                self._take()

    def _go_on(self) -> _OpenLog | None:
        """The next segment; None while it is not there. The record that crosses the end of one still goes in whole."""
        if self._open is not None:
            self._leave(self._open)
        self._open, self._next = self._next, None
        if self._open is None:
            self._take()
        return self._open

    def _take(self) -> None:
        if not self._taking:
            self._taking = True
            self._in_files(self._take_one)

    def _take_one(self) -> None:
        """In the files' thread."""
        try:
            taken: _OpenLog | SpoolError = _OpenLog(*self._pool.take(KIND_LOG))
        except Exception as error:
            # Also for a fault of ours: nobody else tells those that wait.
            taken = error if isinstance(error, SpoolError) else SpoolError(f"fault of ours: {type(error).__name__}")
        self._loop.call_soon_threadsafe(self._taken, taken)

    def _taken(self, taken: _OpenLog | SpoolError) -> None:
        self._taking = False
        if isinstance(taken, _OpenLog):
            self._next = taken
        elif self._open is None or self._open.position >= self._segment_size:
            gone, self._waiting = list(self._waiting), deque()
            self._refuse(gone, taken)
        self._place()
        self._end_if_idle()

    def _leave(self, log: _OpenLog) -> None:
        log.left = True
        if not log.in_flight:
            self._in_files(self._close, log)

    def _close(self, log: _OpenLog) -> None:
        """Blocking."""
        try:
            write_mark(log.file.descriptor, log.segment.epoch, log.synced)
        except OSError as error:
            self._health.judge(error)
        self._pool.close(log.segment, log.file)

    def _in_files(self, work: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # it has ended: who closes does the rest
            self._files.submit(work, *arguments)

    # What has been committed -------------------------------------------------------------------------------

    def _committed(self) -> None:
        if self._committer is None:
            return
        entries: list[SpoolEntry] = []
        moves: list[tuple[Move, Location]] = []
        logs: list[_OpenLog] = []
        position: LogPosition | None = None
        refused: list[Item] = []
        self._moved_at = self._loop.time()
        for (log, item, location), write_problem, sync_problem in self._committer.done():
            if not logs or log is not logs[-1]:
                logs.append(log)
            self._in_flight -= 1
            log.in_flight -= 1
            if write_problem or sync_problem:
                self._met(log, location, write_problem, sync_problem)
                refused.append(item)
                continue
            log.synced = location.offset + align(location.length)
            log.untold += 1
            log.untold_bytes += location.length
            if type(item) is Move:
                moves.append((item, location))
            else:
                item.location = location
                entries.append(item)
        for log in logs:
            if log.untold:
                self._pool.add(log.segment, log.untold, log.untold_bytes, log.synced)
                position = LogPosition(log.segment.epoch, log.synced)
                log.untold = log.untold_bytes = 0
            if log.left and not log.in_flight:
                self._in_files(self._close, log)
        try:
            if entries:
                self._synced(entries, position)
        finally:  # a fault of whoever is told is for the loop to tell; others wait
            for move, location in moves:
                move.done(location)
            if self._problem is not None:
                problem = self._problem
                if not self._in_flight:
                    self._problem = None
                    self._committer.reset()
                self._refuse(refused, problem)
            self._place()
            self._end_if_idle()

    def _met(self, log: _OpenLog, location: Location, write_problem: int, sync_problem: int) -> None:
        """A record did not reach the disk. The segment is left, and what there is of the record dropped, so that
        nothing of it is ever found."""
        if self._problem is None:
            if sync_problem:
                self._problem = durable.SyncFailed(f"sync failed: {os.strerror(sync_problem)}")
                self._health.fail(self._problem)
            else:
                # Cancelled without a cause: a fault of ours.
                number = errno.EIO if write_problem == errno.ECANCELED else write_problem
                self._problem = self._health.judge(OSError(number, os.strerror(number)))
            self._in_files(self._cut, log, location.offset)
        if log is self._open:
            log.left = True  # closed by who counts it down
            self._open = None

    def _cut(self, log: _OpenLog, offset: int) -> None:
        """In the files' thread."""
        try:
            ftruncate(log.file.descriptor, offset)
            log.segment.size = offset
        except OSError as error:
            self._health.judge(error)

    def _refuse(self, items: Sequence[Item], problem: SpoolError) -> None:
        entries: list[SpoolEntry] = []
        for item in items:
            if isinstance(item, Move):
                item.done(problem)
            else:
                entries.append(item)
        if entries:
            self._failed(entries, problem)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._closing is not None and not self._closing.done() and not self._waiting and not self._in_flight:
            self._closing.set_result(None)

    # Now and then ------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(REFRESH, self._tick)
        log = self._open
        if log is not None and not log.in_flight and log.marked < log.synced:
            # No later record says how far the segment is known to be whole.
            log.marked = log.synced
            self._in_files(self._mark, log, log.synced)
        if not self._refreshing:
            self._refreshing = True
            self._in_files(self._refresh)

    def _mark(self, log: _OpenLog, synced: int) -> None:
        """In the files' thread."""
        try:
            write_mark(log.file.descriptor, log.segment.epoch, synced)
        except OSError as error:
            self._health.judge(error)

    def _refresh(self) -> None:
        """In the files' thread."""
        try:
            self._space.refresh()
        except OSError as error:
            self._health.judge(error)
        self._refreshing = False


def _nobody(entries: Sequence[SpoolEntry], position: LogPosition | None) -> None:
    """Before ``start``."""


def _nobody_refused(entries: Sequence[SpoolEntry], problem: SpoolError) -> None:
    """Before ``start``."""
