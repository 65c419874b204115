"""An event loop in virtual time: when nothing is left to do it goes to the next timer, at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

EPOCH = 1_700_000_000.0


class _Nothing(selectors.BaseSelector):
    """No file is ever ready; what it would wait, passes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        self._loop.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds since it was made are ``now``."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Nothing(self))

    def time(self) -> float:
        return self.now

    def _write_to_self(self) -> None:
        """There is one thread."""


class Clock:
    """Stands for the module ``time`` in what is simulated.

    ``step`` moves the time of day, as an operator or NTP does; what is monotonic goes on.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._offset = EPOCH

    def step(self, seconds: float) -> None:
        self._offset += seconds

    def time(self) -> float:
        return self._offset + self._loop.now

    def time_ns(self) -> int:
        return int(self.time() * 1e9)

    def monotonic(self) -> float:
        return self._loop.now

    def sleep(self, seconds: float) -> None:
        raise RuntimeError("nothing that is simulated may block")
