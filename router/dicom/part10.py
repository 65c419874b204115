"""The head of a Part 10 file: writing one around a received data set, and reading where the data set of a file begins.

PS3.10 §7.1. The file meta information is always explicit VR little endian and is made by us: none travels over an
association (PS3.8). Knows nothing of folders or file names, and does not look at the data set.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router.dicom import uids
from router.errors import DatasetError
from router.model import InstanceInfo, Status

_PREFIX = b"\0" * 128 + b"DICM"
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_META_LIMIT = 1 << 20
"""Bytes of file meta information read at most."""


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What ``send`` and ``explain`` need of a Part 10 file."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_offset: int
    """Bytes before the data set."""
    calling_ae: str = ""
    """Source Application Entity Title (0002,0016), if the file has one."""


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) & 1:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr in _LONG:
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def file_meta(info: InstanceInfo) -> bytes:
    """Preamble, ``DICM`` and group 2: what goes before the data set bytes to make a Part 10 file of an instance."""
    group = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", _ascii(info.sop_class)),
            _element(0x0003, b"UI", _ascii(info.sop_instance)),
            _element(0x0010, b"UI", _ascii(info.transfer_syntax)),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
            # An AE title may hold any byte; it was read as Latin-1 (protocol: never raise on one).
            _element(0x0016, b"AE", info.origin.calling_ae.encode("latin-1", "replace")[:16]),
        )
    )
    return _PREFIX + _element(0x0000, b"UL", struct.pack("<I", len(group))) + group


def _ascii(uid: str) -> bytes:
    return uid.encode("ascii", "replace")[:64]


def read_part10(file: BinaryIO) -> FileMeta:
    """Read the head of a Part 10 file; leaves ``file`` at the data set.

    The group length is not relied on: reading goes on while elements are of group 2. The transfer syntax defaults to
    implicit VR little endian.

    Raises:
        DatasetError: CANNOT_UNDERSTAND, if this is no Part 10 file or its meta information is cut or longer than 1 MiB.
    """
    start = file.tell()
    if file.read(132)[128:] != b"DICM":
        raise DatasetError(Status.CANNOT_UNDERSTAND, "not a DICOM Part 10 file")
    found: dict[int, str] = {}
    offset = 132
    while True:
        header = file.read(8)
        if len(header) < 8 or header[:2] != b"\2\0":
            break
        element, vr, length = struct.unpack("<2xH2sH", header)
        offset += 8
        if vr in _LONG:
            extended = file.read(4)
            if len(extended) < 4:
                raise DatasetError(Status.CANNOT_UNDERSTAND, "the file meta information is cut short")
            (length,) = struct.unpack("<I", extended)
            offset += 4
        if length > _META_LIMIT - offset:
            raise DatasetError(Status.CANNOT_UNDERSTAND, "the file meta information is too long")
        value = file.read(length)
        if len(value) < length:
            raise DatasetError(Status.CANNOT_UNDERSTAND, "the file meta information is cut short")
        offset += length
        found[element] = uids.clean(value)
    file.seek(start + offset)
    return FileMeta(
        sop_class=found.get(0x0002, ""),
        sop_instance=found.get(0x0003, ""),
        transfer_syntax=found.get(0x0010, uids.IMPLICIT_VR_LITTLE_ENDIAN),
        data_offset=start + offset,
        calling_ae=found.get(0x0016, ""),
    )
