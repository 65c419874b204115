"""How long a destination rests after failures: a pure function, seconds in and out."""

from __future__ import annotations

FIRST = 5.0
LONGEST = 300.0
JITTER = 0.2


def rest_seconds(failures: int, jitter: float, *, first: float = FIRST) -> float:
    """Rest after ``failures`` in a row (1 or more): doubling from ``first`` to 300 s.

    Args:
        jitter: 0 to 1, random: spreads the rest by ±20 %, so that what failed together does not return together.
    """
    doubled = first * 2.0 ** min(failures - 1, 16)
    return min(doubled, LONGEST) * (1.0 - JITTER + 2.0 * JITTER * jitter)
