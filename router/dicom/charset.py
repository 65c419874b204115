"""Text of a data set to ``str`` by its Specific Character Set (0008,0005).

PS3.5 §6.1, PS3.3 C.12.1.1.2: single-byte sets, ISO 2022 code extensions, UTF-8, GB18030 and GBK. For comparing in
rules and showing to people; the bytes that travel on are never touched. Never raises: what cannot be decoded becomes
U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_ESC = b"\x1b"

# VRs whose repertoire Specific Character Set replaces (PS3.5 Table 6.2-1). All others are of the default repertoire.
EXTENSIBLE = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))

# By the number of the ISO registration, for ISO_IR n and ISO 2022 IR n alike.
_SINGLE_BYTE = {
    "6": "latin-1",  # ASCII by the letter; modalities that leave (0008,0005) out write Latin-1
    "100": "latin-1",
    "101": "iso8859-2",
    "109": "iso8859-3",
    "110": "iso8859-4",
    "144": "iso8859-5",
    "127": "iso8859-6",
    "126": "iso8859-7",
    "138": "iso8859-8",
    "148": "iso8859-9",
    "203": "iso8859-15",
    "166": "tis-620",
    "13": "shift-jis",
    "192": "utf-8",
}

# Escape sequences (PS3.3 Tables C.12-3 and C.12-4) that leave G1 as it is: ASCII and JIS X 0201 romaji into G0.
_BACK_TO_SINGLE = (b"(B", b"(J")
# 94x94 sets into G0: the codec needs the escape sequence with it.
_INTO_G0 = {b"$B": "iso2022-jp", b"$(D": "iso2022-jp-2"}
_INTO_G1 = {
    b")I": "shift-jis",
    b"-A": "latin-1",
    b"-B": "iso8859-2",
    b"-C": "iso8859-3",
    b"-D": "iso8859-4",
    b"-L": "iso8859-5",
    b"-G": "iso8859-6",
    b"-F": "iso8859-7",
    b"-H": "iso8859-8",
    b"-M": "iso8859-9",
    b"-b": "iso8859-15",
    b"-T": "tis-620",
    b"$)C": "euc-kr",
    b"$)A": "gb2312",
}
_SEQUENCES = sorted((*_BACK_TO_SINGLE, *_INTO_G0, *_INTO_G1), key=len, reverse=True)

# What brings the initial sets back (PS3.5 §6.1.2.5.3): line ends and the value delimiter; in a PN the delimiters of
# its parts as well.
_RESETS = re.compile(rb"([\\\r\n\f])")
_RESETS_PN = re.compile(rb"([\\\r\n\f^=])")


@lru_cache(maxsize=64)
def _initial_codec(term: str) -> str | None:
    """The codec of one defined term, spelled as loosely as it is met; None for one that is unknown."""
    squeezed = re.sub(r"[^A-Z0-9]", "", term.upper())
    if not squeezed:
        return "latin-1"
    if squeezed in ("GB18030", "GBK"):
        return squeezed.lower()
    match = re.fullmatch(r"(?:ISO)?(?:2022)?(?:IR)?([0-9]+)", squeezed)
    if match is None:
        return None
    # Multi-byte sets of code extensions begin in ASCII.
    return "latin-1" if match[1] in ("87", "159", "149", "58") else _SINGLE_BYTE.get(match[1])


def decode(value: bytes, vr: str, terms: Sequence[str] = ()) -> str:
    """The text of an element's value, whole: values are not split, padding is not trimmed.

    Args:
        value: As in the data set.
        vr: Only those in ``EXTENSIBLE``, and an unknown one (""), follow the character set.
        terms: Values of Specific Character Set; none is the default repertoire. Decode before splitting at
        backslashes: in some
            sets the second byte of a character may be one.
    """
    if _ESC not in value and value.isascii():
        return value.decode("ascii")
    if vr and vr not in EXTENSIBLE:
        return value.decode("latin-1")
    codec = _initial_codec(terms[0]) if terms else "latin-1"
    if codec is None:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            codec = "latin-1"
    if _ESC not in value or codec in ("utf-8", "gb18030", "gbk"):
        return value.decode(codec, "replace")
    return _code_extensions(value, codec, _RESETS_PN if vr == "PN" else _RESETS)


def _code_extensions(value: bytes, initial: str, resets: re.Pattern[bytes]) -> str:
    """Text with escape sequences (PS3.5 §6.1.2.5)."""
    out: list[str] = []
    g1 = initial
    first, *runs = value.split(_ESC)
    out.append(first.decode(initial, "replace"))
    for run in runs:
        sequence = next((sequence for sequence in _SEQUENCES if run.startswith(sequence)), b"")
        text = run[len(sequence) :]
        if sequence in _INTO_G0:
            # No delimiter can be in it: its bytes are pairs until the next escape sequence.
            out.append((_ESC + sequence + text).decode(_INTO_G0[sequence], "replace"))
            continue
        if not sequence:
            out.append("\ufffd")
        g1 = _INTO_G1.get(sequence, g1)
        before, *after = resets.split(text, maxsplit=1)
        out.append(before.decode(g1, "replace"))
        if after:
            g1 = initial
            out.append(b"".join(after).decode(initial, "replace"))
    return "".join(out)
