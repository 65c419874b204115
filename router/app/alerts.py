"""Refused connections and associations, as Security Alerts of the audit trail.

The first of each kind and caller at once, what follows in sum: whoever knocks fast cannot fill the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from router.errors import LedgerError

EVERY = 60.0
"""Seconds between two alerts of one kind and caller."""
AT_ONCE = 1000
"""Kinds and callers told apart; what is beyond counts together."""
NOT_OURS = frozenset(("disk_full", "storage_failed", "shutting_down"))
"""Refusals that say nothing of who called."""

Key = tuple[str, str, str, str]


class Alerts:
    """
    Args:
        tell: Writes one alert.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._tell = tell
        self._waiting: dict[Key, int] = {}
        self._told: dict[Key, float] = {}
        self._news = asyncio.Event()

    def refused(self, listener: str, reason: str, address: str, calling: str) -> None:
        """On the loop."""
        if reason in NOT_OURS:
            return
        key = (listener, reason, address, calling)
        if key not in self._waiting and len(self._waiting) + len(self._told) >= AT_ONCE:
            key = (listener, reason, "", "")
        self._waiting[key] = self._waiting.get(key, 0) + 1
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                with suppress(LedgerError):  # it has no room, or another program holds it: they wait
                    await self.flush()
                if self._waiting:
                    await asyncio.sleep(1.0)

    async def flush(self, *, all_of_them: bool = False) -> None:
        """Tell what may be told now. Raises LedgerError, and what was not written waits on."""
        now = time.monotonic()
        self._told = {key: at for key, at in self._told.items() if now - at < EVERY}
        for key in [key for key in self._waiting if all_of_them or key not in self._told]:
            count = self._waiting.pop(key)
            self._told[key] = now
            listener, reason, address, calling = key
            try:
                await self._tell(
                    {"listener": listener, "reason": reason, "address": address, "calling": calling, "count": count}
                )
            except LedgerError:
                del self._told[key]
                self._waiting[key] = self._waiting.get(key, 0) + count
                raise
