"""The record explains itself, and no change of a bit in it goes unnoticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import SpoolError
from router.model import Decision, InstanceInfo, Origin, Priority, Verdict
from router.spool import record as native
from router.spool.record import (
    ALIGNED_SIZE,
    ALIGNMENT,
    FOOTER_SIZE,
    HEADER_SIZE,
    META_LIMIT,
    decode_header,
    decode_meta,
    encode_meta,
    encode_record,
    footer_is_whole,
)
from tests.spool.support import DECISION, ORIGIN, bytes_of, entry_of, info_of
from tests.support import plain_record as plain


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


# The plain reference writes the same -----------------------------------------------------------------------

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 9, 10, 2**63, 2**64 - 1])
characters = st.characters(exclude_categories=()) | st.sampled_from(
    '"\\/\0\n\x1f ~\x7f\x80\xff\u0100\u2028\ud800\udfff😀'
)
texts = (
    st.text("0123456789.", max_size=64)
    | st.text(characters, max_size=40)
    | st.builds(lambda one, count: one * count, characters, st.integers(0, 70_000))
)
origins = st.builds(Origin, listener=texts, peer=texts, calling_ae=texts, called_ae=texts, address=texts)
decisions = st.builds(
    Decision,
    verdict=st.sampled_from(Verdict),
    destinations=st.lists(texts, max_size=4).map(tuple),
    priority=st.sampled_from(Priority),
    rules=st.lists(texts, max_size=4).map(tuple),
    version=texts,
)
infos = st.builds(
    InstanceInfo,
    id=numbers,
    sop_class=texts,
    sop_instance=texts,
    transfer_syntax=texts,
    origin=origins | st.just(ORIGIN),
    received=st.floats() | st.floats(1e9, 3e9) | st.integers(),
    size=numbers,
    checksum=st.binary(min_size=16, max_size=16) | st.binary(max_size=20),
    study=texts,
    series=texts,
    patient_id=texts,
    accession=texts,
    modality=texts,
    move_originator=st.none() | st.tuples(texts, st.integers(0, 65_535)),
)


def outcome(encode: Callable[..., Any], *arguments: Any, **named: Any) -> object:
    try:
        return encode(*arguments, **named)
    except (SpoolError, TypeError) as error:
        return type(error), str(error)


@settings(deadline=None)
@given(
    info=infos,
    decision=decisions | st.just(DECISION),
    size=st.sampled_from([0, 1, 3000, 4096, ALIGNED_SIZE - 1, ALIGNED_SIZE, ALIGNED_SIZE + 1, 200_000]),
    cuts=st.lists(st.integers(0, 200_000), max_size=4),
    epoch=numbers,
    synced=numbers,
)
def test_a_record_is_what_the_plain_reference_writes(
    info: InstanceInfo, decision: Decision, size: int, cuts: list[int], epoch: int, synced: int
) -> None:
    data, info = bytes(size), replace(info, size=size)
    ends = sorted({min(cut, size) for cut in cuts} | {size})
    chunks = [memoryview(data)[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    ours = outcome(encode_record, info, decision, chunks, epoch=epoch, synced=synced)
    assert ours == outcome(plain.encode_record, info, decision, chunks, epoch=epoch, synced=synced)


@settings(deadline=None)
@given(info=infos, decision=decisions)
def test_a_meta_is_what_the_plain_reference_writes(info: InstanceInfo, decision: Decision) -> None:
    assert outcome(encode_meta, info, decision) == outcome(plain.encode_meta, info, decision)


@given(
    info=infos,
    meta=st.binary(max_size=5000),
    epoch=numbers,
    synced=numbers,
    flags=st.integers(0, 2**32 - 1),
    data_offset=numbers,
)
def test_header_and_footer_are_what_the_plain_reference_writes(
    info: InstanceInfo, meta: bytes, epoch: int, synced: int, flags: int, data_offset: int
) -> None:
    values = {"epoch": epoch, "synced": synced, "flags": flags, "data_offset": data_offset}
    assert native.encode_header(info, meta, **values) == plain.encode_header(info, meta, **values)
    footer = native.encode_footer(epoch, info.id, info.checksum)
    assert footer == plain.encode_footer(epoch, info.id, info.checksum)
    assert len(footer) == FOOTER_SIZE
    assert HEADER_SIZE == plain.HEADER_SIZE


def test_the_padding_is_the_plain_references_for_every_length() -> None:
    for size in range(ALIGNMENT + 1):
        info, chunks = info_of(1, bytes(size)), [bytes(size)]
        ours, length = encode_record(info, DECISION, chunks, epoch=1, synced=0)
        assert (ours, length) == plain.encode_record(info, DECISION, chunks, epoch=1, synced=0)
        assert ours[1] is chunks[0]


def test_every_character_is_written_as_json_has_it_wherever_it_stands() -> None:
    for code in [*range(0x180), 0x2028, 0xD800, 0xFFFF, 0x10000, 0x10FFFF]:
        for before in (0, 7, 15, 16, 31, 63):
            info = info_of(1, b"", patient_id="A" * before + chr(code) + "B" * (64 - before), accession=chr(code))
            assert encode_meta(info, DECISION) == plain.encode_meta(info, DECISION), (code, before)


times = (
    st.floats(2.0**30, 2.0**32)
    | st.builds(lambda whole, part: whole + part / 2**22, st.integers(2**30, 2**32), st.integers(0, 2**22))
    | st.builds(lambda whole, part: whole + part / 2**8, st.integers(2**30, 2**32), st.integers(0, 2**8))
    | st.builds(round, st.floats(2.0**30, 2.0**32), st.integers(1, 7))
    | st.builds(
        lambda power, up: math.nextafter(power, math.inf if up else 0.0),
        st.sampled_from([2.0**30, 2.0**31, 2.0**32]),
        st.booleans(),
    )
)


@settings(max_examples=1000, deadline=None)
@given(received=times)
def test_a_time_of_arrival_is_written_as_repr_has_it(received: float) -> None:
    assert f',"received":{received!r},'.encode() in encode_meta(info_of(1, b"", received=received), DECISION)


def test_halves_between_two_decimals_are_written_as_repr_has_them() -> None:
    for part in range(2**10):
        received = 1_700_000_000 + part / 2**10
        assert f',"received":{received!r},'.encode() in encode_meta(info_of(1, b"", received=received), DECISION)


def test_texts_are_shortened_from_the_same_byte_on() -> None:
    free = META_LIMIT - len(encode_meta(info_of(1, b"", patient_id=""), DECISION))
    for text in ("P", '"', "Ä"):
        each = len(encode_meta(info_of(1, b"", patient_id=text), DECISION)) + free - META_LIMIT
        for length in range(free // each - 1, free // each + 2):
            info = info_of(1, b"", patient_id=text * length)
            meta = encode_meta(info, DECISION)
            assert meta == plain.encode_meta(info, DECISION)
            assert (text * 65 in decode_meta(meta, info.checksum)[0].patient_id) == (length * each <= free)


def test_texts_that_come_again_are_those_of_their_objects() -> None:
    def check(number: int) -> None:
        info = info_of(1, b"", origin=replace(ORIGIN, peer=f"ct{number}"))
        decision = replace(DECISION, version=f"{number}")
        for one in (info, info_of(2, b"")):
            for of in (decision, DECISION):
                assert encode_meta(one, of) == plain.encode_meta(one, of)

    for number in range(600):  # more than are kept, and each gone when the next one is made
        check(number)


@pytest.mark.parametrize("values", [{"study": None}, {"sop_class": b"1.2"}, {"modality": 3}])
def test_what_is_no_text_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        encode_meta(info_of(1, b"", **values), DECISION)
    with pytest.raises(TypeError):
        plain.encode_meta(info_of(1, b"", **values), DECISION)


@pytest.mark.parametrize("values", [{"id": -1}, {"id": 2**64}, {"checksum": None}, {"size": None}])
def test_what_no_header_can_hold_is_an_error(values: dict[str, Any]) -> None:
    info = info_of(1, b"", **values)
    with pytest.raises((OverflowError, TypeError)):
        native.encode_header(info, b"{}", epoch=1, synced=0, data_offset=HEADER_SIZE + 2)
