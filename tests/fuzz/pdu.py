"""The PDU reader (PS3.8 §9.3) against its plain reference: the same items at the same positions, whatever comes."""

from __future__ import annotations

from typing import Any

from router._fastpdu import PduReader
from tests.fuzz.inputs import chosen, pieces, split
from tests.support import plain_pdu

LIMITS = ((100, 60, True), (16384, 1 << 20, True), (0, 70, True), (64, 200, False))
"""Longest P-DATA-TF and A-ASSOCIATE taken, and whether what was announced binds."""


def check(data: bytes) -> None:
    """Options: limits, cuts."""
    options, stream = split(data, 2)
    limits = chosen(LIMITS, options[0])
    native, plain = PduReader(*limits), plain_pdu.PduReader(*limits)
    for piece in pieces(stream, options[1]):
        ours, theirs = native.feed(piece), plain.feed(piece)
        assert comparable(ours) == comparable(theirs)
        assert native.mid_pdu == plain.mid_pdu
        assert native.missing == plain.missing
        assert native.buffered <= max(limits[1], 64) + 6, "more is held back than the limit"


def comparable(items: list[tuple[Any, ...]]) -> list[Any]:
    return [(0, item[1].reason, str(item[1])) if item[0] == 0 else item for item in items]
