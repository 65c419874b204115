"""Who answers us is heard, however many talk.

A turn of the event loop reads from each socket that is readable, once. With hundreds of senders that is hundreds of
objects in, and from a destination's few associations one answer each: sending falls behind receiving, and what waits
goes the longer way by the disk. Whoever is behind therefore asks that its answers be looked for between the reads.
"""

from __future__ import annotations

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

    __slots__ = ("_left", "hurried")

    def __init__(self) -> None:
        self.hurried: dict[Hurried, None] = {}
        """Who is looked at; while it is empty, nobody need be told what was read."""
        self._left = EVERY

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
