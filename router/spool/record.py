"""The record: one instance as it lies in a segment, explaining itself without the ledger.

::

    header   magic, flags, meta length, epoch, id, data offset, data length, synced, XXH3-128 of the data,
             checksum of all this and the meta
    meta     JSON: UIDs, AE titles, peer address, transfer syntax, arrival time, the decision
    data     the data set, byte for byte as it came
    footer   end mark, epoch, id, XXH3-128 again

``epoch`` is that of the segment when the record was written: what is left of an older use of the segment has another
one and is never taken for live. ``synced`` is the offset up to which the segment had been synced when this record was
written: everything below it is known to have been whole.

Little endian. Pure: bytes in, bytes out; no file is touched here. Records are read here and written natively.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import xxhash

from router._record import (
    ALIGNED_SIZE,
    ALIGNMENT,
    FOOTER_SIZE,
    HEADER_SIZE,
    MAGIC,
    META_LIMIT,
    encode_footer,
    encode_header,
    encode_meta,
    encode_record,
)
from router.model import Decision, InstanceInfo, Location, Priority, Verdict

__all__ = [
    "ALIGNED_SIZE",
    "ALIGNMENT",
    "FOOTER_SIZE",
    "HEADER_SIZE",
    "MAGIC",
    "META_LIMIT",
    "STREAMED",
    "FoundRecord",
    "Header",
    "align",
    "decode_header",
    "decode_meta",
    "encode_footer",
    "encode_header",
    "encode_meta",
    "encode_record",
    "footer_is_whole",
]

_HEADER = struct.Struct("<8sIIQQQQQ16s")
_CHECK = struct.Struct("<Q")
STREAMED = 1


def align(length: int, to: int = ALIGNMENT) -> int:
    return -(-length // to) * to


def decode_meta(meta: bytes, checksum: bytes) -> tuple[InstanceInfo, Decision]:
    """Raises ValueError, KeyError or TypeError for what is no meta of ours."""
    values: dict[str, Any] = json.loads(meta)
    decision = values["decision"]
    return InstanceInfo.from_meta(values, checksum), Decision(
        verdict=Verdict(decision["verdict"]),
        destinations=tuple(decision["to"]),
        priority=Priority(decision["priority"]),
        rules=tuple(decision["rules"]),
        version=decision["version"],
    )


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a record says."""

    flags: int
    epoch: int
    id: int
    data_offset: int
    """From the beginning of the record."""
    data_length: int
    synced: int
    checksum: bytes
    meta: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole record, header to footer, without padding."""
        return self.data_offset + self.data_length + FOOTER_SIZE


def decode_header(data: bytes | memoryview) -> Header | None:
    """The header at the beginning of ``data``, or None for anything that is not a whole one."""
    if len(data) < HEADER_SIZE:
        return None
    magic, flags, meta_length, epoch, number, data_offset, data_length, synced, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC or meta_length > META_LIMIT or len(data) < HEADER_SIZE + meta_length:
        return None
    meta = bytes(data[HEADER_SIZE : HEADER_SIZE + meta_length])
    (check,) = _CHECK.unpack_from(data, _HEADER.size)
    if check != xxhash.xxh3_64_intdigest(bytes(data[: _HEADER.size]) + meta) or data_offset < HEADER_SIZE + meta_length:
        return None
    return Header(flags, epoch, number, data_offset, data_length, synced, checksum, meta)


def footer_is_whole(data: bytes | memoryview, header: Header) -> bool:
    return bytes(data) == encode_footer(header.epoch, header.id, header.checksum)


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """What a scan found in one place."""

    location: Location
    info: InstanceInfo | None
    decision: Decision | None
    problem: str = ""
    """Empty: the record is whole, data and all."""
    torn: bool = False
    """Not whole, and written after the last sync that we know of: a crash explains it, and nobody was told that it is
    stored."""

    @property
    def ok(self) -> bool:
        return not self.problem

    @property
    def state(self) -> str:
        """``ok``, ``torn`` or ``damaged``."""
        return "ok" if not self.problem else "torn" if self.torn else "damaged"
