"""Small data sets written element by element, so that a test shows every byte it is about (PS3.5 §7)."""

from __future__ import annotations

import struct

UNDEFINED = 0xFFFFFFFF
LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))


class Encoding:
    """Writes elements, items and sequences in one encoding."""

    def __init__(self, *, explicit: bool = True, little: bool = True) -> None:
        self.explicit = explicit
        self.little = little
        self._order = "<" if little else ">"

    def tag(self, tag: int) -> bytes:
        return struct.pack(self._order + "HH", tag >> 16, tag & 0xFFFF)

    def header(self, tag: int, vr: str, length: int) -> bytes:
        if not self.explicit:
            return self.tag(tag) + struct.pack(self._order + "I", length)
        if vr in LONG:
            return self.tag(tag) + vr.encode() + b"\0\0" + struct.pack(self._order + "I", length)
        return self.tag(tag) + vr.encode() + struct.pack(self._order + "H", length)

    def element(self, tag: int, vr: str, value: bytes) -> bytes:
        return self.header(tag, vr, len(value)) + value

    def bare(self, tag: int, length: int) -> bytes:
        """An item or a delimiter: no VR in any encoding."""
        return self.tag(tag) + struct.pack(self._order + "I", length)

    def item(self, content: bytes, *, undefined: bool = False) -> bytes:
        if undefined:
            return self.bare(0xFFFEE000, UNDEFINED) + content + self.bare(0xFFFEE00D, 0)
        return self.bare(0xFFFEE000, len(content)) + content

    def sequence(self, tag: int, *items: bytes, undefined: bool = False, vr: str = "SQ") -> bytes:
        content = b"".join(items)
        if undefined:
            return self.header(tag, vr, UNDEFINED) + content + self.bare(0xFFFEE0DD, 0)
        return self.header(tag, vr, len(content)) + content

    def fragments(self, *pieces: bytes, tag: int = 0x7FE00010, vr: str = "OB") -> bytes:
        """Encapsulated Pixel Data: the first piece is the Basic Offset Table (PS3.5 A.4)."""
        items = b"".join(self.bare(0xFFFEE000, len(piece)) + piece for piece in pieces)
        return self.header(tag, vr, UNDEFINED) + items + self.bare(0xFFFEE0DD, 0)


EXPLICIT = Encoding()
IMPLICIT = Encoding(explicit=False)
BIG = Encoding(little=False)
