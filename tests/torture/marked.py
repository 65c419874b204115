"""Objects with a string of their own in every text, and the search for those strings where they must not be.

Each data set holds every element of PS3.6 whose VR carries text, once, and more of them in sequences and private
blocks. Values are not what their VR wants: a date is a mark too, so whatever judges or compares values meets it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import cache

from tests.support.plain_dataset import EXPLICIT as WRITER

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"))

MARK = "QZXWVKJY"
"""Begins every text mark; no word of ours or of the standard has it."""
UID_MARK = "7713946205"
"""Stands in every UID that a marked data set holds, behind 2.25."""
_SERIAL = "######"
_PIXELS = 0x7FE00010


def mark(serial: int, what: str = "..") -> str:
    """16 characters, as many as an AE title or a CS has."""
    return f"{MARK}{serial:06d}{what[:2]:.<2}"


def sop_instance(serial: int) -> str:
    return f"2.25.{UID_MARK}{serial:06d}08"


def data_set(serial: int, *, pixels: int = 512, leave_out: Iterable[int] = ()) -> bytes:
    """Explicit VR little endian; ``leave_out``: tags."""
    parts = [content for tag, content in _template() if tag not in set(leave_out)]
    body = b"".join(parts).replace(_SERIAL.encode(), f"{serial:06d}".encode())
    return body + WRITER.element(_PIXELS, "OW", bytes(pixels + pixels % 2))


@cache
def texts_in_a_data_set() -> int:
    return b"".join(content for _, content in _template()).count(MARK.encode())


@cache
def _template() -> tuple[tuple[int, bytes], ...]:
    from pydicom.datadict import DicomDictionary  # the watched router needs marks, and no data sets

    elements = {
        tag: _text(tag, vr) if vr in TEXT_VRS else _uid(tag)
        for tag, (vr, *_) in DicomDictionary.items()
        if 0x0008_0000 <= tag < _PIXELS and (vr in TEXT_VRS or vr == "UI")
    }
    elements[0x0008_0016] = WRITER.element(0x0008_0016, "UI", f"{CT}\0".encode())
    elements[0x0008_0018] = _even(0x0008_0018, "UI", f"2.25.{UID_MARK}{_SERIAL}08", b"\0")
    # Values that decode, too: three groups of a name in a character set that the router knows.
    elements[0x0008_0005] = _even(0x0008_0005, "CS", "ISO_IR 192")
    elements[0x0010_0010] = _even(0x0010_0010, "PN", f"{MARK}{_SERIAL}^A=山{MARK}{_SERIAL}=ら{MARK}{_SERIAL}")
    inner = _text(0x0008_0104, "LO") + WRITER.sequence(0x0040_A043, WRITER.item(_text(0x0040_A160, "UT")))
    elements[0x0008_1110] = WRITER.sequence(0x0008_1110, WRITER.item(inner), WRITER.item(inner, undefined=True))
    elements[0x0040_0275] = WRITER.sequence(0x0040_0275, WRITER.item(inner), undefined=True)
    elements[0x0029_0010] = _text(0x0029_0010, "LO")
    elements[0x0029_1010] = _text(0x0029_1010, "UN")
    elements[0x0029_1011] = _text(0x0029_1011, "OB")
    elements[0x0029_1012] = WRITER.sequence(0x0029_1012, WRITER.item(_text(0x0029_1013, "LT")), vr="UN")
    return tuple(sorted(elements.items()))


def _text(tag: int, vr: str) -> bytes:
    return _even(tag, vr, f"{MARK}{_SERIAL}{vr}")


def _uid(tag: int) -> bytes:
    return _even(tag, "UI", f"2.25.{UID_MARK}{_SERIAL}{tag % 89 + 10}", b"\0")


def _even(tag: int, vr: str, text: str, padding: bytes = b" ") -> bytes:
    value = text.encode()
    return WRITER.element(tag, vr, value + padding if len(value) % 2 else value)


# The search ------------------------------------------------------------------------------------------------


def found_in(content: bytes, *, uids: bool = True) -> str:
    """What of the marks stands in ``content``, with what is around it; "" if nothing does.

    Marks are also found in other case, in UTF-16, as hexadecimal digits, and in Base64.
    """
    lower = content.lower()
    for exact, folded in _needles(uids):
        at = content.find(exact) if exact else lower.find(folded)
        if at >= 0:
            return repr(content[max(0, at - 60) : at + 60])
    return ""


@cache
def _needles(uids: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs of which one is empty: what is looked for as it stands, and in any case."""
    found: list[tuple[bytes, bytes]] = []
    for word in (MARK, UID_MARK) if uids else (MARK,):
        plain = word.lower().encode()
        found += [(b"", plain), (b"", word.lower().encode("utf-16-le"))]
        found += [(b"", word.encode().hex().encode()), (b"", plain.hex().encode())]
        found += [(_base64(word.encode(), shift), b"") for shift in range(3)]
    return tuple(found)


def _base64(word: bytes, shift: int) -> bytes:
    """The digits that depend on the word alone, wherever it begins."""
    digits = base64.b64encode(bytes(shift) + word)
    return digits[-(-8 * shift // 6) : 8 * (shift + len(word)) // 6]
