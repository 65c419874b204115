"""The plain-Python reference of ``router._fastdimse.MessageAssembler``."""

from __future__ import annotations

from collections.abc import Container

from router._fastpdu import DataFragment
from router.errors import AbortReason, PeerProtocolError
from tests.support.plain_command import Command, parse_command


class CommandReceived:
    """A whole command set. Unless it announces a data set, the message ends here."""

    __slots__ = ("command", "context_id")

    def __init__(self, context_id: int, command: Command) -> None:
        self.context_id = context_id
        self.command = command


class DataReceived:
    """Bytes of the data set of the last command; ``last`` ends the message. ``data`` lives as long as its fragment."""

    __slots__ = ("data", "last")

    def __init__(self, data: memoryview, last: bool) -> None:
        self.data = data
        self.last = last


class MessageAssembler:
    """One per association.

    Args:
        contexts: Ids of the accepted presentation contexts.
        command_limit: Bytes of a command set.
    """

    __slots__ = ("_command", "_context_id", "_contexts", "_data_expected", "_limit")

    def __init__(self, contexts: Container[int], command_limit: int = 16384) -> None:
        self._contexts = contexts
        self._limit = command_limit
        self._command = bytearray()
        self._context_id: int | None = None
        self._data_expected = False

    @property
    def in_message(self) -> bool:
        """A message has begun and not ended."""
        return self._context_id is not None

    def data_ended(self) -> None:
        """The data set of the last command is in, by another way than ``feed``."""
        self._context_id = None
        self._data_expected = False

    def feed(self, fragment: DataFragment) -> CommandReceived | DataReceived | None:
        """The next fragment; gives what it completes.

        Raises:
            PeerProtocolError: The context was not accepted, or changes within a message; command and data are out of
                order; the command set is over its limit or unreadable.
        """
        context_id = fragment.context_id
        if self._context_id is None:
            if context_id not in self._contexts:
                raise PeerProtocolError(
                    "message on a presentation context that was not accepted", AbortReason.UNEXPECTED_PDU_PARAMETER
                )
            self._context_id = context_id
        elif context_id != self._context_id:
            raise PeerProtocolError(
                "presentation context changes within a message", AbortReason.UNEXPECTED_PDU_PARAMETER
            )
        if fragment.is_command is self._data_expected:
            raise PeerProtocolError("command and data set fragments out of order", AbortReason.UNEXPECTED_PDU_PARAMETER)
        last = fragment.is_last and fragment.complete
        if self._data_expected:
            if last:
                self._context_id = None
                self._data_expected = False
            return DataReceived(fragment.data, last)
        if len(self._command) + len(fragment.data) > self._limit:
            raise PeerProtocolError("command set over its limit", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        self._command += fragment.data
        if not last:
            return None
        command = parse_command(bytes(self._command))
        self._command.clear()
        if command.has_data_set:
            self._data_expected = True
        else:
            self._context_id = None
        return CommandReceived(context_id, command)
