"""Requests of ours that await their response: message ids, the operations window, which response belongs to what.

A response that does not match is never counted as success (PS3.7 §9.1, D.3.3.3): the association is of no more use
then. Knows nothing of time: how long to wait is the caller's business.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from router.dimse.command import RESPONSE_BIT, Command
from router.errors import LocalProtocolError, PeerProtocolError

T = TypeVar("T")

MESSAGE_IDS = 65535
"""1 to 65535; 0 is legal, but nobody needs it."""


class Outstanding(Generic[T]):
    """Messages sent and not answered, at most ``window`` at once; the value is whatever the caller wants back."""

    __slots__ = ("_last_id", "_waiting", "window")

    def __init__(self, window: int) -> None:
        self.window = min(max(1, window), MESSAGE_IDS)
        self._last_id = 0
        self._waiting: dict[int, tuple[int, int, T]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        return self.window - len(self._waiting)

    def begin(self, context_id: int, field: int, value: T) -> int:
        """A message id that no outstanding request has: 1 to 65535, wrapping. LocalProtocolError without ``room``."""
        if len(self._waiting) >= self.window:
            raise LocalProtocolError("the operations window is full")
        number = self._last_id
        while True:
            number = number % MESSAGE_IDS + 1
            if number not in self._waiting:
                break
        self._last_id = number
        self._waiting[number] = (context_id, field, value)
        return number

    def match(self, context_id: int, response: Command) -> T:
        """The value of the request that this answers.

        Raises:
            PeerProtocolError: Unknown message id, another context, another operation, or no status.
        """
        found = self._waiting.get(response.responded_id if response.responded_id is not None else -1)
        if found is None:
            raise PeerProtocolError("response to a message that is not outstanding")
        expected_context, field, value = found
        if context_id != expected_context:
            raise PeerProtocolError("response on another presentation context")
        if response.field != field | RESPONSE_BIT:
            raise PeerProtocolError("response of another operation")
        if response.status is None:
            raise PeerProtocolError("response without Status")
        del self._waiting[response.responded_id]  # type: ignore[arg-type]
        return value

    def drain(self) -> list[T]:
        """Everything outstanding, in the order sent; nothing is outstanding afterwards."""
        values = [value for _, _, value in self._waiting.values()]
        self._waiting.clear()
        return values
