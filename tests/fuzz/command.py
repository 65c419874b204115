"""Command sets (PS3.7 §6.3, Annex E) against the plain reference, and against pydicom where those are well-formed."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

from pydicom.filereader import read_dataset

from router import _fastdimse
from router.errors import PeerProtocolError
from tests.support import plain_command

FIELDS = (
    "data_set_type",
    "error_comment",
    "field",
    "has_data_set",
    "is_response",
    "message_id",
    "move_originator",
    "move_originator_id",
    "priority",
    "responded_id",
    "sop_class",
    "sop_class_bytes",
    "sop_instance",
    "sop_instance_bytes",
    "status",
)
NUMBERS = {0x0100: "field", 0x0110: "message_id", 0x0120: "responded_id", 0x0700: "priority", 0x0900: "status"}


def check(data: bytes) -> None:
    """No options: the input is the command set."""
    ours, theirs = read(_fastdimse.parse_command, data), read(plain_command.parse_command, data)
    if isinstance(theirs, PeerProtocolError):
        assert isinstance(ours, PeerProtocolError)
        assert (ours.reason, str(ours)) == (theirs.reason, str(theirs))
        return
    assert seen(ours) == seen(theirs)
    as_pydicom_reads(data, ours)
    answered(ours, theirs)


def read(parse: Any, data: bytes) -> Any:
    try:
        return parse(data)
    except PeerProtocolError as error:
        return error


def seen(command: Any) -> dict[str, Any]:
    return {name: getattr(command, name) for name in FIELDS}


def answered(ours: _fastdimse.Command, theirs: plain_command.Command) -> None:
    """What is written of it is the same from both, and read again as it was meant."""
    comment = ours.error_comment or "comment"
    for status in (0, 0xA700):
        response = _fastdimse.encode_response(ours, status, comment)
        assert response == plain_command.encode_response(theirs, status, comment)
        again = _fastdimse.parse_command(response)
        assert again.field == ours.field | 0x8000 and again.status == status and not again.has_data_set
        assert again.sop_instance == ours.sop_instance and again.sop_class == ours.sop_class
    mover = (ours.move_originator, ours.move_originator_id or 0) if ours.move_originator else None
    message_id = ours.message_id or 0
    request = _fastdimse.encode_c_store_rq(message_id, ours.sop_class, ours.sop_instance, mover)
    assert request == plain_command.encode_c_store_rq(message_id, ours.sop_class, ours.sop_instance, mover)
    again = _fastdimse.parse_command(request)
    assert (again.sop_class, again.sop_instance) == (ours.sop_class, ours.sop_instance)
    # Of a longer one the first 16 characters are kept, and those may end in padding.
    assert (again.move_originator, again.message_id) == (ours.move_originator.strip("\0 "), message_id)


def as_pydicom_reads(data: bytes, command: _fastdimse.Command) -> None:
    elements = elements_of(data)
    tags = [tag for tag, _ in elements]
    if sorted(set(tags)) != tags or any(length == 0xFFFFFFFF for _, length in elements):
        return  # of doubles pydicom takes the last, and it knows undefined lengths
    with BytesIO(data) as file:
        found = read_dataset(file, is_implicit_VR=True, is_little_endian=True)
    assert list(map(int, found.keys())) == tags
    for element, name in NUMBERS.items():
        raw = found.get_item(element)  # type: ignore[arg-type]
        if raw is not None and raw.value is not None and len(raw.value) >= 2:
            assert getattr(command, name) == struct.unpack_from("<H", raw.value)[0]
    for element, value in ((0x0002, command.sop_class_bytes), (0x1000, command.sop_instance_bytes)):
        raw = found.get_item(element)  # type: ignore[arg-type]
        if raw is not None and raw.value:
            assert value == raw.value


def elements_of(data: bytes) -> list[tuple[int, int]]:
    """Tag and length of each element of a command set that is whole."""
    found, at = [], 0
    while at < len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        found.append((group << 16 | element, length))
        at += 8 + length
    return found
