"""Segment files: numbered, written from front to back, read anywhere, used again when nothing in them lives.

::

    0      segment header: number, kind, epoch of its present use
    4096   sync mark: how far this use is known to be synced
    8192   records; every one begins on a block and is padded to one

Knows the layout and how bytes get to the file; not which segments there are or what is alive in them (``pool``), nor
how a damaged one is read (``scan``).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash

from router.errors import SpoolError
from router.spool.record import HEADER_SIZE, META_LIMIT, Header, decode_header

BLOCK = 4096
"""Records are padded to whole blocks: overwriting those of a reused segment never has to read what was there."""
MARK_OFFSET = BLOCK
FIRST_RECORD = 2 * BLOCK
STREAM_DATA_OFFSET = 64 << 10
"""Of a streamed record, from its beginning: header and meta are written last and fit below."""
SUFFIX = ".seg"
FORMAT = 1
KIND_LOG = 1
KIND_STREAM = 2

_SEGMENT = struct.Struct("<8sIIQQ")
_SEGMENT_MAGIC = b"DRsegmnt"
_MARK = struct.Struct("<8sQQ")
_MARK_MAGIC = b"DRsynced"
_CHECK_SIZE = 8
_BUFFERS_AT_ONCE = 1000
"""Below IOV_MAX, which is 1024 on Linux."""


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:010d}{SUFFIX}"


def write_all(descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
    """All of it, however often the kernel writes less; gives the bytes written. Raises OSError."""
    total = 0
    for start in range(0, len(buffers), _BUFFERS_AT_ONCE):
        batch = buffers[start : start + _BUFFERS_AT_ONCE]
        wanted = sum(map(len, batch))
        done = os.pwritev(descriptor, batch, offset)
        if done < wanted:
            left = memoryview(b"".join(batch))
            while done < wanted:
                done += os.pwrite(descriptor, left[done:], offset + done)
        offset += wanted
        total += wanted
    return total


class SegmentFile:
    """A segment being written, open twice: through the page cache, and past it for what is bulky."""

    __slots__ = ("bulk", "descriptor")

    def __init__(self, path: Path, *, create: bool, direct: bool) -> None:
        """Raises OSError."""
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        self.descriptor = os.open(path, flags, 0o600)
        self.bulk = self.descriptor
        if direct:
            try:
                self.bulk = os.open(path, os.O_WRONLY | os.O_DIRECT)
            except OSError:
                os.close(self.descriptor)
                raise

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        if self.bulk != self.descriptor:
            os.close(self.bulk)
        os.close(self.descriptor)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """As os.pread, but blocks that the disk cannot read are given as zeros, which fail every check: damage like other
    damage, and no reason to refuse what lies around it. Raises OSError for anything else."""
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    end = min(offset + size, os.fstat(descriptor).st_size)
    pieces = []
    while offset < end:
        following = min(end, (offset // BLOCK + 1) * BLOCK)
        try:
            pieces.append(os.pread(descriptor, following - offset, offset))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            pieces.append(bytes(following - offset))
        offset = following
    return b"".join(pieces)


def _block(fixed: bytes) -> bytes:
    return (fixed + xxhash.xxh3_64_digest(fixed)).ljust(BLOCK, b"\0")


def _checked(descriptor: int, size: int, offset: int) -> bytes | None:
    block = read_at(descriptor, size + _CHECK_SIZE, offset)
    return block[:size] if block[size:] == xxhash.xxh3_64_digest(block[:size]) else None


def write_segment_header(descriptor: int, kind: int, number: int, epoch: int) -> None:
    write_all(descriptor, [_block(_SEGMENT.pack(_SEGMENT_MAGIC, FORMAT, kind, number, epoch))], 0)


def read_segment_header(descriptor: int) -> tuple[int, int, int] | None:
    """(kind, number, epoch), or None when there is no whole header. Raises SpoolError for a newer format."""
    fixed = _checked(descriptor, _SEGMENT.size, 0)
    if fixed is None:
        return None
    magic, version, kind, number, epoch = _SEGMENT.unpack(fixed)
    if magic != _SEGMENT_MAGIC:
        return None
    if version > FORMAT:
        raise SpoolError(f"segment {number} was written by a newer version of the router (format {version})")
    return kind, number, epoch


def write_mark(descriptor: int, epoch: int, synced: int) -> None:
    """Say that everything below ``synced`` is on stable storage. Itself needs no sync: without it one merely knows
    less."""
    write_all(descriptor, [_block(_MARK.pack(_MARK_MAGIC, epoch, synced))], MARK_OFFSET)


def read_mark(descriptor: int, epoch: int) -> int:
    """Offset up to which this use of the segment was synced, as far as the mark says."""
    fixed = _checked(descriptor, _MARK.size, MARK_OFFSET)
    if fixed is None:
        return FIRST_RECORD
    magic, marked, synced = _MARK.unpack(fixed)
    return int(synced) if magic == _MARK_MAGIC and marked == epoch else FIRST_RECORD


def read_header_at(descriptor: int, offset: int, epoch: int | None = None) -> Header | None:
    """The record header at ``offset`` (of this epoch), or None."""
    data = read_at(descriptor, BLOCK, offset)
    header = decode_header(data)
    if header is None and len(data) == BLOCK:  # nearly all fit a block
        header = decode_header(read_at(descriptor, HEADER_SIZE + META_LIMIT, offset))
    return header if header is not None and (epoch is None or header.epoch == epoch) else None
