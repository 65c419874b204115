"""What is fuzzed, by name: a function that raises when its promise is broken, and words that its inputs are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import association, command, dataset, message, part10, pdu, rules, values

CORPORA = Path(__file__).parent / "corpora"
HANG = 1.0
"""Seconds of processor time that one input may take."""


class Hang(Exception):
    """An input takes too long."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    promise: str
    check: Callable[[bytes], None]
    longest: int
    """Bytes of an input that a fuzzer makes."""
    words: tuple[bytes, ...] = ()
    """Put into inputs as they are."""

    @property
    def corpus(self) -> list[Path]:
        return sorted((CORPORA / self.name).iterdir())

    def run(self, data: bytes) -> None:
        """Raises whatever is wrong: AssertionError, Hang, or what escaped from the router."""
        begun = time.thread_time()
        self.check(data)
        taken = time.thread_time() - begun
        if taken > HANG:
            raise Hang(f"{len(data)} bytes took {taken:.1f} s")


_LENGTHS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\2", b"\2\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")
_UIDS = (b"1.2.840.10008.1.1", b"1.2.840.10008.1.2", b"1.2.840.10008.5.1.4.1.1.2")
_ITEMS = tuple(bytes((kind, 0)) for kind in (0x10, 0x20, 0x21, 0x30, 0x40, 0x50, *range(0x51, 0x59)))
_PDUS = tuple(bytes((kind, 0, 0, 0, 0, 4)) + bytes(4) for kind in (3, 5, 6, 7))
_COMMAND = tuple(
    b"\0\0" + element.to_bytes(2, "little") + length.to_bytes(4, "little")
    for length, elements in (
        (2, (0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x1031)),
        (4, (0, 0x902, 0x1030)),
        (6, (0x1000, 0x1001)),
        (18, (2, 3)),
    )
    for element in elements
)
_ELEMENTS = (
    *(vr.encode() for vr in ("CS", "LO", "SH", "UI", "SQ", "OB", "OW", "UN", "UT", "PN", "US", "FD", "XY")),
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0\x00\x00\x00\x00",
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",
    b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff",
    b"\x40\x00\x75\x02\xff\xff\xff\xff",
    b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff",
    b"\x08\x00\x50\x00SH\2\0A1",
    b"\2\0\0\0UL\4\0\0\0\0\0",
)
_TOML = tuple(
    word.encode()
    for word in (
        *("[[rule]]\n", "[[test]]\n", "name = ", "match = { ", " }\n", "not = { ", "any = [ ", "all = [ ", " ]\n"),
        *('to = ["pacs"]\n', "final = true\n", "discard = true\n", 'priority = "stat"\n', "hold = true\n"),
        *('Modality = "CT"', 'PatientID = "VIP*"', "StudyDate = 2026-01-31", "Rows = 512", 'Size = { min = "1 MB" }'),
        *('{ regex = "', "{ min = ", "{ max = ", "{ exists = true }", '{ within = "7 days" }', "given = { "),
        *("RequestAttributesSequence.0.AccessionNumber", '"0019,10AB"', "SOPClass", "CallingAET", "PatientAge"),
        *('"""', "'''", "[[", "]]", "\\u0041", "#", "\r\n", ".", "1e400", "inf", "-0.0", "0x7fffffffffffffff"),
    )
)

_TEXTS = (b"ISO_IR 100\n", b"ISO 2022 IR 87", b"\x1b$B", b"\x1b(B", b"\x1b$)C", b"\\", b"^", b"=", b"nan", b"1e9")
_META = (b"\2\0\x10\0UI\x12\0", b"\2\0\1\0OB\0\0", *_LENGTHS)

TARGETS = {
    target.name: target
    for target in (
        Target("pdu", "PDU reader: the plain reference's items and positions", pdu.check, 600, (*_PDUS, *_LENGTHS)),
        Target(
            "association",
            "association core: no exception, one end, the same wherever the network cuts",
            association.check,
            1500,
            (*_PDUS, *_ITEMS, *_UIDS, *_LENGTHS),
        ),
        Target("command", "command sets: the plain reference's and pydicom's reading", command.check, 600, _COMMAND),
        Target("message", "messages: the plain reference's pieces and errors", message.check, 600, _COMMAND),
        Target(
            "dataset",
            "data set walker: one verdict and position with the reference and pydicom",
            dataset.check,
            1000,
            _ELEMENTS,
        ),
        Target("values", "values: any bytes under any VR and character set", values.check, 200, _TEXTS),
        Target("part10", "head of a Part 10 file: pydicom's reading", part10.check, 400, _META),
        Target("rules", "rule files: a rule set, or problems that say where", rules.check, 1500, _TOML),
    )
}
