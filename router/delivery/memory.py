"""Bytes of data sets kept in memory for sending: one limit for all destinations together, and a part of it for each.

The spool has everything, so what is kept here can be let go at any time and read again. That is what makes it fair: a
lane may keep more than its part while nobody else wants the room, and lets it go, what it will send last first, as soon
as a lane that keeps less than its part does. A destination that takes nothing costs the others none of theirs.
"""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """A count with a limit; whoever does not get a place reads the spool."""

    __slots__ = ("_shares", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._shares: list[Share] = []

    def take(self, size: int) -> bool:
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size

    def share(self, let_go: Callable[[], bool]) -> Share:
        """One more among which the limit is divided.

        Args:
            let_go: Gives back (``Share.give_back``) something of what the share keeps; False: there is nothing that
            could be spared.
        """
        share = Share(self, let_go)
        self._shares.append(share)
        return share

    @property
    def part(self) -> int:
        """Bytes that each share has for itself."""
        return self.limit // len(self._shares)

    def make_room(self, size: int) -> bool:
        """At the cost of those that keep more than their part, the most first."""
        part = self.part
        while self.used + size > self.limit:
            for share in sorted(self._shares, key=_used, reverse=True):
                if share.used <= part:
                    return False
                if share.let_go():
                    break
            else:
                return False
        return True


class Share:
    """What one lane keeps."""

    __slots__ = ("_budget", "let_go", "used")

    def __init__(self, budget: Budget, let_go: Callable[[], bool]) -> None:
        self._budget = budget
        self.let_go = let_go
        self.used = 0

    @property
    def part(self) -> int:
        return self._budget.part

    def take(self, size: int) -> bool:
        """For what has just come: a place in our own part, or one that is free."""
        budget = self._budget
        if budget.used + size > budget.limit and (self.used + size > budget.part or not budget.make_room(size)):
            return False
        self.used += size
        budget.used += size
        return True

    def take_ahead(self, size: int) -> bool:
        """For what is read from the disk before it is sent: beyond our part only while half of all is free, so that
        nothing is read and let go in turns."""
        budget = self._budget
        if self.used + size > budget.part and budget.used + size > budget.limit // 2:
            return False
        return self.take(size)

    def give_back(self, size: int) -> None:
        self.used -= size
        self._budget.used -= size


def _used(share: Share) -> int:
    return share.used
