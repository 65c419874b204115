"""The element walker again, in plain Python over a whole data set: what ``router/_walker.pyx`` is compared with.

Written to be read beside PS3.5 §7. It sees all bytes at once and asks pydicom's dictionary which elements are
sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.dicom import dictionary
from router.errors import DatasetError
from router.model import Status

SHORT = frozenset(
    (
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    )
)
LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)

Path = tuple[int, ...]


def framing(text: str) -> DatasetError:
    return DatasetError(Status.FRAMING_ERROR, text)


@dataclass
class Level:
    """A data set, an item, a sequence or fragments that the walk is inside of."""

    kind: str
    explicit: bool
    little: bool
    path: Path
    end: int | None
    limit: int | None
    items: int = 0


@dataclass
class Walk:
    explicit: bool
    little_endian: bool
    wanted: frozenset[Path] = frozenset()
    max_depth: int = 64
    max_elements: int = 200_000
    max_header_bytes: int = 8 << 20
    values: dict[Path, tuple[str, bytes]] = field(default_factory=dict)
    unavailable: list[Path] = field(default_factory=list)
    truncated: bool = False
    has_meta: bool = False

    def walk(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.elements = self.header_bytes = 0
        self.past_header = False
        root = Level("data set", self.explicit, self.little_endian, (), None, None)
        self.levels = [root]
        first, meta = True, False
        while True:
            while self.levels[-1].end is not None and self.levels[-1].end == self.at:
                self.levels.pop()
            if self.at == len(data):
                break
            if len(self.levels) == 1 and self.at == len(data) - 1 and data[-1] == 0 and self.at % 2:
                return
            self.need(8)
            level = self.levels[-1]
            if level.kind in ("sequence", "fragments"):
                self.item(level)
                continue
            if level is root and data[self.at : self.at + 2] == b"\2\0" and (first or meta):
                self.has_meta = True
                root.explicit = root.little = True
                meta = True
            else:
                if level is root and (first or meta):
                    root.little = self.little_endian
                    vr = data[self.at + 4 : self.at + 6].decode("latin-1")
                    root.explicit = letters(vr) if self.explicit else vr in SHORT | LONG
                meta = False
            first = False
            self.element(level)
        if len(self.levels) > 1:
            raise framing("cut short")

    def need(self, size: int) -> None:
        if len(self.data) - self.at < size:
            raise framing("cut short")

    def number(self, start: int, size: int, little: bool) -> int:
        return int.from_bytes(self.data[self.at + start : self.at + start + size], "little" if little else "big")

    def tag(self, little: bool) -> int:
        return self.number(0, 2, little) << 16 | self.number(2, 2, little)

    def advance(self, size: int, level: Level) -> None:
        self.at += size
        if level.limit is not None and self.at > level.limit:
            raise framing("beyond what encloses it")

    def value(self, length: int, level: Level) -> bytes:
        start = self.at
        self.advance(length, level)
        if self.at > len(self.data):
            raise framing("cut short")
        return self.data[start : self.at]

    def push(self, kind: str, explicit: bool, little: bool, path: Path, length: int, level: Level) -> None:
        end = None if length == UNDEFINED else self.at + length
        if end is not None and level.limit is not None and end > level.limit:
            raise framing("beyond what encloses it")
        if kind == "sequence" and sum(other.kind == "sequence" for other in self.levels) == self.max_depth:
            raise DatasetError(Status.NESTED_TOO_DEEP, "too deep")
        self.levels.append(Level(kind, explicit, little, path, end, level.limit if end is None else end))

    def item(self, level: Level) -> None:
        tag, length = self.tag(level.little), self.number(4, 4, level.little)
        self.advance(8, level)
        if tag == 0xFFFEE0DD and level.end is None:
            self.levels.pop()
        elif tag != 0xFFFEE000:
            raise framing("no item")
        elif level.kind == "sequence":
            self.push("item", level.explicit, level.little, (*level.path, level.items), length, level)
            level.items += 1
        elif length == UNDEFINED:
            raise framing("fragment of undefined length")
        else:
            self.value(length, level)

    def element(self, level: Level) -> None:
        data, little = self.data, level.little
        tag = self.tag(little)
        if tag >> 16 == 0xFFFE:
            if tag != 0xFFFEE00D or level.kind != "item" or level.end is not None:
                raise framing("delimiter")
            self.advance(8, level)
            self.levels.pop()
            return
        vr = data[self.at + 4 : self.at + 6].decode("latin-1")
        if not level.explicit or not letters(vr):
            vr, header, length = "", 8, self.number(4, 4, little)
        elif vr in LONG or (vr not in SHORT and data[self.at + 6 : self.at + 8] == b"\0\0"):
            self.need(12)
            header, length = 12, self.number(8, 4, little)
        else:
            header, length = 8, self.number(6, 2, little)
        self.advance(header, level)
        self.count(tag, header + (length if length <= 65536 else 0), len(self.levels) == 1)
        path = (*level.path, tag)
        is_sequence = vr == "SQ" or (vr == "" and dictionary.vr_of(tag) == "SQ" and tag >> 24 != 0x50)
        if length == UNDEFINED:
            self.want(path, vr, b"")
            if vr in ("OB", "OW") or (tag == 0x7FE00010 and vr in ("UN", "")):
                self.push("fragments", level.explicit, little, path, length, level)
            elif vr in ("SQ", "", "UN"):
                explicit, little = (False, True) if vr == "UN" else (level.explicit, little)
                self.push("sequence", explicit, little, path, length, level)
            else:
                raise framing("undefined length")
        elif is_sequence:
            if level.limit is not None and self.at + length > level.limit:
                raise framing("beyond what encloses it")
            self.want(path, "SQ", b"")
            self.push("sequence", level.explicit, little, path, length, level)
        else:
            self.want(path, vr, self.value(length, level))

    def count(self, tag: int, size: int, at_root: bool) -> None:
        if self.past_header:
            return
        if at_root and tag in PIXELS:
            self.past_header = True
            return
        self.elements += 1
        if self.elements > self.max_elements:
            raise DatasetError(Status.TOO_MANY_ELEMENTS, "too many")
        self.header_bytes += size
        if self.header_bytes > self.max_header_bytes:
            self.truncated = True

    def want(self, path: Path, vr: str, value: bytes) -> None:
        seen = self.values.keys() | set(self.unavailable)
        if path not in self.wanted or path in seen or self.truncated:
            return
        if len(value) > 65536:
            self.unavailable.append(path)
        else:
            self.values[path] = (vr, value)


def letters(vr: str) -> bool:
    return len(vr) == 2 and all("A" <= letter <= "Z" for letter in vr)
