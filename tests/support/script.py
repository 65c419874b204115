"""One small association as the bytes of its requestor, with the places where something is decided."""

from __future__ import annotations

from dataclasses import dataclass

from router.dimse.command import encode_c_store_rq
from router.services.storage_scu import propose
from router.ul.pdus import encode_request
from tests.support.plain_pdu import p_data

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
RELEASE_RQ = bytes.fromhex("05000000000400000000")
ABORT = bytes.fromhex("07000000000400000000")


def request(*pairs: tuple[str, str], called: str = "ROUTER", calling: str = "SENDER") -> bytes:
    """An A-ASSOCIATE-RQ; by default for CT in Explicit VR Little Endian, on context 1."""
    return encode_request(propose(pairs or ((CT, EXPLICIT),), called_ae=called, calling_ae=calling))


def store(
    sop_instance: str,
    data: bytes,
    *,
    sop_class: str = CT,
    message_id: int = 1,
    context_id: int = 1,
    piece: int = 60_000,
) -> bytes:
    """A C-STORE-RQ and its data set in P-DATA-TFs of ``piece`` bytes."""
    out = p_data(context_id, 3, encode_c_store_rq(message_id, sop_class, sop_instance))
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)] or [b""]
    for number, part in enumerate(pieces, 1):
        out += p_data(context_id, 2 if number == len(pieces) else 0, part)
    return out


@dataclass(frozen=True)
class Script:
    """Association, one object, release. ``requested`` and ``stored`` are the places behind the A-ASSOCIATE-RQ and
    behind the last fragment."""

    data: bytes
    requested: int
    stored: int

    @classmethod
    def of(cls, sop_instance: str, data_set: bytes, *, piece: int = 1500) -> Script:
        opening = request()
        stored = opening + store(sop_instance, data_set, piece=piece)
        return cls(stored + RELEASE_RQ, len(opening), len(stored))
