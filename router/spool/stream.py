"""A large object on its way to the disk while it still arrives, in a segment of its own.

::

    loop      write ─▶ queue (``pending`` bytes)
    a thread              └─▶ write, a sync every 16 MiB, one at the end ─▶ header ─▶ sync
    loop                                                                                └─▶ finished

The header of the record is written last, when all data is already synced: until then nothing in the segment can be
taken for a record, and a header that is whole vouches for the data before it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock, get_ident, local

from router.errors import SpoolError, fault_location
from router.model import Location
from router.ports import Buffer, Log, SpoolEntry
from router.spool import durable
from router.spool.health import Health
from router.spool.pool import Segment, SegmentPool
from router.spool.record import FOOTER_SIZE, STREAMED, align, encode_footer, encode_header, encode_meta
from router.spool.segment import (
    BLOCK,
    FIRST_RECORD,
    KIND_STREAM,
    STREAM_DATA_OFFSET,
    SegmentFile,
    write_all,
    write_mark,
)
from router.spool.staging import Staging

SYNC_EVERY = 16 << 20
"""Bytes between syncs while streaming: the last one then has little left to do, and a failing disk is met early."""
STAGING = 1 << 20
"""Bytes assembled for one write, per thread."""
DATA_START = FIRST_RECORD + STREAM_DATA_OFFSET


class Unfit(SpoolError):
    """One entry is wrong; the disk is not."""


class SpoolStream:
    """Made by ``Spool.stream``; all calls on the loop. Ends with exactly one of ``finish`` and ``discard``.

    ``write`` never blocks and never raises: what goes wrong is remembered and told to ``finish``. How much may be
    pending is the caller's to decide: stop reading the socket above some MiB, and go on when ``on_drain`` calls.

    Args:
        at_work: The threads that do something for a stream, and since when (monotonic); one for all streams.
    """

    def __init__(
        self,
        pool: SegmentPool,
        health: Health,
        loop: asyncio.AbstractEventLoop,
        executor: Executor,
        finished: Callable[[SpoolStream], None],
        log: Log,
        at_work: dict[int, float],
    ) -> None:
        self._pool = pool
        self._health = health
        self._loop = loop
        self._executor = executor
        self._finished = finished
        self._log = log
        self._at_work = at_work
        self._lock = Lock()
        self._queue: deque[Buffer] = deque()
        self._working = False
        self._discarded = False
        self._low = 0
        self._drained: Callable[[], None] | None = None
        self.on_progress: Callable[[], None] | None = None
        """Called on the loop when more of it can be read from the segment."""
        self.on_freed: Callable[[int], None] | None = None
        """Called on the loop with how many bytes are not ``pending`` any more, also after ``finish`` or ``discard``."""
        self._written_size = 0
        self._unsynced = 0
        self.pending = 0
        """Bytes queued and not yet written."""
        self.entry: SpoolEntry | None = None
        """Given by ``finish``."""
        self.segment: Segment | None = None
        self.file: SegmentFile | None = None
        self.taken = 0
        """Bytes of the data set so far."""
        self.size = 0
        """Of them, those that the thread has taken."""
        self._tail = b""
        """Less than a block, waiting for what completes it."""
        self.problem: SpoolError | None = None

    # On the loop -------------------------------------------------------------------------------------------

    def on_drain(self, low: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop whenever ``pending`` has fallen to ``low`` bytes."""
        self._low = low
        self._drained = callback

    @property
    def readable(self) -> int:
        """Bytes of the data set that can be read from the segment: whole blocks. On the loop; means nothing unless
        ``sound``, which has to be asked after reading."""
        return max(0, self._written_size - (DATA_START + self._written_size) % BLOCK)

    @property
    def sound(self) -> bool:
        """The segment is still its own. What was read while this was False may be of another object."""
        return not self._discarded and self.problem is None

    def write(self, *chunks: Buffer) -> None:
        """Take the next bytes of the data set, kept by reference. Never blocks; look at ``pending``."""
        size = sum(map(len, chunks))
        if not size:
            return
        self.pending += size
        self.taken += size
        with self._lock:
            self._queue.extend(chunks)
        self._work_on()

    def finish(self, entry: SpoolEntry) -> None:
        """All pieces are in: the record joins the group commit when they are on the disk."""
        with self._lock:
            self.entry = entry
        self._work_on()

    def discard(self) -> None:
        """Nothing is kept; the segment is free again as soon as the thread has let go of it."""
        self._drained = self.on_progress = None
        with self._lock:
            self._discarded = True
            size = sum(map(len, self._queue))
            self._queue.clear()
        self._free(size)
        self._work_on()

    def _work_on(self) -> None:
        with self._lock:
            if self._working:
                return
            self._working = True
        # Once the spool has been closed its files belong to whoever opens it next.
        with suppress(RuntimeError):
            self._executor.submit(self._work)

    def _written(self, size: int) -> None:
        before = self.pending
        self._free(size)
        self._written_size += size
        if self.on_progress is not None:
            self.on_progress()
        if self._drained is not None and before > self._low >= self.pending:
            self._drained()

    def _free(self, size: int) -> None:
        self.pending -= size
        if self.on_freed is not None:
            self.on_freed(size)

    # In a thread, one at a time ----------------------------------------------------------------------------

    def _work(self) -> None:
        thread = get_ident()
        self._at_work[thread] = time.monotonic()
        try:
            self._take_a_step()
        finally:
            self._at_work.pop(thread, None)

    def _take_a_step(self) -> None:
        with self._lock:
            chunks = list(self._queue)
            self._queue.clear()
            entry, discarded = self.entry, self._discarded
            if not chunks and entry is None and not discarded:
                self._working = False
                return
        if discarded:
            self.let_go()
            return
        if not chunks and entry is not None:
            self._end(entry)
            self._loop.call_soon_threadsafe(self._finished, self)
            return
        self._write(chunks)
        self._loop.call_soon_threadsafe(self._written, sum(map(len, chunks)))
        try:
            # Behind the other streams that wait: one fast sender must not keep a thread to itself.
            self._executor.submit(self._work)
        except RuntimeError:
            self._work()  # the spool is closing: it waits for this thread, but takes no more work

    def _write(self, chunks: list[Buffer]) -> None:
        if self.problem is not None:
            return
        try:
            if self.file is None:
                self.segment, self.file = self._pool.take(KIND_STREAM)
            before = DATA_START + self.size - len(self._tail)
            size = sum(map(len, chunks))
            self.size += size
            self._unsynced += size
            rest = (self.size + DATA_START) % BLOCK
            if len(self._tail) + size < BLOCK:
                # Still no whole block, or just one: it can wait.
                self._tail = b"".join((self._tail, *chunks))
                return
            whole, tail = _split([self._tail, *chunks], rest)
            _staging().write(self.file.bulk, whole, before)
            self._tail = tail
            if self._unsynced >= SYNC_EVERY:
                durable.sync_data(self.file.descriptor)
                self._unsynced = 0
        except Exception as error:
            self._refuse(error)

    def _end(self, entry: SpoolEntry) -> None:
        """The last bytes and the footer; when all that is on the disk, the header, which makes a record of it."""
        if self.problem is not None:
            return
        try:
            segment, file = self.segment, self.file
            if segment is None or file is None or self.size != entry.info.size:
                raise Unfit("an entry has another size than its info says")
            footer = encode_footer(segment.epoch, entry.info.id, entry.info.checksum)
            end = _staging().write(file.bulk, [self._tail, footer], DATA_START + self.size - len(self._tail))
            if segment.size > 2 * end:
                # A segment that was used before by a much larger object gives the rest back.
                os.ftruncate(file.descriptor, end)
                segment.size = end
            durable.sync_data(file.descriptor)
            entry.location = self.write_header(entry, segment, file)
            durable.sync_data(file.descriptor)
            write_mark(file.descriptor, segment.epoch, align(DATA_START + self.size + FOOTER_SIZE, BLOCK))
            self.file = None  # whatever comes of closing it: not twice
            self._pool.close(segment, file)
        except Exception as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """Room is given back at once, before ``finish`` asks. Whatever was raised ends here: else nobody would go on
        with what waits, nor tell the loop."""
        if isinstance(error, Unfit):
            self.problem = error
        elif isinstance(error, OSError | SpoolError):
            self.problem = self._health.judge(error)
        else:
            self.problem = Unfit(f"fault of ours: {self._logged(error)}")
        self.let_go()

    def _logged(self, fault: Exception) -> str:
        where = fault_location(fault)
        self._log.error("fault while streaming", fault=where)
        return where

    def write_header(self, entry: SpoolEntry, segment: Segment, file: SegmentFile) -> Location:
        """Make a record of it; gives its place. Sync comes next. Raises SpoolError, OSError."""
        info = entry.info
        try:
            meta = encode_meta(info, entry.decision)
        except SpoolError as error:
            raise Unfit(str(error)) from error
        head = encode_header(
            info, meta, epoch=segment.epoch, synced=FIRST_RECORD, flags=STREAMED, data_offset=STREAM_DATA_OFFSET
        )
        write_all(file.descriptor, [head], FIRST_RECORD)
        length = STREAM_DATA_OFFSET + self.size + FOOTER_SIZE
        self._pool.add(segment, 1, length, align(FIRST_RECORD + length, BLOCK))
        return Location(segment.number, segment.epoch, FIRST_RECORD, length)

    def let_go(self) -> None:
        """Nothing of it counts."""
        segment, file = self.segment, self.file
        self.segment = self.file = None
        if segment is not None:
            try:
                self._pool.abandon(segment, file)
            except Exception as error:
                self._logged(error)


_local = local()


def _staging() -> Staging:
    """Of this thread."""
    staging: Staging | None = getattr(_local, "staging", None)
    if staging is None:
        staging = _local.staging = Staging(STAGING)
    return staging


def _split(chunks: list[Buffer], rest: int) -> tuple[list[Buffer], bytes]:
    """All but the last ``rest`` bytes, and those."""
    if not rest:
        return list(chunks), b""
    whole = list(chunks)
    tail: list[bytes] = []
    while rest:
        last = whole.pop()
        if len(last) > rest:
            view = memoryview(last)
            whole.append(view[:-rest])
            tail.append(bytes(view[-rest:]))
            break
        tail.append(bytes(last))
        rest -= len(last)
    return whole, b"".join(reversed(tail))
