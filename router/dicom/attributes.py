"""What rules and people see of a data set: values by path, decoded when they are asked for.

PS3.5 §6.2 (value representations). A path is ``(tag,)`` or ``(sequence, item number, tag, ...)``, a tag is group <<
16 | element. Knows nothing of framing, files or rules: the values come from the element walker as bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Hashable, Sequence
from typing import cast

from router._walker import alike, plain_text, plain_texts
from router.dicom import dictionary
from router.dicom.charset import decode

Path = tuple[int, ...]

SPECIFIC_CHARACTER_SET: Path = (0x00080005,)
SOP_CLASS_UID: Path = (0x00080016,)
SOP_INSTANCE_UID: Path = (0x00080018,)
ACCESSION_NUMBER: Path = (0x00080050,)
MODALITY: Path = (0x00080060,)
PATIENT_ID: Path = (0x00100020,)
STUDY_INSTANCE_UID: Path = (0x0020000D,)
SERIES_INSTANCE_UID: Path = (0x0020000E,)

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_ONE_VALUE = frozenset(("LT", "ST", "UT", "UR"))
"""Text in which a backslash is a character (PS3.5 §6.4)."""
_TRAILING_ONLY = frozenset(("LT", "ST", "UT", "UR", "UC", "PN"))
"""Text whose leading spaces mean something."""
_PLAIN = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"))
"""Text trimmed at both ends and split at backslashes."""
_NO_TEXT = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ"))
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")


class Attributes:
    """Values of one data set.

    Args:
        values: (VR, value) by path as the walker gives them; VR "" where the encoding does not say it.
        little_endian: Of the transfer syntax.
        available: False when the head of the data set was over a limit or its transfer syntax is not known: then an
            element that is not here may be in the data set all the same.
        too_long: Elements that are there, with a value longer than is looked at.
        has_meta: The data set began with group 0002.
    """

    __slots__ = ("_character_set", "_little", "_texts", "_too_long", "_values", "available", "has_meta")

    def __init__(
        self,
        values: dict[Path, tuple[str, bytes]] | None = None,
        little_endian: bool = True,
        available: bool = True,
        has_meta: bool = False,
        too_long: Collection[Path] = (),
    ) -> None:
        self._values = {} if values is None else values
        self._little = little_endian
        self._texts: dict[Path, tuple[str, ...]] = {}
        self._character_set: tuple[str, ...] | None = None
        self._too_long = too_long
        self.available = available
        self.has_meta = has_meta

    def seen(self, path: Path) -> bool | None:
        """Whether the element is there, readable or not; None: this cannot be known."""
        if path in self._values or path in self._too_long:
            return True
        return False if self.available else None

    def vr(self, path: Path) -> str:
        """VR of an element that is here: what its encoding says, else what the dictionary says, else ""."""
        vr = self._values[path][0]
        return vr if vr and vr != "UN" else dictionary.vr_of(path[-1]) or ""

    def texts(self, path: Path) -> tuple[str, ...] | None:
        """Values as text: None if the element is missing or longer than is looked at, () if it is empty.

        Padding is trimmed as the VR asks. PN gives its alphabetic group, numbers their shortest form, AT
        ``gggg,eeee``; sequences and bulk data give (). A value of unknown VR is read as text if it looks like text.
        """
        known = self._texts.get(path)
        if known is not None:
            return known
        entry = self._values.get(path)
        if entry is None:
            return None
        vr, value = entry
        if not vr or vr == "UN":
            vr = self.vr(path)
        # Nearly every value that is asked for is plain, and several of every object are.
        text = plain_text(value) if vr in _PLAIN else None
        found = self._read(vr, value) if text is None else (text,) if text else ()
        self._texts[path] = found
        return found

    def firsts(self, paths: Sequence[Path]) -> list[str]:
        """The first value of each as text, "" for what is missing or empty. Nearly all are plain, and read at once."""
        found = plain_texts(self._values, paths, _PLAIN)
        if None not in found:
            return cast("list[str]", found)
        return [
            next(iter(self.texts(path) or ()), "") if text is None else text
            for path, text in zip(paths, found, strict=True)
        ]

    def alike(self, paths: tuple[Path, ...], most: int) -> Hashable | None:
        """Equal for two data sets in which every element at these paths is the same, VR and all; None where not every
        one can be read, or they are more than ``most`` bytes."""
        return alike(self._values, paths, most) if self.available and not self._too_long else None

    def numbers(self, path: Path) -> tuple[float, ...] | None:
        """Values as numbers, whole ones as int; None if the element is missing. Values that are no finite number are
        left out."""
        entry = self._values.get(path)
        if entry is None:
            return None
        kind = _BINARY.get(self.vr(path))
        if kind is not None:
            return tuple(number for number in self._unpack(kind, entry[1]) if math.isfinite(number))
        return tuple(number for text in self.texts(path) or () if (number := _number(text)) is not None)

    def _unpack(self, kind: str, value: bytes) -> tuple[float, ...]:
        count = len(value) // struct.calcsize("=" + kind)
        numbers = struct.unpack_from(f"{'<' if self._little else '>'}{count}{kind}", value)
        return tuple(map(_as_written, numbers)) if kind == "f" else numbers

    def _read(self, vr: str, value: bytes) -> tuple[str, ...]:
        kind = _BINARY.get(vr)
        if kind is not None:
            return tuple(_shortest(number, vr) for number in self._unpack(kind, value))
        if vr == "AT":
            halves = self._unpack("H", value)
            pairs = zip(halves[::2], halves[1::2], strict=False)
            return tuple(f"{int(group):04x},{int(element):04x}" for group, element in pairs)
        if vr in _NO_TEXT:
            return ()
        stripped = value.rstrip(b"\0 ")
        if not stripped.strip(b"\0 \\") and b"\\" not in stripped:
            return ()
        if not vr and not _CONTROL.isdisjoint(stripped):
            return ()
        terms = () if value.isascii() and b"\x1b" not in value else self._terms()
        text = decode(value, vr, terms)
        if vr == "PN":
            return tuple(name.partition("=")[0].rstrip("\0 ") for name in text.split("\\"))
        if vr in _ONE_VALUE:
            return (text.rstrip("\0 "),)
        if vr in _TRAILING_ONLY:
            return tuple(part.rstrip("\0 ") for part in text.split("\\"))
        return tuple(part.strip("\0 ") for part in text.split("\\")) if "\\" in text else (text.strip("\0 "),)

    def _terms(self) -> tuple[str, ...]:
        """Specific Character Set; its values may be empty, so it is read without the trimming of others."""
        if self._character_set is None:
            value = self._values.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
            self._character_set = tuple(term.strip("\0 ") for term in value.decode("latin-1").split("\\"))
        return self._character_set


def _as_written(number: float) -> float:
    """The shortest decimal that is this number in single precision: 1.1, which a rule says, not 1.100000023841858."""
    for digits in range(6, 10):
        written = float(f"{number:.{digits}g}")
        if struct.unpack("=f", struct.pack("=f", written))[0] == number:
            return written
    return number  # no number: NaN


def _shortest(number: float, vr: str) -> str:
    """A binary number as people write it; FL has the digits of single precision."""
    if isinstance(number, int):
        return str(number)
    return f"{number:.9g}" if vr == "FL" else repr(number).removesuffix(".0")


def _number(text: str) -> float | None:
    # Python reads "1_000", "nan" and "infinity"; DS and IS (PS3.5 §6.2) have none of them.
    if "_" in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
