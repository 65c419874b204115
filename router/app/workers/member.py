"""One worker as its parent sees it: the process, whether it serves, and how it is asked."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

from router.app.workers.told import socket_of
from router.web.local import NoAnswer, ask

TIMEOUT = 30.0
"""Seconds for an answer; a large ``resend`` takes a while."""


class Member:
    """``state``: starting, serving, waiting (to be started again) or ended."""

    def __init__(self, index: int, data_dir: Path) -> None:
        self.index = index
        self.path = socket_of(data_dir, index)
        self.state = "starting"
        self.restarts = 0
        self.served = asyncio.Event()
        """It has served at least once."""
        self.serving_since = 0.0
        """Monotonic; 0: its present run does not serve yet."""
        self.silent_since = 0.0
        """Monotonic; 0: it answers, or need not."""
        self._process: Process | None = None
        self._reload = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    # What the parent says of it ------------------------------------------------------------------------------

    def starts(self, process: Process) -> None:
        self._process = process
        self.state = "starting"
        self.serving_since = self.silent_since = 0.0

    def serves(self) -> None:
        self.state = "serving"
        self.serving_since = time.monotonic()
        self.served.set()
        if self._reload:
            self.reload()

    def ends(self) -> None:
        self._process = None
        self.state = "ended"

    def waits(self) -> None:
        self.state = "waiting"

    def signal(self, number: signal.Signals) -> None:
        """Nothing if it does not run."""
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    def answered(self, whether: bool) -> None:
        """It was asked how it is."""
        if whether or self.state != "serving":
            self.silent_since = 0.0
        elif not self.silent_since:
            self.silent_since = time.monotonic()

    def reload(self) -> None:
        """SIGHUP; one that is starting would die of it, and hears it later."""
        self._reload = self.state != "serving"
        if not self._reload:
            self.signal(signal.SIGHUP)

    # Asking it -----------------------------------------------------------------------------------------------

    async def ask(self, method: str, target: str, body: Any = None, within: float = TIMEOUT) -> tuple[int, bytes]:
        """Status and body of its answer, if it comes ``within`` seconds. Raises NoAnswer."""
        if self.state != "serving":
            raise NoAnswer(f"worker {self.index} is {self.state}", asked=False)
        data = b"" if body is None else json.dumps(body).encode()
        try:
            return await ask(self.path, method, target, data, within)
        except NoAnswer as error:
            raise NoAnswer(f"worker {self.index} {error}", asked=error.asked) from None
