"""What a service manager is told, and how often: systemd's side of the router (sd_notify(3), sd_watchdog_enabled(3)).

Started without one, nothing here does anything. "Alive" is more than a loop that turns: whoever stores and delivers
nothing any more is of no use, however well it answers signals.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress

from router.ports import Log

PINGS = 3
"""Within the time after which the manager would end us."""


class ServiceManager:
    """Made once per service, before its children: they inherit none of it.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are taken out of it.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        owner = environment.pop("WATCHDOG_PID", "")
        self._address = ""
        self.interval: float | None = None
        """Seconds within which the manager wants to hear that we live; None: it does not ask."""
        if not address.startswith(("/", "@")):
            return
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if usec.isdigit() and int(usec) and owner in ("", str(os.getpid())):
            self.interval = int(usec) / 1e6

    def ready(self) -> None:
        self._tell("READY=1", "STATUS=serving")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=draining")

    async def watch(self, alive: Callable[[], Awaitable[str]], log: Log) -> None:
        """Say that we live as long as we do; until cancelled.

        Args:
            alive: Asks every part that must make progress; gives what is wrong, empty if nothing is.
        """
        if self.interval is None:
            return
        pause = self.interval / PINGS
        while True:
            try:
                problem = await asyncio.wait_for(alive(), pause)
            except TimeoutError:
                problem = "the ledger does not answer"
            if problem:
                log.error("no sign of life is given", reason=problem)
                self._tell(f"STATUS={problem}")
            else:
                self._tell("WATCHDOG=1")
            await asyncio.sleep(pause)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            with suppress(OSError):  # nobody listens, or not now: it will hear the next
                sender.sendto("\n".join(lines).encode(), self._address)
