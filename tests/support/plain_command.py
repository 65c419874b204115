"""The plain-Python reference of the command sets in ``router._fastdimse``: slow, and easy to compare with
PS3.7 §6.3 and Annex E."""

from __future__ import annotations

import struct

from router.dimse.command import NO_DATA_SET, RESPONSE_BIT, CommandField
from router.errors import AbortReason, PeerProtocolError

COMMENT_LENGTH = 64

_ELEMENT = struct.Struct("<HHI")


class Command:
    """One command set as received; values that were absent are None or empty."""

    __slots__ = (
        "data_set_type",
        "error_comment",
        "field",
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

    def __init__(self) -> None:
        self.field = 0
        self.message_id: int | None = None
        self.responded_id: int | None = None
        self.sop_class = ""
        """Affected, or for a normalized service Requested, SOP Class UID, without padding."""
        self.sop_instance = ""
        self.sop_class_bytes = b""
        """The SOP Class UID with the padding that the sender used: some compare a response to the byte."""
        self.sop_instance_bytes = b""
        self.priority: int | None = None
        self.data_set_type = NO_DATA_SET
        self.status: int | None = None
        self.error_comment = ""
        self.move_originator = ""
        self.move_originator_id: int | None = None

    @property
    def has_data_set(self) -> bool:
        return self.data_set_type != NO_DATA_SET

    @property
    def is_response(self) -> bool:
        return bool(self.field & RESPONSE_BIT)

    def __repr__(self) -> str:
        return f"Command(0x{self.field:04X}, message_id={self.message_id}, responded_id={self.responded_id})"


def _uid(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def parse_command(data: bytes) -> Command:
    """Read a whole command set.

    Raises:
        PeerProtocolError: Elements do not fill the bytes exactly, there is no Command Field, or a Command Data Set Type
            says neither yes nor no.
    """
    command = Command()
    command_field: int | None = None
    data_set_type: int | None = NO_DATA_SET
    seen: set[int] = set()
    at, end = 0, len(data)
    while at < end:
        if end - at < 8:
            raise PeerProtocolError("command set is cut short", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += 8
        if length > end - at:
            raise PeerProtocolError("command element beyond its command set", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        value = data[at : at + length]
        at += length
        if group != 0 or element in seen:
            continue  # extras are ignored, of doubles the first counts
        seen.add(element)
        if element == 0x0002 or (element == 0x0003 and not command.sop_class_bytes):
            command.sop_class_bytes = value
            command.sop_class = _uid(value)
        elif element == 0x1000 or (element == 0x1001 and not command.sop_instance_bytes):
            command.sop_instance_bytes = value
            command.sop_instance = _uid(value)
        elif element == 0x0100:
            command_field = _number(value)
        elif element == 0x0110:
            command.message_id = _number(value)
        elif element == 0x0120:
            command.responded_id = _number(value)
        elif element == 0x0800:
            data_set_type = _number(value)
        elif element == 0x0900:
            command.status = _number(value)
        elif element == 0x0700:
            command.priority = _number(value)
        elif element == 0x0902:
            command.error_comment = value.decode("latin-1").strip("\0 ")[:COMMENT_LENGTH]
        elif element == 0x1030:
            command.move_originator = value.decode("latin-1").strip("\0 ")[:16]
        elif element == 0x1031:
            command.move_originator_id = _number(value)
    if command_field is None:
        raise PeerProtocolError("command set without Command Field", AbortReason.INVALID_PDU_PARAMETER_VALUE)
    if data_set_type is None:
        raise PeerProtocolError("Command Data Set Type without a value", AbortReason.INVALID_PDU_PARAMETER_VALUE)
    command.field = command_field
    command.data_set_type = data_set_type
    return command


def _number(value: bytes) -> int | None:
    """The first value of a US element; None if it holds none."""
    return int.from_bytes(value[:2], "little") if len(value) >= 2 else None


# Writing ---------------------------------------------------------------------------------------------------


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _us(number: int, value: int) -> bytes:
    return _ELEMENT.pack(0, number, 2) + value.to_bytes(2, "little")


def _ui(number: int, uid: bytes) -> bytes:
    return _element(number, uid + b"\0" if len(uid) % 2 else uid)


def _text(number: int, text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    return _element(number, value + b" " if len(value) % 2 else value)


def _command_set(elements: bytes) -> bytes:
    """Group length first, then elements in order of their tags."""
    return _ELEMENT.pack(0, 0, 4) + len(elements).to_bytes(4, "little") + elements


def encode_c_store_rq(
    message_id: int, sop_class: str, sop_instance: str, move_originator: tuple[str, int] | None = None
) -> bytes:
    """C-STORE-RQ (PS3.7 Table 9.3-1); Priority is always there, medium."""
    elements = (
        _ui(0x0002, sop_class.encode("latin-1"))
        + _us(0x0100, CommandField.C_STORE_RQ)
        + _us(0x0110, message_id)
        + _us(0x0700, 0)
        + _us(0x0800, 0x0001)
        + _ui(0x1000, sop_instance.encode("latin-1"))
    )
    if move_originator is not None:
        elements += _text(0x1030, move_originator[0]) + _us(0x1031, move_originator[1])
    return _command_set(elements)


def encode_c_echo_rq(message_id: int) -> bytes:
    return _command_set(
        _ui(0x0002, b"1.2.840.10008.1.1")
        + _us(0x0100, CommandField.C_ECHO_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, NO_DATA_SET)
    )


def encode_response(request: Command, status: int, comment: str = "") -> bytes:
    """The response to ``request``: its message id, its UIDs with the padding they came with, the status, and unless it
    is success a comment: fixed text of ours, cut at 64 characters."""
    elements = b""
    if request.sop_class_bytes:
        elements += _ui(0x0002, request.sop_class_bytes)
    elements += (
        _us(0x0100, request.field | RESPONSE_BIT)
        + _us(0x0120, request.message_id or 0)
        + _us(0x0800, NO_DATA_SET)
        + _us(0x0900, status)
    )
    if comment and status:
        elements += _text(0x0902, comment[:COMMENT_LENGTH])
    if request.sop_instance_bytes:
        elements += _ui(0x1000, request.sop_instance_bytes)
    return _command_set(elements)
