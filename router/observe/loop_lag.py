"""How late the event loop comes back from what it does: the first number to look at when everything is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.25
"""Seconds between measurements."""


async def watch_lag(observe: Callable[[float], None], interval: float = INTERVAL) -> None:
    """Call ``observe`` with the seconds by which a sleep was late, every ``interval`` seconds, until cancelled.

    Cancelling it is safe at any point.
    """
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + interval
        await asyncio.sleep(interval)
        observe(max(0.0, clock() - due))
