"""Reading a segment that nobody vouches for: every record in it, whole or not, and whether a crash explains what is
not.

A record is *torn* when it lies above everything known to have been synced: its group was never acknowledged. Below, a
record that does not read back was whole once, so it is *damaged*. What is known comes from the sync mark of the
segment and from the headers of its records, each of which says how far the segment was synced when it was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import xxhash

from router.model import Location
from router.spool.record import (
    ALIGNMENT,
    FOOTER_SIZE,
    HEADER_SIZE,
    MAGIC,
    FoundRecord,
    Header,
    align,
    decode_meta,
    footer_is_whole,
)
from router.spool.segment import BLOCK, FIRST_RECORD, KIND_STREAM, read_at, read_header_at, read_mark

_HASH_STEP = 1 << 20
_SEARCH_STEP = 1 << 20


@dataclass(slots=True)
class Index:
    """Where the records of one use of a segment begin, found by their headers alone."""

    places: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Regions below ``whole`` that should hold records and hold none that can be recognised."""
    whole: int = FIRST_RECORD
    """Everything below was synced once."""


def problem_with(descriptor: int, offset: int, header: Header, *, hash_data: bool = True) -> str:
    """What is wrong with the record whose header this is; empty when it is whole."""
    end = offset + header.data_offset + header.data_length
    if not footer_is_whole(read_at(descriptor, FOOTER_SIZE, end), header):
        return "footer missing or damaged"
    if not hash_data:
        return ""
    hasher = xxhash.xxh3_128()
    at = offset + header.data_offset
    while at < end:
        data = read_at(descriptor, min(_HASH_STEP, end - at), at)
        if not data:
            return "data cut short"
        hasher.update(data)
        at += len(data)
    return "" if hasher.digest() == header.checksum else "data does not match its checksum"


def index(descriptor: int, kind: int, epoch: int) -> Index:
    """Follow the records of this epoch by their lengths; where they break off, look on behind.

    So damage to one record does not hide the others, and the bytes of a data set are never searched for records
    unless the header before them is lost. Raises OSError.
    """
    size = os.fstat(descriptor).st_size
    found = Index(whole=read_mark(descriptor, epoch))
    at = FIRST_RECORD
    if kind == KIND_STREAM:
        if read_header_at(descriptor, at, epoch) is not None:
            found.places.append(at)
        elif found.whole > FIRST_RECORD:
            found.gaps.append((at, found.whole))
        return found
    lost: list[tuple[int, int]] = []
    while at < size:
        header = read_header_at(descriptor, at, epoch)
        if header is not None:
            found.places.append(at)
            found.whole = max(found.whole, header.synced)
            at += align(header.length)
            continue
        following = _search(descriptor, at + ALIGNMENT, size, epoch)
        lost.append((at, size if following is None else following))
        if following is None:
            break
        at = following
    for start, end in lost:
        end = min(end, found.whole)
        if start < end:
            found.gaps.append((start, end))
    return found


def _search(descriptor: int, start: int, size: int, epoch: int) -> int | None:
    """The next place at or after ``start`` where a record of this epoch begins.

    Only damaged regions and the unused end are searched. A data set that holds what looks like a record does not get
    far: it would have to name the segment's epoch, half of which is random.
    """
    at = start
    while at < size:
        window = read_at(descriptor, _SEARCH_STEP + len(MAGIC), at)
        found = window.find(MAGIC)
        while 0 <= found < _SEARCH_STEP:
            candidate = at + found
            if candidate % ALIGNMENT == 0 and read_header_at(descriptor, candidate, epoch) is not None:
                return candidate
            found = window.find(MAGIC, found + 1)
        at += _SEARCH_STEP
    return None


def first_header(descriptor: int) -> Header | None:
    """Some record's header, to learn kind and epoch of a segment whose own header is damaged. Raises OSError."""
    size = os.fstat(descriptor).st_size
    for at in range(FIRST_RECORD, size, BLOCK):
        header = read_header_at(descriptor, at)
        if header is not None:
            return header
    return None


def scan(
    descriptor: int, number: int, kind: int, epoch: int, *, start: int = 0, hash_data: bool = True
) -> Iterator[FoundRecord]:
    """Every record of this use of the segment, in order; lost regions last. Raises OSError.

    Args:
        start: Offset below which nothing is looked at.
        hash_data: Read the data too. Without it a record counts as whole when header and footer are.
    """
    found = index(descriptor, kind, epoch)
    for at in found.places:
        if at < start:
            continue
        header = read_header_at(descriptor, at, epoch)
        if header is None:
            continue  # overwritten since: somebody else uses the spool
        location = Location(number, epoch, at, header.length)
        torn = kind != KIND_STREAM and at >= found.whole
        try:
            info, decision = decode_meta(header.meta, header.checksum)
        except (ValueError, KeyError, TypeError):
            yield FoundRecord(location, None, None, "meta unreadable", torn)
            continue
        problem = problem_with(descriptor, at, header, hash_data=hash_data)
        yield FoundRecord(location, info, decision, problem, torn and bool(problem))
    for begin, end in found.gaps:
        if begin >= start and end - begin >= HEADER_SIZE:
            yield FoundRecord(Location(number, epoch, begin, end - begin), None, None, "record header damaged")
