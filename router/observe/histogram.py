"""A histogram that costs a fraction of a microsecond to fill: counts per bucket in a plain list, summed up when asked.

Filled on the event loop only; read from anywhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Values by upper bound, as Prometheus counts them.

    Args:
        bounds: Upper bounds, rising, without infinity. A value equal to a bound belongs to it.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound as text, values up to it), cumulative, ending with ``+Inf``."""
        running = 0
        found: list[tuple[str, float]] = []
        for bound, count in zip((*(str(float(bound)) for bound in self._bounds), "+Inf"), self._counts, strict=True):
            running += count
            found.append((bound, running))
        return found
