"""How many associations a destination may have now: carefully up on success, to none on failure (as Postfix's queue
manager does).

Starts at 1. After as many successes in a row as associations are allowed (a cohort), one more, up to the limit. A
failure of the
destination takes it to 0: the lane rests, and returns with 1.
"""

from __future__ import annotations


class Concurrency:
    __slots__ = ("_successes", "allowed", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.allowed = 1
        self._successes = 0

    def succeeded(self) -> None:
        if self.allowed >= self.limit:
            return
        self._successes += 1
        if self._successes >= self.allowed:
            self.allowed += 1
            self._successes = 0

    def refused_another(self, have: int) -> None:
        """The destination did not want one more than the ``have`` that work: not a failure, but a limit for now."""
        self.allowed = max(1, have)
        self._successes = -100 * self.allowed  # so many successes before it is asked for more again

    def failed(self) -> None:
        self.allowed = 0
        self._successes = 0

    def probe(self) -> None:
        self.allowed = 1
        self._successes = 0
