"""What a lane needs of whatever carries objects to a destination."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from router.model import InstanceInfo
from router.ports import DataSource
from router.services.storage_scu import StoreResponse

Pair = tuple[str, str]
"""(SOP class UID, transfer syntax UID)"""


class StoreAnswer(Protocol):
    """A future, or what is as good as one."""

    def add_done_callback(self, callback: Callable[[Any], None], /) -> object:
        """Called once, on the loop, never from within."""

    def cancelled(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def result(self) -> StoreResponse: ...


class Sender(Protocol):
    """One association, or what stands for one."""

    closed: asyncio.Future[Exception | None]
    """Done when it is over, with what ended it; never raises."""

    @property
    def alive(self) -> bool: ...

    @property
    def room(self) -> int:
        """Objects that can be given to it right now."""

    def proposed(self, info: InstanceInfo) -> bool:
        """It was asked for when this was opened."""

    def accepts(self, info: InstanceInfo) -> bool: ...

    def accepts_pair(self, pair: Pair) -> bool: ...

    def store(self, info: InstanceInfo, source: DataSource) -> StoreAnswer:
        """Send it; what it gives has the answer once there is one, or raises what ``classify.judge_error`` knows."""

    def hurry(self, much_waits: bool) -> None:
        """Whether much more waits than is on its way: an answer is then wanted as soon as it can be had."""

    async def release(self) -> None:
        """End politely, in bounded time."""

    def abort(self) -> None: ...


OpenSender = Callable[[Sequence[Pair]], Awaitable[Sender]]
"""Opens a sender for what waits; raises what ``classify.judge_error`` knows."""
