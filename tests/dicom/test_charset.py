"""Text is decoded by Specific Character Set (PS3.5 §6.1, PS3.3 C.12.1.1.2)."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_charset_files

from router.dicom.attributes import Attributes
from router.dicom.charset import decode
from router.dicom.inspect import DatasetInspector
from router.dicom.part10 import read_part10
from router.model import Limits

# The examples of PS3.5 Annexes H to K, and one for each single-byte set.
EXAMPLES = {
    "default": ((), b"Adams^John", "Adams^John"),
    "Latin 1": (("ISO_IR 100",), b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    "Latin 2": (("ISO_IR 101",), b"W\xe1\xb3\xeasa", "Wáłęsa"),
    "Cyrillic": (("ISO_IR 144",), b"\xbb\xee\xda", "Люк"),
    "Greek": (("ISO_IR 126",), b"\xc4\xe9", "Δι"),
    "Arabic": (("ISO_IR 127",), b"\xe2\xc8", "قب"),
    "Hebrew": (("ISO_IR 138",), b"\xf9\xf8", "שר"),
    "Turkish": (("ISO_IR 148",), b"\xc7avu\xfeo\xf0lu", "Çavuşoğlu"),
    "Latin 9": (("ISO_IR 203",), b"\xa4", "€"),
    "Thai": (("ISO_IR 166",), b"\xb9\xd2\xc1", "นาม"),
    "UTF-8": (("ISO_IR 192",), "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
    "GB18030": (("GB18030",), "Wang=王^小东".encode("gb18030"), "Wang=王^小东"),
    "GBK": (("GBK",), "Wang=王^小东".encode("gbk"), "Wang=王^小东"),
    "Japanese, PS3.5 H.3.1": (
        ("", "ISO 2022 IR 87"),
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "Japanese, PS3.5 H.3.2": (
        ("ISO 2022 IR 13", "ISO 2022 IR 87"),
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "Korean, PS3.5 I.2": (
        ("", "ISO 2022 IR 149"),
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "Chinese, PS3.5 K.2": (
        ("", "ISO 2022 IR 58"),
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    "two single-byte sets": (("ISO 2022 IR 100", "ISO 2022 IR 144"), b"J\xe9r\x1b-L\xbb\xee\xda", "JérЛюк"),
}


@pytest.mark.parametrize(("terms", "value", "text"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_examples(terms, value, text):
    assert decode(value, "PN", terms) == text


@pytest.mark.parametrize(
    "term", ["ISO_IR 192", "ISO IR 192", "ISO-IR 192", "iso_ir_192", "ISO 2022 IR 192", "ISO_IR192"]
)
def test_terms_are_read_as_they_are_spelled_in_the_field(term):
    assert decode("é".encode(), "LO", (term,)) == "é"


def test_an_unknown_term_is_read_as_utf_8_or_latin_1():
    assert decode("é".encode(), "LO", ("FUNNY",)) == "é"
    assert decode(b"\xe9", "LO", ("FUNNY",)) == "é"


def test_text_that_the_character_set_does_not_govern():
    assert decode(b"\xe9", "CS", ("ISO_IR 192",)) == "é"


def test_a_delimiter_brings_the_first_set_back():
    assert decode(b"\x1b-L\xbb\\\xe9", "LO", ("ISO 2022 IR 100", "ISO 2022 IR 144")) == "Л\\é"
    assert decode(b"\x1b-L\xbb^\xe9", "PN", ("ISO 2022 IR 100", "ISO 2022 IR 144")) == "Л^é"
    assert decode(b"\x1b-L\xbb^\xee", "LO", ("ISO 2022 IR 100", "ISO 2022 IR 144")) == "Л^ю"


def test_a_backslash_within_a_character_separates_nothing():
    name = "表"  # 0x95 0x5C in Shift JIS
    assert decode(name.encode("shift-jis"), "LO", ("ISO_IR 13",)) == name


@given(
    value=st.lists(
        st.one_of(st.binary(max_size=6), st.sampled_from([b"\x1b", b"\x1b$B", b"\x1b$)C", b"\x1b(J", b"\\"]))
    ).map(b"".join),
    vr=st.sampled_from(["PN", "LO", "UT", "CS", ""]),
    terms=st.lists(
        st.sampled_from(["", "ISO_IR 13", "ISO_IR 192", "GB18030", "ISO 2022 IR 87", "GBK", "x"]), max_size=3
    ),
)
def test_decoding_never_raises(value, vr, terms):
    assert isinstance(decode(value, vr, tuple(terms)), str)


def test_pydicoms_character_set_samples():
    """Patient's Name of every sample file, decoded as pydicom decodes it."""
    compared = 0
    for path in get_charset_files("*.dcm"):
        expected = pydicom.dcmread(path)
        if "PatientName" not in expected:
            continue
        with Path(path).open("rb") as file:
            syntax = read_part10(file).transfer_syntax
            inspector = DatasetInspector(syntax, frozenset({(0x00100010,)}), Limits())
            inspector.feed(file.read())
        attributes: Attributes = inspector.finish()
        name = expected.PatientName
        names = [name] if isinstance(name, pydicom.valuerep.PersonName) else list(name)
        assert attributes.texts((0x00100010,)) == tuple(str(one).split("=")[0].rstrip() for one in names), path
        compared += 1
    assert compared > 10
