"""Segment files: numbered, written from front to back, read anywhere, used again when nothing in them lives.

The first block holds the segment's header: its number, its kind and the epoch of its present use. Names are numbers only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from router.errors import SpoolError
from router.model import Location
from router.spool.record import (
    FOOTER_SIZE,
    HEADER_SIZE,
    MAGIC,
    META_LIMIT,
    FoundRecord,
    Header,
    decode_header,
    decode_meta,
    footer_is_whole,
)

BLOCK = 4096
"""Every group of records begins on a block and is padded to one: overwriting whole blocks of a reused segment never has to
read what was there."""
FIRST_RECORD = BLOCK
STREAM_DATA_OFFSET = 16 << 10
"""Of a streamed record, from its beginning: header and meta are written last and fit below."""
SUFFIX = ".seg"
_SEGMENT = struct.Struct("<8sIIQQ")
_SEGMENT_MAGIC = b"DRsegmnt"
FORMAT = 1
KIND_LOG = 1
KIND_STREAM = 2
_HASH_STEP = 4 << 20


@dataclass(slots=True)
class Segment:
    """One segment file, open. ``live`` counts records that somebody still needs."""

    number: int
    descriptor: int
    size: int
    kind: int = KIND_LOG
    epoch: int = 0
    position: int = FIRST_RECORD
    """Where the next group goes (a segment being written)."""
    synced: int = FIRST_RECORD
    live: int = 0
    live_bytes: int = 0

    def write_header(self) -> None:
        fixed = _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT, self.kind, self.number, self.epoch)
        block = (fixed + xxhash.xxh3_64_digest(fixed)).ljust(BLOCK, b"\0")
        write_all(self.descriptor, [block], 0)


def write_all(descriptor: int, buffers: list[bytes], offset: int) -> int:
    """All of it, however often the kernel writes less; gives the bytes written. Raises OSError."""
    total = 0
    limit = 1000  # below IOV_MAX
    for start in range(0, len(buffers), limit):
        batch = buffers[start : start + limit]
        wanted = sum(map(len, batch))
        done = os.pwritev(descriptor, batch, offset)
        while done < wanted:
            left = memoryview(b"".join(batch))[done:]
            done += os.pwrite(descriptor, left, offset + done)
        offset += wanted
        total += wanted
    return total


def read_segment_header(descriptor: int) -> tuple[int, int, int] | None:
    """(kind, number, epoch), or None when there is no whole header."""
    block = os.pread(descriptor, _SEGMENT.size + 8, 0)
    if len(block) < _SEGMENT.size + 8:
        return None
    magic, version, kind, number, epoch = _SEGMENT.unpack_from(block)
    if magic != _SEGMENT_MAGIC or block[_SEGMENT.size :] != xxhash.xxh3_64_digest(block[: _SEGMENT.size]):
        return None
    if version > FORMAT:
        raise SpoolError(f"segment {number} was written by a newer version of the router (format {version})")
    return kind, number, epoch


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{number:010d}{SUFFIX}"


def read_header_at(descriptor: int, offset: int) -> Header | None:
    return decode_header(os.pread(descriptor, HEADER_SIZE + META_LIMIT, offset))


def problem_with(descriptor: int, offset: int, header: Header, *, hash_data: bool = True) -> str:
    """What is wrong with the record whose header this is; empty when it is whole."""
    end = offset + header.data_offset + header.data_length
    if not footer_is_whole(os.pread(descriptor, FOOTER_SIZE, end), header):
        return "footer missing or damaged"
    if not hash_data:
        return ""
    hasher = xxhash.xxh3_128()
    at = offset + header.data_offset
    while at < end:
        data = os.pread(descriptor, min(_HASH_STEP, end - at), at)
        if not data:
            return "data cut short"
        hasher.update(data)
        at += len(data)
    return "" if hasher.digest() == header.checksum else "data does not match its checksum"


def scan(segment: Segment) -> Iterator[FoundRecord]:
    """Every record of the segment's present epoch, whole or not, in order.

    Follows the records' lengths; where they break off, looks on at the next block, so that damage to one record does not hide
    the others.
    """
    descriptor, at, size = segment.descriptor, FIRST_RECORD, os.fstat(segment.descriptor).st_size
    while at + HEADER_SIZE <= size:
        header = read_header_at(descriptor, at)
        if header is None or header.epoch != segment.epoch:
            following = _search(descriptor, at, size, segment.epoch)
            if following is None:
                return
            at = following
            continue
        location = Location(segment.number, segment.epoch, at, header.length)
        try:
            info, decision = decode_meta(header.meta, header.checksum)
        except (ValueError, KeyError, TypeError):
            yield FoundRecord(location, None, None, "meta unreadable")
        else:
            yield FoundRecord(location, info, decision, problem_with(descriptor, at, header))
        at += align(header.length)


def _search(descriptor: int, start: int, size: int, epoch: int) -> int | None:
    """The next place at or after ``start`` where a record of this epoch begins, looking only where no record is known to lie."""
    step = 1 << 20
    at = start + 1
    while at < size:
        window = os.pread(descriptor, step + len(MAGIC), at)
        found = window.find(MAGIC)
        while found >= 0:
            candidate = at + found
            if candidate % 8 == 0:
                header = read_header_at(descriptor, candidate)
                if header is not None and header.epoch == epoch:
                    return candidate
            found = window.find(MAGIC, found + 1)
        at += step
    return None


def align(length: int, to: int = 8) -> int:
    return -(-length // to) * to
