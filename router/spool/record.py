"""The record: one instance as it lies in a segment, explaining itself without the ledger.

::

    header   magic, flags, meta length, epoch, id, data offset, data length, synced, XXH3-128 of the data, checksum of all this + meta
    meta     JSON: UIDs, AE titles, peer address, transfer syntax, arrival time, the decision
    data     the data set, byte for byte as it came
    footer   end mark, epoch, id, XXH3-128 again

``epoch`` is that of the segment when the record was written: what is left of an older use of the segment has another one and is never
taken for live. ``synced`` is the offset up to which the segment had been synced when this record was written: everything below it
is known to have been whole.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import xxhash

from router.model import Decision, InstanceInfo, Location, Priority, Verdict

_HEADER = struct.Struct("<8sIIQQQQQ16s")
_CHECK = struct.Struct("<Q")
_FOOTER = struct.Struct("<8sQQ16s")
MAGIC = b"DRrecord"
END_MAGIC = b"DRendrec"
HEADER_SIZE = _HEADER.size + _CHECK.size
FOOTER_SIZE = _FOOTER.size
META_LIMIT = 12 << 10
"""Bytes of meta at most: the header of a streamed record has a fixed place to fit into."""
STREAMED = 1
ALIGNMENT = 8


def encode_meta(info: InstanceInfo, decision: Decision) -> bytes:
    meta = info.to_meta()
    meta["decision"] = {
        "verdict": decision.verdict,
        "to": decision.destinations,
        "priority": int(decision.priority),
        "rules": decision.rules,
        "version": decision.version,
    }
    text = json.dumps(meta, separators=(",", ":")).encode()
    if len(text) > META_LIMIT:
        # Only names of rules can be that many; the ledger has them too.
        meta["decision"]["rules"] = ()
        text = json.dumps(meta, separators=(",", ":")).encode()
    return text


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
        """Bytes of the whole record, without padding."""
        return self.data_offset + self.data_length + FOOTER_SIZE


def encode_header(header: Header) -> bytes:
    """Header and meta; padded to ``data_offset`` by the caller."""
    fixed = _HEADER.pack(
        MAGIC,
        header.flags,
        len(header.meta),
        header.epoch,
        header.id,
        header.data_offset,
        header.data_length,
        header.synced,
        header.checksum,
    )
    return fixed + _CHECK.pack(xxhash.xxh3_64_intdigest(fixed + header.meta)) + header.meta


def encode_footer(epoch: int, number: int, checksum: bytes) -> bytes:
    return _FOOTER.pack(END_MAGIC, epoch, number, checksum)


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

    @property
    def ok(self) -> bool:
        return not self.problem
