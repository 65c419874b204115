"""The record explains itself, and no change of a bit in it goes unnoticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import SpoolError
from router.model import Decision, Verdict
from router.spool.record import (
    FOOTER_SIZE,
    META_LIMIT,
    decode_header,
    decode_meta,
    encode_meta,
    encode_record,
    footer_is_whole,
)
from tests.spool.support import DECISION, bytes_of, entry_of, info_of


def record(number: int = 7, size: int = 100) -> bytes:
    entry = entry_of(number, size)
    buffers, _ = encode_record(entry.info, entry.decision, entry.chunks or [], epoch=5, synced=8192)
    return b"".join(buffers)


def test_a_record_says_what_it_is_without_the_ledger() -> None:
    entry = entry_of(7, 100, move_originator=("MOVER", 3))
    buffers, length = encode_record(entry.info, entry.decision, entry.chunks or [], epoch=5, synced=8192)
    written = b"".join(buffers)
    header = decode_header(written)
    assert header is not None
    assert (header.epoch, header.id, header.synced, header.length) == (5, 7, 8192, length)
    assert decode_meta(header.meta, header.checksum) == (entry.info, DECISION)
    assert written[header.data_offset : header.data_offset + header.data_length] == entry.data()
    assert footer_is_whole(written[length - FOOTER_SIZE : length], header)
    assert len(written) % 8 == 0


def test_every_damaged_byte_of_header_and_meta_is_noticed() -> None:
    written = bytearray(record())
    header = decode_header(bytes(written))
    assert header is not None
    for at in range(header.data_offset):
        written[at] ^= 0x10
        assert decode_header(bytes(written)) is None, at
        written[at] ^= 0x10


def test_every_damaged_byte_of_the_footer_is_noticed() -> None:
    written = bytearray(record())
    header = decode_header(bytes(written))
    assert header is not None
    footer = written[header.length - FOOTER_SIZE : header.length]
    for at in range(FOOTER_SIZE):
        footer[at] ^= 0x01
        assert not footer_is_whole(bytes(footer), header), at
        footer[at] ^= 0x01


def test_a_header_cut_anywhere_is_none() -> None:
    written = record()
    header = decode_header(written)
    assert header is not None
    assert all(decode_header(written[:end]) is None for end in range(header.data_offset))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_header_are_none(data: bytes) -> None:
    assert decode_header(data) is None
    assert decode_header(record()[:8] + data) is None


def test_texts_of_a_peer_that_are_too_long_never_make_a_record_unreadable() -> None:
    # A value may hold up to 64 KiB where the standard says 64 characters.
    info = info_of(1, b"", patient_id="P" * 65_000, accession="Ä" * 40_000, study="1" * 50_000)
    meta = encode_meta(info, DECISION)
    assert len(meta) <= META_LIMIT
    kept, decision = decode_meta(meta, info.checksum)
    assert decision == DECISION
    assert kept == replace(info, patient_id="P" * 64, accession="Ä" * 64, study="1" * 64)


def test_names_of_rules_give_way_before_destinations_do() -> None:
    decision = replace(
        DECISION, rules=tuple(f"rule-{n}" * 10 for n in range(1000)), destinations=tuple(f"D{n}" for n in range(2000))
    )
    _, kept = decode_meta(encode_meta(info_of(1, b""), decision), bytes(16))
    assert kept.destinations == decision.destinations
    assert kept.rules == ()


def test_a_decision_that_does_not_fit_is_refused_and_not_cut() -> None:
    decision = Decision(verdict=Verdict.ROUTE, destinations=tuple(f"destination-{n:05d}" for n in range(5000)))
    with pytest.raises(SpoolError, match="more destinations"):
        encode_meta(info_of(1, b""), decision)


def test_an_entry_of_another_size_than_it_says_is_refused() -> None:
    entry = entry_of(1, 100)
    with pytest.raises(SpoolError, match="another size"):
        encode_record(entry.info, entry.decision, [bytes_of(99, 1)], epoch=1, synced=0)


@pytest.mark.parametrize("meta", [b"", b"{", b"[]", b"{}", b'{"decision": 3}', b'{"decision": {"verdict": "sing"}}'])
def test_a_foreign_meta_is_an_error_that_a_scan_expects(meta: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_meta(meta, bytes(16))
