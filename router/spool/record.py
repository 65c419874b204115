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

Little endian. Pure: bytes in, bytes out; no file is touched here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import xxhash

from router.errors import SpoolError
from router.model import Decision, InstanceInfo, Location, Origin, Priority, Verdict
from router.ports import Buffer

_HEADER = struct.Struct("<8sIIQQQQQ16s")
_CHECK = struct.Struct("<Q")
_FOOTER = struct.Struct("<8sQQ16s")
T = TypeVar("T")
MAGIC = b"DRrecord"
END_MAGIC = b"DRendrec"
HEADER_SIZE = _HEADER.size + _CHECK.size
FOOTER_SIZE = _FOOTER.size
META_LIMIT = 60 << 10
"""Bytes of meta at most: the header of a streamed record has a place of fixed size."""
STREAMED = 1
ALIGNMENT = 4096
"""Records begin on blocks: each is written past the page cache, whoever its neighbours are."""
ALIGNED_SIZE = 64 << 10
"""Bytes from which on the data begins on a block too, so that it is written from where it was received."""
TEXTS_KEPT = 256
_FREE_TEXTS = ("study", "series", "patient_id", "accession", "modality")
_FREE_TEXT_LIMIT = 64
"""Characters; what the standard allows for LO and UI (PS3.5 §6.2)."""


def align(length: int, to: int = ALIGNMENT) -> int:
    return -(-length // to) * to


def encode_meta(info: InstanceInfo, decision: Decision) -> bytes:
    """JSON of both, at most META_LIMIT bytes. Raises SpoolError if the destinations alone are more than that.

    A peer decides how long the texts of its data set are. Where they do not fit they are shortened here, since they
    only serve to find the instance; the data set keeps them whole.
    """
    text = _meta(info, decision)
    if len(text) > META_LIMIT:
        info = replace(info, **{name: getattr(info, name)[:_FREE_TEXT_LIMIT] for name in _FREE_TEXTS})
        text = _meta(info, decision)
    if len(text) > META_LIMIT:
        text = _meta(info, replace(decision, rules=()))
    if len(text) > META_LIMIT:
        raise SpoolError(f"the decision names more destinations than a record can hold ({len(decision.destinations)})")
    return text


_quoted = json.encoder.encode_basestring_ascii


def _meta(info: InstanceInfo, decision: Decision) -> bytes:
    """Written out by hand, as a JSON encoder takes longer for it than everything else that a record needs."""
    move = info.move_originator
    moved = "" if move is None else f',"move_originator":[{_quoted(move[0])},{move[1]}]'
    return (
        f'{{"id":{info.id},"sop_class":{_quoted(info.sop_class)},"sop_instance":{_quoted(info.sop_instance)},'
        f'"transfer_syntax":{_quoted(info.transfer_syntax)},{_origin(info.origin)},"received":{info.received!r},'
        f'"size":{info.size},"study":{_quoted(info.study)},"series":{_quoted(info.series)},'
        f'"patient_id":{_quoted(info.patient_id)},"accession":{_quoted(info.accession)},'
        f'"modality":{_quoted(info.modality)},"decision":{_decision(decision)}{moved}}}'
    ).encode("ascii")


class _Texts(Generic[T]):
    """What is written of values that come again and again as the same objects: found without a look at what they
    hold."""

    def __init__(self, write: Callable[[T], str]) -> None:
        self._write = write
        self._known: dict[int, tuple[T, str]] = {}

    def __call__(self, value: T) -> str:
        entry = self._known.get(id(value))
        if entry is not None:  # it holds the value, so nobody else has its id
            return entry[1]
        if len(self._known) >= TEXTS_KEPT:
            self._known.clear()
        text = self._write(value)
        self._known[id(value)] = (value, text)
        return text


@_Texts
def _origin(origin: Origin) -> str:
    """The same for all objects of an association."""
    return (
        f'"listener":{_quoted(origin.listener)},"peer":{_quoted(origin.peer)},"calling":{_quoted(origin.calling_ae)},'
        f'"called":{_quoted(origin.called_ae)},"address":{_quoted(origin.address)}'
    )


@_Texts
def _decision(decision: Decision) -> str:
    """The same for most objects of a modality."""
    return json.dumps(
        {
            "verdict": decision.verdict,
            "to": decision.destinations,
            "priority": int(decision.priority),
            "rules": decision.rules,
            "version": decision.version,
        },
        separators=(",", ":"),
    )


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


def encode_header(
    info: InstanceInfo, meta: bytes, *, epoch: int, synced: int, flags: int = 0, data_offset: int
) -> bytes:
    """Header and meta; the data begins at ``data_offset`` of the record."""
    fixed = _HEADER.pack(
        MAGIC,
        flags,
        len(meta),
        epoch,
        info.id,
        data_offset,
        info.size,
        synced,
        info.checksum,
    )
    return fixed + _CHECK.pack(xxhash.xxh3_64_intdigest(fixed + meta)) + meta


def encode_footer(epoch: int, number: int, checksum: bytes) -> bytes:
    return _FOOTER.pack(END_MAGIC, epoch, number, checksum)


def encode_record(
    info: InstanceInfo, decision: Decision, chunks: Sequence[Buffer], *, epoch: int, synced: int
) -> tuple[list[Buffer], int]:
    """The buffers of a record whose data is in memory, and its length without the padding that ends them.

    Raises:
        SpoolError: The chunks are not of the size that ``info`` says, or the decision does not fit.
    """
    if sum(map(len, chunks)) != info.size:
        raise SpoolError("an entry has another size than its info says")
    meta = encode_meta(info, decision)
    data_offset = HEADER_SIZE + len(meta)
    if info.size >= ALIGNED_SIZE:
        data_offset = align(data_offset)
    head = encode_header(info, meta, epoch=epoch, synced=synced, data_offset=data_offset)
    length = data_offset + info.size + FOOTER_SIZE
    padding = -length % ALIGNMENT
    footer = encode_footer(epoch, info.id, info.checksum) + bytes(padding)
    return [head.ljust(data_offset, b"\0"), *chunks, footer], length


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
