"""The plain-Python reference of ``router._record``: slow, and easy to compare with what ``router.spool.record`` says a
record is."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace

import xxhash

from router.errors import SpoolError
from router.model import Decision, InstanceInfo, Origin
from router.ports import Buffer

_HEADER = struct.Struct("<8sIIQQQQQ16s")
_CHECK = struct.Struct("<Q")
_FOOTER = struct.Struct("<8sQQ16s")
MAGIC = b"DRrecord"
END_MAGIC = b"DRendrec"
HEADER_SIZE = _HEADER.size + _CHECK.size
FOOTER_SIZE = _FOOTER.size
META_LIMIT = 60 << 10
ALIGNMENT = 4096
ALIGNED_SIZE = 64 << 10
_FREE_TEXTS = ("study", "series", "patient_id", "accession", "modality")
_FREE_TEXT_LIMIT = 64


def align(length: int, to: int = ALIGNMENT) -> int:
    return -(-length // to) * to


def encode_meta(info: InstanceInfo, decision: Decision) -> bytes:
    """Raises SpoolError."""
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
    move = info.move_originator
    moved = "" if move is None else f',"move_originator":[{_quoted(move[0])},{move[1]}]'
    return (
        f'{{"id":{info.id},"sop_class":{_quoted(info.sop_class)},"sop_instance":{_quoted(info.sop_instance)},'
        f'"transfer_syntax":{_quoted(info.transfer_syntax)},{_origin(info.origin)},"received":{info.received!r},'
        f'"size":{info.size},"study":{_quoted(info.study)},"series":{_quoted(info.series)},'
        f'"patient_id":{_quoted(info.patient_id)},"accession":{_quoted(info.accession)},'
        f'"modality":{_quoted(info.modality)},"decision":{_decision(decision)}{moved}}}'
    ).encode("ascii")


def _origin(origin: Origin) -> str:
    return (
        f'"listener":{_quoted(origin.listener)},"peer":{_quoted(origin.peer)},"calling":{_quoted(origin.calling_ae)},'
        f'"called":{_quoted(origin.called_ae)},"address":{_quoted(origin.address)}'
    )


def _decision(decision: Decision) -> str:
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


def encode_header(
    info: InstanceInfo, meta: bytes, *, epoch: int, synced: int, flags: int = 0, data_offset: int
) -> bytes:
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
    """Raises SpoolError."""
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
