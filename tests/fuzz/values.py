"""Values as rules and people see them (PS3.5 §6.1, §6.2): any bytes under any VR and character set, never an error.

The native short cut for plain text says what the slow way says, and numbers and plain text are what pydicom reads.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.values import convert_value

from router._walker import plain_text
from router.dicom.attributes import _PLAIN, SPECIFIC_CHARACTER_SET, Attributes
from tests.fuzz.inputs import chosen, split
from tests.support.plain_walk import LONG, SHORT

VRS = (*sorted(SHORT | LONG), "", "XY")
TAG = (0x00191001,)
"""A private element: nothing but its encoding says its VR."""
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def check(data: bytes) -> None:
    """Options: VR, byte order. Then Specific Character Set up to a line end, and the value."""
    options, rest = split(data, 2)
    vr, little = chosen(VRS, options[0]), not options[1] & 1
    character_set, _, value = rest.partition(b"\n")
    attributes = Attributes({SPECIFIC_CHARACTER_SET: ("CS", character_set), TAG: (vr, value)}, little_endian=little)
    texts, numbers = attributes.texts(TAG), attributes.numbers(TAG)
    assert texts is not None and all(isinstance(text, str) for text in texts)
    assert numbers is not None and all(math.isfinite(number) for number in numbers)
    assert attributes.firsts([TAG]) == [next(iter(texts), "")]
    short = plain_text(value)
    assert short == slow(value)
    if short is not None and vr in _PLAIN:
        assert attributes._read(vr, value) == ((short,) if short else ())
    if vr in NUMBERS:
        as_the_struct_module_reads(vr, value, little, numbers)
    if vr in ("CS", "LO", "SH", "UI", "PN") and value.isascii() and printable(value):
        as_pydicom_reads(vr, value, texts)


def printable(value: bytes) -> bool:
    return value.rstrip(b"\0").decode("latin-1").isprintable()


def slow(value: bytes) -> str | None:
    if any(byte >= 0x80 or byte in b"\\\x1b" for byte in value):
        return None
    return value.decode("ascii").strip("\0 ")


def as_the_struct_module_reads(vr: str, value: bytes, little: bool, numbers: tuple[float, ...]) -> None:
    code = ("<" if little else ">") + NUMBERS[vr]
    size = struct.calcsize(code)
    whole = value[: len(value) // size * size]
    expected = [number for (number,) in struct.iter_unpack(code, whole) if math.isfinite(number)]
    # In single precision another number stands for the same bytes: the one with the fewest digits.
    assert [struct.unpack(code, struct.pack(code, number))[0] for number in numbers] == expected


def as_pydicom_reads(vr: str, value: bytes, texts: tuple[str, ...]) -> None:
    raw = RawDataElement(BaseTag(TAG[0]), vr, len(value), value, 0, False, True)
    found: Any = convert_value(vr, raw)
    parts = list(found) if isinstance(found, list | MultiValue) else [found]
    theirs = [(str(part).split("=")[0] if vr == "PN" else str(part)).strip("\0 ") for part in parts]
    ours = [text.strip("\0 ") for text in texts]
    if any(theirs) or any(ours):
        assert ours == theirs
