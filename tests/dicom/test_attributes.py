"""Values of a data set as rules compare them (PS3.5 §6.2)."""

from __future__ import annotations

import random
import struct

import pytest

from router.dicom.attributes import Attributes

TAG = 0x00191001
"""A private element: its VR is what the encoding says and nothing else."""


def texts(vr: str, value: bytes, *, tag: int = TAG, little_endian: bool = True) -> tuple[str, ...] | None:
    return Attributes({(tag,): (vr, value)}, little_endian=little_endian).texts((tag,))


def numbers(vr: str, value: bytes, *, tag: int = TAG, little_endian: bool = True) -> tuple[float, ...] | None:
    return Attributes({(tag,): (vr, value)}, little_endian=little_endian).numbers((tag,))


def test_missing_is_none_and_empty_is_empty():
    attributes = Attributes({(0x00080060,): ("CS", b"")})
    assert attributes.texts((0x00080060,)) == ()
    assert attributes.numbers((0x00080060,)) == ()
    assert attributes.texts((0x00100020,)) is None
    assert attributes.numbers((0x00100020,)) is None


@pytest.mark.parametrize("vr", ["CS", "LO", "UI", "PN", "DS", "IS", "UT", "US", "FD", "OB", "SQ", "AT", "UN", ""])
@pytest.mark.parametrize("value", [b"", b" ", b"\0", b"  \0"])
def test_padding_alone_is_empty(vr, value):
    if vr not in ("US", "FD", "AT") or not value:
        assert texts(vr, value) == ()


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("CS", b"CT", ("CT",)),
        ("CS", b" CT \0", ("CT",)),
        ("CS", b"ORIGINAL\\PRIMARY\\AXIAL ", ("ORIGINAL", "PRIMARY", "AXIAL")),
        ("CS", b"A\\\\B", ("A", "", "B")),
        ("LO", b" chest  ", ("chest",)),
        ("SH", b"A1 \\ B2", ("A1", "B2")),
        ("AE", b" CT1 ", ("CT1",)),
        ("UI", b"1.2.3\0", ("1.2.3",)),
        ("UI", b" 1.2.3 \0", ("1.2.3",)),
        ("UI", b"1.2\\1.3\0", ("1.2", "1.3")),
        ("DA", b"20260102", ("20260102",)),
        ("TM", b"101500 ", ("101500",)),
        ("ST", b"  a\\b  ", ("  a\\b",)),
        ("LT", b"line\r\nline ", ("line\r\nline",)),
        ("UT", b"a\\b", ("a\\b",)),
        ("UC", b" a\\b ", (" a", "b")),
        ("UR", b"http://x/a\\b ", ("http://x/a\\b",)),
        ("PN", b"Doe^Jane ", ("Doe^Jane",)),
        ("PN", b"Doe^Jane=ideo=phon", ("Doe^Jane",)),
        ("PN", b"Doe^Jane\\Roe^Rick", ("Doe^Jane", "Roe^Rick")),
        ("PN", b"=ideo", ("",)),
        ("IS", b" 12 ", ("12",)),
        ("DS", b"1.50\\2 ", ("1.50", "2")),
        ("AS", b"045Y", ("045Y",)),
        ("OB", b"abcd", ()),
        ("OW", b"abcd", ()),
        ("SQ", b"", ()),
    ],
)
def test_text_is_trimmed_and_split_as_its_vr_asks(vr, value, expected):
    assert texts(vr, value) == expected


@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian", "big endian"])
@pytest.mark.parametrize(
    ("vr", "code", "values", "shown"),
    [
        ("US", "H", (1, 65535), ("1", "65535")),
        ("SS", "h", (-1,), ("-1",)),
        ("UL", "I", (1 << 31,), ("2147483648",)),
        ("SL", "i", (-5, 5), ("-5", "5")),
        ("UV", "Q", ((1 << 64) - 1,), ("18446744073709551615",)),
        ("SV", "q", (-(1 << 63),), ("-9223372036854775808",)),
        ("FL", "f", (1.5, 2.0), ("1.5", "2")),
        ("FL", "f", (1.1, -0.3, 3.4028235e38, 0.0), ("1.1", "-0.3", "3.4028235e+38", "0")),
        ("FL", "f", (0.104274996,), ("0.104274996",)),
        ("FD", "d", (0.1, 3.0), ("0.1", "3")),
    ],
)
def test_binary_numbers(order, vr, code, values, shown):
    value = struct.pack(f"{order}{len(values)}{code}", *values)
    assert numbers(vr, value, little_endian=order == "<") == values
    assert texts(vr, value, little_endian=order == "<") == shown


def test_every_number_in_single_precision_is_read_as_one_that_is_written_so():
    bits = random.Random(1)
    for _ in range(5000):
        value = struct.pack("<I", bits.getrandbits(32))
        for number in numbers("FL", value):
            assert struct.pack("<f", number) == value


def test_whole_numbers_keep_every_digit():
    assert numbers("UV", struct.pack("<Q", (1 << 64) - 1)) == ((1 << 64) - 1,)
    assert numbers("IS", b"9007199254740993") == (9007199254740993,)


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DS", b"1.50\\-2e1 ", (1.5, -20.0)),
        ("IS", b" 12\\+3 ", (12, 3)),
        ("DS", b"1.5\\\\x\\2", (1.5, 2)),
        ("DS", b"nan\\inf\\1_0", ()),
        ("DS", b"1e999", ()),
        ("LO", b"12", (12,)),
        ("LO", b"chest", ()),
        ("FD", struct.pack("<3d", float("nan"), float("inf"), 1.0), (1.0,)),
        ("US", b"\1\0\2", (1,)),
        ("US", b"\1", ()),
        ("OB", b"12", ()),
        ("IS", b"9" * 5000, ()),
    ],
)
def test_what_is_no_number_is_left_out(vr, value, expected):
    assert numbers(vr, value) == expected


def test_attribute_tags():
    assert texts("AT", b"\x08\0\x60\0\x19\0\xab\x10") == ("0008,0060", "0019,10ab")
    assert texts("AT", b"\0\x08\0\x60", little_endian=False) == ("0008,0060",)
    assert texts("AT", b"\x08\0") == ()


def test_implicit_vr_asks_the_dictionary():
    assert texts("", b"CT ", tag=0x00080060) == ("CT",)
    assert texts("", b"\2\0", tag=0x00280002) == ("2",)
    assert texts("", b"1.2\0", tag=0x00080018) == ("1.2",)
    assert texts("UN", b"\2\0", tag=0x00280002) == ("2",)


def test_an_unknown_vr_is_text_if_it_looks_like_text():
    assert texts("", b"ACME 1\\b ") == ("ACME 1", "b")
    assert texts("UN", b"ACME") == ("ACME",)
    assert texts("", b"\1\2\3\4") == ()


def test_text_is_decoded_before_it_is_split():
    character_set = {(0x00080005,): ("CS", b"ISO_IR 13")}
    description = {(0x00081030,): ("LO", "表\\b".encode("shift-jis"))}
    assert Attributes(character_set | description).texts((0x00081030,)) == ("表", "b")


def test_an_empty_first_character_set_is_the_default_one():
    character_set = {(0x00080005,): ("CS", b"\\ISO 2022 IR 87")}
    name = {(0x00100010,): ("PN", b"Yamada^Tarou=\x1b$B;3ED\x1b(B")}
    description = {(0x00081030,): ("LO", b"\x1b$B;3ED\x1b(B")}
    attributes = Attributes(character_set | name | description)
    assert attributes.texts((0x00100010,)) == ("Yamada^Tarou",)
    assert attributes.texts((0x00081030,)) == ("山田",)


def test_values_within_sequences_have_paths():
    path = (0x00400275, 0, 0x00080050)
    attributes = Attributes({path: ("SH", b"A1"), (0x00400275,): ("SQ", b"")})
    assert attributes.texts(path) == ("A1",)
    assert attributes.texts((0x00400275,)) == ()
    assert attributes.texts((0x00400275, 1, 0x00080050)) is None


def test_an_element_too_long_to_be_read_is_there_all_the_same():
    attributes = Attributes({(0x00080060,): ("CS", b"CT")}, too_long=[(0x7FE00010,)])
    assert attributes.texts((0x7FE00010,)) is None
    assert [attributes.seen((tag,)) for tag in (0x7FE00010, 0x00080060, 0x00100010)] == [True, True, False]


def test_what_is_not_seen_of_an_opaque_data_set_cannot_be_called_missing():
    assert Attributes(available=False).seen((0x00100010,)) is None
