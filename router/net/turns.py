"""Everybody has his turn, however much others have to say.

Who answers us is heard, however many talk: a turn of the event loop reads from each socket that is readable. With
hundreds of senders that is hundreds of objects in, and from a destination's few associations one answer each: sending
falls behind receiving, and what waits goes the longer way by the disk. Whoever is behind therefore asks that its
answers be looked for between the reads.

And who talks without a pause is interrupted: libuv reads from a socket up to 32 times in a row while each read fills
its buffer, which can be seconds of work. A connection therefore counts such reads, turn by turn.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

EVERY = 4
"""Reads from senders between two looks: as often as a destination's usual associations can each take one object on."""


class Hurried(Protocol):
    """A connection whose peer answers requests of ours, of which many wait."""

    def read_now(self) -> None:
        """Take what has come, if anything has."""


class Turns:
    """Of one event loop."""

    __slots__ = ("_counting", "_left", "_number", "hurried")

    def __init__(self) -> None:
        self.hurried: dict[Hurried, None] = {}
        """Who is looked at; while it is empty, nobody need be told what was read."""
        self._left = EVERY
        self._number = 0
        self._counting = False

    def number(self, loop: asyncio.AbstractEventLoop) -> int:
        """Of the turn under way: another one in each in which anybody asks."""
        if not self._counting:
            self._counting = True
            loop.call_soon(self._over)
        return self._number

    def _over(self) -> None:
        self._counting = False
        self._number += 1

    def hurry(self, connection: Hurried) -> None:
        """From now on look."""
        self.hurried[connection] = None

    def calm(self, connection: Hurried) -> None:
        """No more; harmless where nobody looked."""
        self.hurried.pop(connection, None)

    def heard(self) -> None:
        """A sender was read."""
        self._left -= 1
        if self._left <= 0:
            self._left = EVERY
            for connection in list(self.hurried):
                connection.read_now()


_per_thread = threading.local()


def turns() -> Turns:
    """Of the loop that runs in this thread."""
    found: Turns | None = getattr(_per_thread, "turns", None)
    if found is None:
        found = _per_thread.turns = Turns()
    return found
