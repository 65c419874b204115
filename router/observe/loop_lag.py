"""How late the event loop comes back from what it does: the first number to look at when everything is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.25
"""Seconds between measurements."""


class LoopLag:
    """Measures the loop it runs on.

    Args:
        observe: Called with the seconds by which a sleep was late.
        interval: Seconds between measurements.
    """

    def __init__(self, observe: Callable[[float], None], interval: float = INTERVAL) -> None:
        self._observe = observe
        self._interval = interval

    async def run(self) -> None:
        """Until cancelled, which is safe at any point."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + self._interval
            await asyncio.sleep(self._interval)
            self._observe(max(0.0, clock() - due))
