"""Reading records back, verified: the whole of a small one, or a large one piece by piece.

The checksum is computed before anything is sent (small), or before the last piece is given out (large): a damaged
object never reaches a destination whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

import xxhash

from router._blocks import read_piece
from router.errors import SpoolCorrupt, SpoolError
from router.model import InstanceInfo, Location
from router.ports import Buffer
from router.spool.pool import SegmentPool
from router.spool.record import FOOTER_SIZE, HEADER_SIZE, META_LIMIT, Header, decode_header, footer_is_whole
from router.spool.staging import read_past_cache

CACHED = 64 << 10
"""Bytes of data up to which a record is read through the page cache: its neighbours come with it, and are read next."""


def read_head(descriptor: int, info: InstanceInfo, location: Location) -> Header:
    """The header at ``location``; raises SpoolCorrupt unless its data is that of the instance, and OSError.

    Its id may be another: that of an identical duplicate which took the place of an older record.
    """
    data_offset = location.length - info.size - FOOTER_SIZE
    if data_offset < HEADER_SIZE:
        raise SpoolCorrupt("record is not the one that the ledger knows")
    header = decode_header(os.pread(descriptor, min(data_offset, HEADER_SIZE + META_LIMIT), location.offset))
    if header is None or header.epoch != location.epoch:
        raise SpoolCorrupt("record header damaged")
    if header.data_length != info.size or header.checksum != info.checksum or header.data_offset != data_offset:
        raise SpoolCorrupt("record is not the one that the ledger knows")
    return header


def open_record(pool: SegmentPool, info: InstanceInfo, location: Location) -> tuple[int, Header, Location]:
    """A descriptor of its segment, which the caller closes, its header and where it lies now. Blocking.

    Another process may have moved the record since it was leased; the ledger knows.

    Raises SpoolCorrupt, SpoolError, OSError.
    """
    descriptor = -1
    try:
        descriptor = pool.open(location)
        return descriptor, read_head(descriptor, info, location), location
    except (OSError, SpoolError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        if not isinstance(error, SpoolCorrupt) or not pool.foreign(location):
            raise
        place = pool.place_now(info.id)
        if place is None:
            raise SpoolError("the record has been settled") from None
        if place == location:
            raise
    return open_record(pool, info, place)


def read_whole(pool: SegmentPool, info: InstanceInfo, location: Location) -> list[Buffer]:
    """The data set, verified. Blocking; for small objects. Raises SpoolCorrupt, SpoolError."""
    try:
        descriptor, header, location = open_record(pool, info, location)
        try:
            if header.data_length > CACHED:
                read_past_cache(descriptor)
            hasher = xxhash.xxh3_128()
            data: list[Buffer] = []
            for piece in _pieces(descriptor, location.offset + header.data_offset, header.data_length):
                hasher.update(piece)
                data.append(piece)
        finally:
            os.close(descriptor)
        if hasher.digest() != header.checksum:
            raise SpoolCorrupt("data does not match its checksum")
    except SpoolCorrupt as error:
        raise _explained(pool, info, location, error) from None
    except OSError as error:
        raise SpoolError(f"cannot read the spool: {error.strerror}") from error
    return data


def _pieces(descriptor: int, at: int, left: int) -> Iterator[Buffer]:
    """So many bytes, in order. Blocking. Raises SpoolCorrupt where the file ends before, OSError."""
    while left:
        piece = read_piece(descriptor, at, left)
        if not len(piece):
            raise SpoolCorrupt("data cut short")
        at += len(piece)
        left -= len(piece)
        yield piece


def _explained(pool: SegmentPool, info: InstanceInfo, location: Location, error: SpoolCorrupt) -> SpoolError:
    """Not corrupt if somebody settled or moved the record, and something else was written over it while we read."""
    if pool.foreign(location):
        return error if pool.place_now(info.id) == location else SpoolError("the record has been moved")
    return SpoolError("the record has been settled") if pool.overwritten(location) else error


class StoredData:
    """Implements ``ports.DataSource`` over chunks in memory, or over the spool."""

    __slots__ = ("_executor", "_info", "_location", "_pool", "buffers", "size")

    def __init__(
        self,
        info: InstanceInfo,
        location: Callable[[], Location],
        buffers: Sequence[Buffer] | None,
        pool: SegmentPool,
        executor: Executor,
    ) -> None:
        self._info = info
        self._location = location
        self.buffers = buffers
        self.size = info.size
        self._pool = pool
        self._executor = executor

    async def chunks(self) -> AsyncIterator[Buffer]:
        """In order; the last one only after the whole has been verified. Cancelling it is safe.

        Raises:
            SpoolCorrupt: The record does not read back as it was written.
            SpoolError: It cannot be read, or nobody needs it any more.
        """
        loop = asyncio.get_running_loop()
        info, location, pool, executor = self._info, self._location(), self._pool, self._executor
        hasher = xxhash.xxh3_128()

        def first() -> tuple[int, int]:
            descriptor, header, place = open_record(pool, info, location)
            try:
                start = place.offset + header.data_offset
                if not footer_is_whole(os.pread(descriptor, FOOTER_SIZE, start + header.data_length), header):
                    raise SpoolCorrupt("footer missing or damaged")
                read_past_cache(descriptor)
            except (OSError, SpoolError):
                os.close(descriptor)
                raise
            return descriptor, start

        def piece(offset: int, left: int) -> memoryview:
            data = read_piece(descriptor, offset, left)
            if not len(data):
                raise SpoolCorrupt("data cut short")
            hasher.update(data)
            if len(data) == left and hasher.digest() != info.checksum:
                raise SpoolCorrupt("data does not match its checksum")
            return data

        opening = loop.run_in_executor(executor, first)
        try:
            descriptor, at = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        except SpoolCorrupt as error:
            raise _explained(pool, info, location, error) from None
        except OSError as error:
            raise SpoolError(f"cannot read the spool: {error.strerror}") from error
        end = at + info.size
        reading: Future[memoryview] | None = None
        try:
            if info.size:
                reading = executor.submit(piece, at, info.size)
            while reading is not None:
                data = await asyncio.wrap_future(reading)
                at += len(data)
                # The next one is read while this one is sent.
                reading = executor.submit(piece, at, end - at) if at < end else None
                yield data
        except SpoolCorrupt as error:
            raise _explained(pool, info, location, error) from None
        except OSError as error:
            raise SpoolError(f"cannot read the spool: {error.strerror}") from error
        finally:
            if reading is None or reading.cancel() or reading.done():
                _close(executor, descriptor)
            else:
                reading.add_done_callback(lambda _: os.close(descriptor))


def _close(executor: Executor, descriptor: int) -> None:
    """In a thread, since closing the last descriptor of a deleted file frees its blocks."""
    try:
        executor.submit(os.close, descriptor)
    except RuntimeError:  # the spool has been closed
        os.close(descriptor)


def _close_late(opening: asyncio.Future[tuple[int, int]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])
