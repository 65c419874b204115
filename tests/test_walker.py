"""Element framing is checked to the last byte, in any encoding, wherever buffers are cut (PS3.5 §7)."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._walker import ElementWalker
from router.errors import DatasetError
from router.model import Status
from tests.support.plain_dataset import BIG, EXPLICIT, IMPLICIT, LONG, UNDEFINED, Encoding
from tests.support.plain_walk import Walk

MODALITY = (0x00080060,)
PATIENT_ID = (0x00100020,)
REQUEST = 0x00400275
REQUEST_ACCESSION = (REQUEST, 0, 0x00080050)
SECOND_ACCESSION = (REQUEST, 1, 0x00080050)
WANTED = frozenset((MODALITY, PATIENT_ID, REQUEST_ACCESSION, SECOND_ACCESSION, (REQUEST,), (0x7FE00010,)))
ENCODINGS = [EXPLICIT, IMPLICIT, BIG]
IDS = ["explicit", "implicit", "big endian"]


def outcome(walk: Any) -> tuple[Any, ...]:
    return (walk.values, walk.unavailable, bool(walk.truncated), bool(walk.has_meta))


def native(encoding: Encoding, *pieces: bytes, wanted: frozenset[Any] = WANTED, **limits: int) -> Any:
    """What the walker makes of a data set given in pieces: what it collected, or the status it refused it with."""
    walker = ElementWalker(explicit=encoding.explicit, little_endian=encoding.little, wanted=wanted, **limits)
    try:
        for piece in pieces:
            walker.feed(piece)
        walker.finish()
    except DatasetError as error:
        return error.status
    return outcome(walker)


def plain(encoding: Encoding, data: bytes, wanted: frozenset[Any] = WANTED, **limits: int) -> Any:
    walk = Walk(encoding.explicit, encoding.little, wanted, **limits)
    try:
        walk.walk(data)
    except DatasetError as error:
        return error.status
    return outcome(walk)


def walked(encoding: Encoding, data: bytes, **limits: int) -> Any:
    """The outcome, the same for both walkers, whole and byte by byte."""
    found = native(encoding, data, **limits)
    assert found == plain(encoding, data, **limits)
    assert found == native(encoding, *(data[i : i + 1] for i in range(len(data))), **limits)
    return found


def collected(encoding: Encoding, data: bytes, **limits: int) -> dict[Any, bytes]:
    found = walked(encoding, data, **limits)
    assert isinstance(found, tuple), f"refused with {found:#06x}"
    return {path: value for path, (_, value) in found[0].items()}


def image(encoding: Encoding) -> bytes:
    """A small data set with a bit of everything."""
    accession = encoding.element(0x00080050, "SH", b"A1")
    return b"".join(
        (
            encoding.element(0x00080000, "UL", struct.pack("<I", 100)),
            encoding.element(0x00080060, "CS", b"CT"),
            encoding.element(0x00100020, "LO", b"P1"),
            encoding.element(0x00190010, "LO", b"ACME"),
            encoding.sequence(0x00191001, encoding.item(accession, undefined=True), undefined=True),
            encoding.sequence(REQUEST, encoding.item(accession), encoding.item(b""), encoding.item(accession)),
            encoding.sequence(
                0x00400260, encoding.item(accession, undefined=True), encoding.item(accession), undefined=True
            ),
            encoding.sequence(0x00400321),
            encoding.element(0x7FE00010, "OW", bytes(64)),
            encoding.element(0xFFFCFFFC, "OB", bytes(6)),
        )
    )


# What is legal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
def test_wanted_values_are_collected(encoding):
    values = collected(encoding, image(encoding))
    assert values[MODALITY] == b"CT"
    assert values[PATIENT_ID] == b"P1"
    assert values[REQUEST_ACCESSION] == b"A1"
    assert SECOND_ACCESSION not in values
    assert values[(REQUEST,)] == b""


def test_explicit_vr_comes_with_the_value():
    assert walked(EXPLICIT, image(EXPLICIT))[0][MODALITY] == ("CS", b"CT")
    assert walked(IMPLICIT, image(IMPLICIT))[0][MODALITY] == ("", b"CT")


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
def test_a_data_set_cut_anywhere_but_between_elements_is_refused(encoding):
    data = image(encoding)
    whole = [end for end in range(len(data) + 1) if isinstance(plain(encoding, data[:end]), tuple)]
    for end in range(len(data) + 1):
        expected = plain(encoding, data[:end])
        assert native(encoding, data[:end]) == expected
        if end not in whole:
            assert expected == Status.FRAMING_ERROR
    assert whole[0] == 0
    assert len(whole) == 11


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
def test_two_buffers_cut_anywhere_give_the_same(encoding):
    data = image(encoding)
    expected = plain(encoding, data)
    for cut in range(len(data) + 1):
        assert native(encoding, data[:cut], b"", data[cut:]) == expected


def test_encapsulated_pixel_data_is_walked_fragment_by_fragment():
    data = EXPLICIT.element(0x00080060, "CS", b"CT") + EXPLICIT.fragments(b"", b"abcd", b"ef")
    assert collected(EXPLICIT, data)[MODALITY] == b"CT"
    whole = [end for end in range(len(data) + 1) if isinstance(native(EXPLICIT, data[:end]), tuple)]
    assert whole == [0, 10, len(data)]


def test_encapsulated_pixel_data_within_an_icon():
    icon = EXPLICIT.item(EXPLICIT.fragments(b"", b"abcd"))
    data = EXPLICIT.sequence(0x00880200, icon) + EXPLICIT.element(0x00100020, "LO", b"P1")
    assert collected(EXPLICIT, data)[PATIENT_ID] == b"P1"


@pytest.mark.parametrize("encoding", [EXPLICIT, BIG], ids=["little endian", "big endian"])
def test_un_of_undefined_length_is_implicit_little_endian_inside(encoding):
    inside = IMPLICIT.item(IMPLICIT.element(0x00080050, "SH", b"A1"), undefined=True)
    data = encoding.header(REQUEST, "UN", UNDEFINED) + inside + IMPLICIT.bare(0xFFFEE0DD, 0)
    data += encoding.element(0x00400280, "ST", b"x ")
    assert collected(encoding, data)[REQUEST_ACCESSION] == b"A1"


def test_a_vr_of_the_future_has_the_long_form():
    data = (
        EXPLICIT.tag(0x00080001)
        + b"XY\0\0"
        + struct.pack("<I", 4)
        + b"abcd"
        + EXPLICIT.element(0x00080060, "CS", b"CT")
    )
    assert collected(EXPLICIT, data) == {MODALITY: b"CT"}


def test_a_private_vr_with_a_short_length():
    data = EXPLICIT.tag(0x00080001) + b"XY\4\0abcd" + EXPLICIT.element(0x00080060, "CS", b"CT")
    assert collected(EXPLICIT, data) == {MODALITY: b"CT"}


def test_one_element_without_a_vr_in_an_explicit_data_set():
    data = (
        EXPLICIT.element(0x00080005, "CS", b"ISO_IR 100")
        + IMPLICIT.element(0x00080060, "CS", b"CT")
        + EXPLICIT.element(0x00100020, "LO", b"P1")
    )
    assert collected(EXPLICIT, data) == {MODALITY: b"CT", PATIENT_ID: b"P1"}


def test_tags_out_of_order_and_repeated():
    data = b"".join(
        EXPLICIT.element(tag, "LO", value)
        for tag, value in ((0x00100020, b"P1"), (0x00080060, b"CT"), (0x00100020, b"P2"), (0x00080060, b"MR"))
    )
    assert collected(EXPLICIT, data) == {MODALITY: b"CT", PATIENT_ID: b"P1"}


def test_odd_lengths_and_one_nul_after_an_odd_total():
    data = EXPLICIT.element(0x00080060, "CS", b"CT1")
    assert collected(EXPLICIT, data) == {MODALITY: b"CT1"}
    assert collected(EXPLICIT, data + b"\0") == {MODALITY: b"CT1"}
    assert walked(EXPLICIT, data + b"\0\0") == Status.FRAMING_ERROR
    assert walked(EXPLICIT, EXPLICIT.element(0x00080060, "CS", b"CT") + b"\0") == Status.FRAMING_ERROR


def test_data_set_trailing_padding_is_an_element():
    data = EXPLICIT.element(0x00080060, "CS", b"CT") + EXPLICIT.element(0xFFFCFFFC, "OB", bytes(10))
    assert collected(EXPLICIT, data) == {MODALITY: b"CT"}


def test_an_empty_data_set():
    assert collected(EXPLICIT, b"") == {}


def test_an_empty_value_is_collected_as_empty():
    assert collected(EXPLICIT, EXPLICIT.element(0x00080060, "CS", b"")) == {MODALITY: b""}


# Encoded otherwise than negotiated -------------------------------------------------------------------------


@pytest.mark.parametrize(("negotiated", "sent"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
def test_the_other_vr_encoding_is_walked_as_what_it_is(negotiated, sent):
    values = collected(negotiated, image(sent))
    assert values[MODALITY] == b"CT"
    assert values[REQUEST_ACCESSION] == b"A1"


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
def test_group_0002_at_the_beginning_is_explicit_little_endian(encoding):
    meta = EXPLICIT.element(0x00020001, "OB", b"\0\1") + EXPLICIT.element(0x00020010, "UI", b"1.2.840.10008.1.2\0")
    found = walked(encoding, meta + image(encoding))
    assert found[3] is True
    assert found[0][MODALITY][1] == b"CT"


# What is refused -------------------------------------------------------------------------------------------

REFUSED = {
    "an item outside of a sequence": EXPLICIT.item(b""),
    "a sequence delimiter at the top": EXPLICIT.bare(0xFFFEE0DD, 0),
    "an item delimiter at the top": EXPLICIT.bare(0xFFFEE00D, 0),
    "an element where an item must be": EXPLICIT.sequence(REQUEST, EXPLICIT.element(0x00080050, "SH", b"A1")),
    "an item longer than its sequence": EXPLICIT.header(REQUEST, "SQ", 8) + EXPLICIT.item(bytes(8)),
    "an item header cut by the end of its sequence": EXPLICIT.header(REQUEST, "SQ", 4) + EXPLICIT.item(bytes(8)),
    "an element longer than its item": EXPLICIT.sequence(
        REQUEST, EXPLICIT.bare(0xFFFEE000, 10) + EXPLICIT.element(0x00080050, "SH", b"ABCD")
    ),
    "a sequence longer than the item around it": EXPLICIT.sequence(
        REQUEST, EXPLICIT.item(EXPLICIT.header(0x00081140, "SQ", 100)), EXPLICIT.item(bytes(100))
    ),
    "an item delimiter in an item of defined length": EXPLICIT.sequence(
        REQUEST, EXPLICIT.item(EXPLICIT.bare(0xFFFEE00D, 0))
    ),
    "a sequence delimiter in an item": EXPLICIT.sequence(
        REQUEST, EXPLICIT.item(EXPLICIT.bare(0xFFFEE0DD, 0), undefined=True)
    ),
    "a sequence delimiter in a sequence of defined length": EXPLICIT.sequence(REQUEST, EXPLICIT.bare(0xFFFEE0DD, 0)),
    "a sequence of undefined length without an end": EXPLICIT.header(REQUEST, "SQ", UNDEFINED) + EXPLICIT.item(b""),
    "an item of undefined length without an end": EXPLICIT.sequence(REQUEST, EXPLICIT.bare(0xFFFEE000, UNDEFINED)),
    "undefined length of a text": EXPLICIT.header(0x00104000, "UT", UNDEFINED)
    + EXPLICIT.item(b"")
    + EXPLICIT.bare(0xFFFEE0DD, 0),
    "a fragment of undefined length": EXPLICIT.header(0x7FE00010, "OB", UNDEFINED) + EXPLICIT.item(b"", undefined=True),
    "fragments without an end": EXPLICIT.fragments(b"", b"abcd")[:-8],
    "a value longer than the data set": EXPLICIT.header(0x7FE00010, "OW", 0xFFFFFFFE) + bytes(100),
    "a sequence longer than the data set": EXPLICIT.header(REQUEST, "SQ", 0xFFFFFFF0) + EXPLICIT.item(b""),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_broken_framing_is_refused(data):
    assert walked(EXPLICIT, data) == Status.FRAMING_ERROR


def test_a_standard_sequence_in_implicit_vr_is_entered():
    assert walked(IMPLICIT, IMPLICIT.element(REQUEST, "SQ", b"no items here")) == Status.FRAMING_ERROR


def test_a_private_value_in_implicit_vr_is_skipped():
    data = IMPLICIT.element(0x00191001, "SQ", b"no items here") + IMPLICIT.element(0x00100020, "LO", b"P1")
    assert collected(IMPLICIT, data) == {PATIENT_ID: b"P1"}


def test_after_a_refusal_everything_is_refused_again():
    walker = ElementWalker(explicit=True, little_endian=True, wanted=WANTED)
    for call in (lambda: walker.feed(EXPLICIT.item(b"")), lambda: walker.feed(b"x"), walker.finish):
        with pytest.raises(DatasetError) as refused:
            call()
        assert refused.value.status == Status.FRAMING_ERROR
        assert len(refused.value.comment) <= 64


# Limits ----------------------------------------------------------------------------------------------------


def nested(encoding: Encoding, depth: int, *, undefined: bool, tag: int = REQUEST, vr: str = "SQ") -> bytes:
    """Sequences within one another; built from the outside where lengths are undefined, so that a million is quick."""
    if undefined:
        opening = encoding.header(tag, vr, UNDEFINED) + encoding.bare(0xFFFEE000, UNDEFINED)
        return opening * depth + (encoding.bare(0xFFFEE00D, 0) + encoding.bare(0xFFFEE0DD, 0)) * depth
    data = b""
    for _ in range(depth):
        data = encoding.sequence(tag, encoding.item(data))
    return data


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
@pytest.mark.parametrize("undefined", [True, False], ids=["undefined", "defined"])
def test_sequences_nest_64_deep_and_no_deeper(encoding, undefined):
    assert isinstance(walked(encoding, nested(encoding, 64, undefined=undefined)), tuple)
    assert walked(encoding, nested(encoding, 65, undefined=undefined)) == Status.NESTED_TOO_DEEP


def test_private_sequences_and_un_count_as_well():
    assert walked(EXPLICIT, nested(EXPLICIT, 65, undefined=True, tag=0x00191001)) == Status.NESTED_TOO_DEEP
    inside = nested(IMPLICIT, 64, undefined=True, tag=0x00191001)
    data = EXPLICIT.header(0x00191001, "UN", UNDEFINED) + IMPLICIT.item(inside) + IMPLICIT.bare(0xFFFEE0DD, 0)
    assert walked(EXPLICIT, data) == Status.NESTED_TOO_DEEP


def test_fragments_fit_at_the_deepest_level():
    inside = EXPLICIT.fragments(b"", b"ab")
    for _ in range(64):
        inside = EXPLICIT.sequence(REQUEST, EXPLICIT.item(inside))
    assert isinstance(walked(EXPLICIT, inside), tuple)


def test_a_million_levels_are_refused_early():
    assert native(EXPLICIT, nested(EXPLICIT, 1_000_000, undefined=True)) == Status.NESTED_TOO_DEEP


def test_many_short_sequences_side_by_side_are_no_depth():
    data = EXPLICIT.sequence(REQUEST, EXPLICIT.item(b"")) * 200
    assert isinstance(walked(EXPLICIT, data), tuple)


def test_elements_are_counted_up_to_pixel_data():
    element = EXPLICIT.element(0x00191010, "SH", b"")
    after = EXPLICIT.element(0x7FE00010, "OW", b"ab") + element * 20
    assert isinstance(walked(EXPLICIT, element * 10 + after, max_elements=10), tuple)
    assert walked(EXPLICIT, element * 11 + after, max_elements=10) == Status.TOO_MANY_ELEMENTS
    within = EXPLICIT.sequence(REQUEST, EXPLICIT.item(element * 10))
    assert walked(EXPLICIT, within, max_elements=10) == Status.TOO_MANY_ELEMENTS


def test_values_over_64_kib_are_unavailable():
    data = EXPLICIT.element(0x00080060, "UT", bytes(65537)) + EXPLICIT.element(0x00100020, "UT", b"p" * 65536)
    found = native(EXPLICIT, data)
    assert found == plain(EXPLICIT, data)
    assert found[1] == [MODALITY]
    assert found[0] == {PATIENT_ID: ("UT", b"p" * 65536)}


def test_past_the_header_limit_nothing_is_collected_but_framing_is_checked():
    data = EXPLICIT.element(0x00080060, "CS", b"CT") + EXPLICIT.element(0x00191010, "UT", bytes(500))
    tail = EXPLICIT.element(0x00200020, "LO", b"xx") + EXPLICIT.element(0x00100020, "LO", b"P1")
    found = walked(EXPLICIT, data + tail, max_header_bytes=400)
    assert found == ({MODALITY: ("CS", b"CT")}, [], True, False)
    assert walked(EXPLICIT, data + tail[:-1], max_header_bytes=400) == Status.FRAMING_ERROR


def test_bulk_data_is_not_header():
    data = EXPLICIT.element(0x00080060, "CS", b"CT") + EXPLICIT.element(0x00420011, "OB", bytes(70000))
    tail = EXPLICIT.element(0x00420012, "LO", b"pd")
    assert native(EXPLICIT, data + tail, wanted=frozenset({(0x00420012,)}), max_header_bytes=400) == (
        {(0x00420012,): ("LO", b"pd")},
        [],
        False,
        False,
    )


def test_the_walker_tells_where_it_is():
    walker = ElementWalker(explicit=True, little_endian=True, wanted=frozenset())
    walker.feed(EXPLICIT.element(0x00080060, "CS", b"CT") + b"\x10\0\x20")
    assert walker.position == 13
    assert not walker.past_header
    walker.feed(b"\0LO\0\0" + EXPLICIT.element(0x7FE00010, "OW", bytes(10)))
    assert walker.past_header


@pytest.mark.parametrize("path", [(), (REQUEST, 0), (REQUEST, 0, REQUEST, 1)])
def test_a_path_ends_in_a_tag(path):
    with pytest.raises(ValueError, match="path"):
        ElementWalker(explicit=True, little_endian=True, wanted=frozenset({path}))


def test_paths_into_several_items_and_levels():
    wanted = frozenset({(REQUEST, 0, 0x00081140, 2, 0x00081155), (REQUEST, 3, 0x00080050), (REQUEST, 0, 0x00081140)})
    reference = [EXPLICIT.item(EXPLICIT.element(0x00081155, "UI", str(number).encode())) for number in range(4)]
    items = [
        EXPLICIT.item(
            EXPLICIT.element(0x00080050, "SH", f"A{number}".encode())
            + EXPLICIT.sequence(0x00081140, *reference, undefined=bool(number & 1)),
            undefined=number > 1,
        )
        for number in range(5)
    ]
    data = EXPLICIT.sequence(REQUEST, *items)
    found = native(EXPLICIT, data, wanted=wanted)
    assert found == plain(EXPLICIT, data, wanted=wanted)
    assert sorted(found[0].items()) == [
        ((REQUEST, 0, 0x00081140), ("SQ", b"")),
        ((REQUEST, 0, 0x00081140, 2, 0x00081155), ("UI", b"2")),
        ((REQUEST, 3, 0x00080050), ("SH", b"A3")),
    ]


# Anything --------------------------------------------------------------------------------------------------

TAGS = st.sampled_from([0x00080005, 0x00080050, 0x00080060, 0x00100020, 0x00191001, 0x00400321, 0x7FE00010, 0xFFFCFFFC])
VRS = st.sampled_from(["CS", "LO", "UL", "OB", "OW", "UN", "UT", "ZZ"])


@st.composite
def data_sets(draw: st.DrawFn, encoding: Encoding) -> bytes:
    def content(depth: int) -> bytes:
        parts = []
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.integers(0, 9 if depth < 4 else 5))
            if kind <= 4:
                parts.append(encoding.element(draw(TAGS), draw(VRS), draw(st.binary(max_size=9))))
            elif kind == 5:
                parts.append(
                    encoding.fragments(
                        *draw(st.lists(st.binary(max_size=5), max_size=3)), vr=draw(st.sampled_from(sorted(LONG)))
                    )
                )
            else:
                tag = draw(st.sampled_from([REQUEST, 0x00081140, 0x00191001]))
                items = [
                    encoding.item(content(depth + 1), undefined=draw(st.booleans()))
                    for _ in range(draw(st.integers(0, 3)))
                ]
                parts.append(
                    encoding.sequence(
                        tag, *items, undefined=draw(st.booleans()), vr=draw(st.sampled_from(["SQ", "UN"]))
                    )
                )
        return b"".join(parts)

    data = bytearray(content(0))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data))) if draw(st.booleans()) else len(data)
    return bytes(data[:end])


@pytest.mark.parametrize("encoding", ENCODINGS, ids=IDS)
@given(data=st.data(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_both_walkers_agree_on_anything_cut_anywhere(encoding, data, cuts):
    stream = data.draw(data_sets(encoding))
    limits = {"max_depth": 2, "max_elements": 12, "max_header_bytes": 150}
    expected = plain(encoding, stream, **limits)
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(at)]
    assert native(encoding, stream, **limits) == expected
    assert native(encoding, *pieces, **limits) == expected


@given(stream=st.binary(max_size=60), cut=st.integers(0, 60))
def test_both_walkers_agree_on_noise(stream, cut):
    for encoding in ENCODINGS:
        expected = plain(encoding, stream)
        assert native(encoding, stream[:cut], stream[cut:]) == expected
