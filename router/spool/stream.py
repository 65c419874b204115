"""A large object on its way to the disk while it still arrives, in a segment of its own.

The loop queues pieces; a thread writes them, in order, and syncs every few MiB so that the end is short. The record's header is
written last, by the spool thread, when the data is already synced: until then nothing in the segment can be taken for a record.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from threading import Lock
from typing import TYPE_CHECKING

from router.errors import SpoolError, SpoolFull
from router.ports import SpoolEntry
from router.spool import durable
from router.spool.segment import FIRST_RECORD, STREAM_DATA_OFFSET, Segment, write_all

if TYPE_CHECKING:
    from router.spool.spool import Spool

SYNC_EVERY = 16 << 20


class SpoolStream:
    """Made by ``Spool.stream``; all calls on the loop. Ends with exactly one of ``finish`` and ``discard``."""

    def __init__(self, spool: Spool, loop: asyncio.AbstractEventLoop, executor: Executor) -> None:
        self._spool = spool
        self._loop = loop
        self._executor = executor
        self._lock = Lock()
        self._queue: deque[bytes] = deque()
        self._working = False
        self._low = 0
        self._drained: Callable[[], None] | None = None
        self._entry: SpoolEntry | None = None
        self._discarded = False
        self.pending = 0
        """Bytes queued and not yet written."""
        self.segment: Segment | None = None
        self.size = 0
        """Bytes written to the segment."""
        self.problem: SpoolError | None = None
        self._unsynced = 0

    def on_drain(self, low: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop whenever ``pending`` has fallen to ``low`` bytes."""
        self._low = low
        self._drained = callback

    def write(self, chunk: bytes) -> None:
        """Never blocks; look at ``pending``."""
        self.pending += len(chunk)
        with self._lock:
            self._queue.append(chunk)
            start = not self._working
            self._working = True
        if start:
            self._executor.submit(self._work)

    def finish(self, entry: SpoolEntry) -> None:
        """All pieces are in: the record joins the group commit when they are on the disk."""
        with self._lock:
            self._entry = entry
            start = not self._working
            self._working = True
        if start:
            self._executor.submit(self._work)

    def discard(self) -> None:
        """Nothing is kept; the segment is free again as soon as the thread has let go of it."""
        with self._lock:
            self._discarded = True
            self._queue.clear()
            start = not self._working
            self._working = True
        self._drained = None
        if start:
            self._executor.submit(self._work)

    # In a thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                chunks = list(self._queue)
                self._queue.clear()
                entry, discarded = self._entry, self._discarded
                if not chunks and entry is None and not discarded:
                    self._working = False
                    return
            if discarded:
                segment, self.segment = self.segment, None
                if segment is not None:
                    self._spool.stream_abandoned(segment)
                return
            if chunks:
                self._write(chunks)
                self._loop.call_soon_threadsafe(self._written, sum(map(len, chunks)))
                continue
            if entry is not None:
                self._finish(entry)
                return

    def _write(self, chunks: list[bytes]) -> None:
        if self.problem is not None:
            return
        try:
            if self.segment is None:
                self.segment = self._spool.segment_for_stream()
            descriptor = self.segment.descriptor
            offset = FIRST_RECORD + STREAM_DATA_OFFSET + self.size
            written = write_all(descriptor, chunks, offset)
            self.size += written
            self._unsynced += written
            if self._unsynced >= SYNC_EVERY:
                durable.sync_data(descriptor)
                self._unsynced = 0
        except OSError as error:
            self.problem = self._spool.problem_of(error)
        except SpoolFull as error:
            self.problem = error

    def _finish(self, entry: SpoolEntry) -> None:
        if self.problem is None and self.segment is not None:
            try:
                durable.sync_data(self.segment.descriptor)
            except OSError as error:
                self.problem = self._spool.problem_of(error)
        self._spool.submit_stream(entry, self)

    # On the loop -------------------------------------------------------------------------------------------

    def _written(self, size: int) -> None:
        before = self.pending
        self.pending = before - size
        if self._drained is not None and before > self._low >= self.pending:
            self._drained()
