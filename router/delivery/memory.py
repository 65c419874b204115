"""Bytes of data sets kept in memory for sending, all destinations together."""

from __future__ import annotations


class Budget:
    """A count with a limit; whoever does not get a share reads the spool."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size
