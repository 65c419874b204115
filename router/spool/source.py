"""Reading records back, verified: the whole of a small one, or a large one piece by piece.

The checksum is computed before anything is sent (small), or before the last piece is given out (large): a damaged object never
reaches a destination whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor

import xxhash

from router.errors import SpoolCorrupt, SpoolError
from router.model import InstanceInfo, Location
from router.ports import Buffer
from router.spool.record import Header
from router.spool.segment import problem_with, read_header_at

PIECE = 1 << 20


def open_record(descriptor: int, info: InstanceInfo, location: Location) -> Header:
    """The header at ``location``; raises SpoolCorrupt unless it is that of the instance."""
    header = read_header_at(descriptor, location.offset)
    if header is None or header.epoch != location.epoch or header.id != info.id:
        raise SpoolCorrupt("record header damaged")
    if header.data_length != info.size or header.checksum != info.checksum:
        raise SpoolCorrupt("record is not the one that the ledger knows")
    return header


def read_whole(descriptor: int, info: InstanceInfo, location: Location) -> list[bytes]:
    """The data set, verified. Blocking; for small objects."""
    try:
        header = open_record(descriptor, info, location)
        data = os.pread(descriptor, header.data_length, location.offset + header.data_offset)
    except OSError as error:
        raise SpoolError(f"cannot read the spool: {error.strerror}") from error
    if len(data) != header.data_length or xxhash.xxh3_128_digest(data) != header.checksum:
        raise SpoolCorrupt("data does not match its checksum")
    return [data]


class StoredData:
    """Implements ``ports.DataSource`` over chunks in memory, or over the spool."""

    __slots__ = ("_chunks", "_descriptor", "_executor", "_info", "_location")

    def __init__(
        self,
        info: InstanceInfo,
        location: Location,
        chunks: list[bytes] | None,
        descriptor: Callable[[int], int],
        executor: Executor,
    ) -> None:
        self._info = info
        self._location = location
        self._chunks = chunks
        self._descriptor = descriptor
        self._executor = executor

    @property
    def size(self) -> int:
        return self._info.size

    @property
    def buffers(self) -> Sequence[Buffer] | None:
        return self._chunks

    async def chunks(self) -> AsyncIterator[bytes]:
        """Cancelling it is safe."""
        loop = asyncio.get_running_loop()
        descriptor = self._descriptor(self._location.segment)
        info, location = self._info, self._location
        hasher = xxhash.xxh3_128()

        def first() -> int:
            header = open_record(descriptor, info, location)
            problem = problem_with(descriptor, location.offset, header, hash_data=False)
            if problem:
                raise SpoolCorrupt(problem)
            return location.offset + header.data_offset

        def piece(offset: int, length: int) -> bytes:
            data = os.pread(descriptor, length, offset)
            if len(data) != length:
                raise SpoolCorrupt("data cut short")
            hasher.update(data)
            return data

        try:
            at = await loop.run_in_executor(self._executor, first)
            end = at + info.size
            while at < end:
                data = await loop.run_in_executor(self._executor, piece, at, min(PIECE, end - at))
                at += len(data)
                if at == end and hasher.digest() != info.checksum:
                    raise SpoolCorrupt("data does not match its checksum")
                yield data
        except OSError as error:
            raise SpoolError(f"cannot read the spool: {error.strerror}") from error
