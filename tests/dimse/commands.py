"""Command sets written element by element, so that a test shows every byte it is about (PS3.7 §6.3.1)."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from tests.ul.bench import CT

INSTANCE = "1.2.826.0.1.3680043.9.1.7"


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def us(number: int, *values: int) -> bytes:
    return element(number, struct.pack(f"<{len(values)}H", *values))


def ui(number: int, uid: str, padding: bytes = b"\0") -> bytes:
    value = uid.encode()
    return element(number, value + padding if len(value) % 2 else value)


def command_set(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return element(0, len(body).to_bytes(4, "little")) + body


STORE_ELEMENTS = {
    0x0002: ui(0x0002, CT),
    0x0100: us(0x0100, 0x0001),
    0x0110: us(0x0110, 7),
    0x0700: us(0x0700, 0),
    0x0800: us(0x0800, 0x0001),
    0x1000: ui(0x1000, INSTANCE),
}


def store_rq(**changes: bytes | None) -> bytes:
    """A C-STORE-RQ; ``e0700=None`` leaves an element out, bytes replace it."""
    elements: dict[int, bytes] = dict(STORE_ELEMENTS)
    for name, value in changes.items():
        number = int(name[1:], 16)
        if value is None:
            del elements[number]
        else:
            elements[number] = value
    return command_set(*(elements[number] for number in sorted(elements)))


def store_rsp(responded_id: int = 7, status: int = 0, *extra: bytes) -> bytes:
    return command_set(
        ui(0x0002, CT), us(0x0100, 0x8001), us(0x0120, responded_id), us(0x0800, 0x0101), us(0x0900, status), *extra
    )


def as_others_read(data: bytes) -> dict[str, Any]:
    """What pydicom makes of a command set."""
    dataset = read_dataset(DicomBytesIO(data), is_implicit_VR=True, is_little_endian=True)
    return {element.keyword: element.value for element in dataset}
