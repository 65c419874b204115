"""Fragments to messages (PS3.8 Annex E) against the plain reference: the same pieces, the same errors, in any order."""

from __future__ import annotations

from typing import Any

from router import _fastdimse
from router._fastpdu import DataFragment
from router.errors import PeerProtocolError
from tests.fuzz.command import seen
from tests.support import plain_assembler

CONTEXTS = frozenset((1, 3, 255))
COMMAND_LIMIT = 200


def check(data: bytes) -> None:
    """The input is fragments: context id, control (bits: command, last, more of this PDV comes), length, bytes."""
    native = _fastdimse.MessageAssembler(CONTEXTS, COMMAND_LIMIT)
    plain = plain_assembler.MessageAssembler(CONTEXTS, COMMAND_LIMIT)
    at = 0
    while len(data) - at >= 3:
        context, control, length = data[at : at + 3]
        content = memoryview(data)[at + 3 : at + 3 + length]
        at += 3 + length
        fragment = DataFragment(context, control & 1 != 0, control & 2 != 0, content, not control & 4)
        ours, theirs = fed(native, fragment), fed(plain, fragment)
        assert ours == theirs
        assert native.in_message == plain.in_message
        if ours and ours[0] == "error":
            return  # the association ends here


def fed(assembler: Any, fragment: DataFragment) -> tuple[Any, ...] | None:
    try:
        received = assembler.feed(fragment)
    except PeerProtocolError as error:
        return "error", error.reason, str(error)
    if received is None:
        return None
    if hasattr(received, "command"):
        return "command", received.context_id, seen(received.command)
    return "data", bytes(received.data), received.last
