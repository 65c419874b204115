"""Command sets: the group 0000 elements that every DIMSE message begins with (PS3.7 §6.3, Annex E).

Always Implicit VR Little Endian, whatever the presentation context's transfer syntax. Reading is tolerant where peers
are known to err (group length, missing Priority, extra and doubled elements, padding) and strict where guessing would
lose an object. Knows nothing of associations and fragments.
"""

from __future__ import annotations

from enum import IntEnum

from router._fastdimse import Command, encode_c_echo_rq, encode_c_store_rq, encode_response, parse_command

__all__ = [
    "NO_DATA_SET",
    "RESPONSE_BIT",
    "Command",
    "CommandField",
    "encode_c_echo_rq",
    "encode_c_store_rq",
    "encode_response",
    "parse_command",
]  # fmt: skip

NO_DATA_SET = 0x0101
"""Command Data Set Type: anything else means that a data set follows (PS3.7 E.1)."""


class CommandField(IntEnum):
    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    N_DELETE_RQ = 0x0150
    C_CANCEL_RQ = 0x0FFF


RESPONSE_BIT = 0x8000
