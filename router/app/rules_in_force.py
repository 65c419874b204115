"""The rule set that decides now, and how it is replaced: parse, check, run its tests, swap one reference between two
objects.

Anything wrong keeps the old rules, says where (``file:line:column``) and sets
``dicom_router_config_last_reload_successful`` to 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from router.app.watching import looks
from router.errors import ConfigError, LedgerError, fault_location
from router.ports import Log
from router.routing import RuleSet

RESTART = "destinations are those that router.toml had when the router started: restart it to have others"
"""Beside an unknown destination, which somebody may just have added there."""


class RulesInForce:
    """Owns the current ``RuleSet``.

    Args:
        load: Reads the rule folder; raises ConfigError with every problem. Runs in a thread.
        reloaded: Told of every attempt: whether it succeeded.
        announce: Makes it durable that these rules come into force, before they do. May raise LedgerError: they do not.
        changed: Called on the loop after other rules have come into force.
    """

    def __init__(
        self,
        current: RuleSet,
        *,
        load: Callable[[], RuleSet],
        log: Log,
        reloaded: Callable[[bool], None],
        announce: Callable[[RuleSet], Awaitable[None]],
        changed: Callable[[RuleSet], None],
    ) -> None:
        self.current = current
        self.loaded = time.time()
        """When the rules in force were loaded, epoch seconds."""
        self.problems: list[str] = []
        """Of the last attempt; empty when it succeeded."""
        self._load = load
        self._log = log
        self._reloaded = reloaded
        self._announce = announce
        self._changed = changed
        self._lock = asyncio.Lock()

    def __call__(self) -> RuleSet:
        return self.current

    async def reload(self) -> list[str]:
        """Replace the rules if the new ones are right; gives the problems, empty on success.

        Cancelling it is safe: the old rules stay.
        """
        async with self._lock:
            try:
                fresh = await asyncio.to_thread(self._load)
                if fresh.version != self.current.version:
                    await self._announce(fresh)
            except ConfigError as error:
                unknown = any("unknown destination" in problem for problem in error.problems)
                return self._refused([*error.problems, *([RESTART] if unknown else [])])
            except LedgerError as error:
                return self._refused([f"the change cannot be recorded: {error}"])
            except Exception as error:
                # Whoever wrote them is told, and what else would be told by nobody does not end: the watch.
                return self._refused([f"the rules cannot be read, for a fault of ours: {fault_location(error)}"])
            self.problems = []
            self.loaded = time.time()
            before, self.current = self.current, fresh
            self._reloaded(True)
            for warning in fresh.warnings:
                self._log.warning("rules", warning=warning)
            if fresh.version != before.version:
                self._log.info("rules reloaded", version=fresh.version, before=before.version)
                self._changed(fresh)
            return []

    def _refused(self, problems: list[str]) -> list[str]:
        self.problems = problems
        self._reloaded(False)
        for problem in problems:
            self._log.error("rules refused, the old ones stay in force", problem=problem)
        return problems

    async def watch(self, folder: Path, seen: object) -> None:
        """Reload whenever a file of the folder changes; runs until cancelled.

        Args:
            seen: Its ``state_of`` before the rules in force were read.
        """
        async for _ in looks((folder,), self._log):
            state = await asyncio.to_thread(state_of, folder)
            if state != seen:
                seen = state
                await self.reload()


def state_of(folder: Path) -> object:
    """What tells one state of its rule files from another. Blocking."""
    states = {}
    with suppress(OSError):
        for file in folder.glob("*.toml"):
            with suppress(OSError):
                stat = file.stat()
                states[file.name] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return states
