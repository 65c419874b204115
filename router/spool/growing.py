"""A large object that is read while it still arrives: from memory what came last, from its segment what came before.

::

    reception ─ append ─▶ recent chunks ─┬─▶ source of one destination ─▶ its association
                  └─▶ SpoolStream ─▶ segment ─┘   (whoever lags behind reads here)

Memory is bounded whatever the speed of the destinations: what is kept is ``keep`` bytes, or what the disk has not
taken yet, and the chunks are those that the stream holds anyway. A destination that is slower than the sender falls
behind into the file and costs the sender nothing.

What a source gives is hashed. It ends only when the object is stored, owed, and the same to the last byte, so nobody
can send a last fragment of anything else. A segment that was given up may be overwritten by another object while it is
read: that is looked at after each read, and nothing of it leaves.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from threading import Lock

import xxhash

from router._blocks import PIECE_SIZE, read_piece
from router.errors import SpoolCorrupt, SpoolError
from router.model import InstanceInfo
from router.ports import Buffer
from router.spool.segment import BLOCK
from router.spool.staging import read_past_cache
from router.spool.stream import DATA_START, SpoolStream


class GrowingData:
    """Implements ``ports.GrowingObject``. Made by ``Spool.growing``; all calls on the loop.

    Args:
        size: Bytes of the data set that the stream has got before; what follows goes to both.
        recent: The last of these that are still in memory.
        keep: Bytes of what came last that are kept in memory although the disk has them.
        released: Called once, when no source is left that needs the memory.
    """

    def __init__(
        self,
        stream: SpoolStream,
        loop: asyncio.AbstractEventLoop,
        executor: Executor,
        *,
        recent: list[Buffer],
        size: int,
        keep: int,
        released: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.loop = loop
        self.executor = executor
        self.size = size
        """Bytes so far."""
        self.start = size - sum(map(len, recent))
        """Where what is in memory begins."""
        self.recent: deque[Buffer] = deque(recent)
        self.first = 0
        """The number of the first chunk in memory, counted from the beginning."""
        self._keep = keep
        self._released: Callable[[], None] | None = released
        self._sources: set[GrowingStoredData] = set()

    def source(self) -> GrowingStoredData:
        self.stream.on_progress = self._progress
        source = GrowingStoredData(self)
        self._sources.add(source)
        return source

    def append(self, *chunks: Buffer) -> None:
        """The next bytes, which the stream has got too."""
        self.size += sum(map(len, chunks))
        if self._sources and chunks:
            self.recent.extend(chunks)
            self._progress()

    def left(self, source: GrowingStoredData | None = None) -> None:
        """A source has been closed, or none was asked for."""
        if source is not None:
            self._sources.discard(source)
        if not self._sources and self._released is not None:
            self.stream.on_progress = None
            self.recent.clear()
            self._released()
            self._released = None

    def _progress(self) -> None:
        recent, readable = self.recent, self.stream.readable
        while recent and self.size - self.start - len(recent[0]) >= self._keep:
            if self.start + len(recent[0]) > readable:
                break
            self.start += len(recent.popleft())
            self.first += 1
        for source in self._sources:
            source.wake()


class GrowingStoredData:
    """Implements ``ports.GrowingSource``."""

    size = None
    buffers = None

    def __init__(self, data: GrowingData) -> None:
        self._data = data
        self._info: InstanceInfo | None = None
        self._failed = False
        self._waiter: asyncio.Future[None] | None = None
        self._lock = Lock()
        self._descriptor = -1
        self._closed = False
        self.given = 0
        self.ended = False

    @property
    def starved(self) -> bool:
        return self._waiter is not None and self.given >= self._data.size

    def complete(self, info: InstanceInfo) -> None:
        self._info = info
        self.wake()

    def fail(self) -> None:
        self._failed = True
        self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def chunks(self) -> AsyncIterator[Buffer]:
        """In order, bounded memory. Cancelling it is safe.

        Raises:
            SpoolCorrupt: What was given is not what was stored.
            SpoolError: The object has failed, or its segment cannot be read.
        """
        data = self._data
        hasher = xxhash.xxh3_128()
        chunk: Buffer
        number = -1  # of the next chunk in memory; -1 while what comes next is read from the segment
        while True:
            self._check()
            info = self._info
            if info is not None and self.given >= info.size:
                break
            if self.given < data.start:
                number = -1
                readable = data.stream.readable if info is None else info.size
                end = min(self.given + PIECE_SIZE - (DATA_START + self.given) % BLOCK, data.start, readable)
                if end > self.given:
                    chunk = await self._read(self.given, end - self.given)
                    hasher.update(chunk)
                    self.given += len(chunk)
                    yield chunk
                    continue
            else:
                if number < 0:
                    number = data.first
                if number - data.first < len(data.recent):
                    chunk = data.recent[number - data.first]
                    number += 1
                    hasher.update(chunk)
                    self.given += len(chunk)
                    yield chunk
                    continue
            self._waiter = data.loop.create_future()
            await self._waiter
        if self.given != info.size or hasher.digest() != info.checksum:
            raise SpoolCorrupt("what was sent is not what was stored")
        self.ended = True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.fail()
        self._data.left(self)
        try:
            # In a thread, since one may be reading.
            self._data.executor.submit(self._close_file)
        except RuntimeError:  # the spool has been closed
            self._close_file()

    def _check(self) -> None:
        if self._failed or not self._data.stream.sound:
            raise SpoolError("the object will not be stored")

    async def _read(self, at: int, length: int) -> memoryview:
        try:
            chunk = await self._data.loop.run_in_executor(self._data.executor, self._read_file, at, length)
        except OSError as error:
            raise SpoolError(f"cannot read the spool: {error.strerror}") from error
        self._check()
        if len(chunk) != length:
            raise SpoolError("the segment is shorter than what was written to it")
        return chunk

    # In a thread -------------------------------------------------------------------------------------------

    def _read_file(self, at: int, length: int) -> memoryview:
        with self._lock:
            segment = self._data.stream.segment
            if self._closed or segment is None:
                raise SpoolError("the object will not be stored")
            if self._descriptor < 0:
                self._descriptor = os.open(segment.path, os.O_RDONLY)
                # Where that is refused: what lies ahead is still being written, and nothing of it may be read early.
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                read_past_cache(self._descriptor)
            return read_piece(self._descriptor, DATA_START + at, length)

    def _close_file(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
