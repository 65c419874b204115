"""A lane with everything around it replaced: ledger, spool, senders, metrics."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.delivery.sender import Pair
from router.errors import AssociationAborted
from router.model import Delivery, Destination, InstanceInfo, Limits, Location, Origin, Outcome
from router.services.storage_scu import StoreResponse

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
_numbers = itertools.count(1)


def delivery(*, sop_class: str = CT, chunks: list[bytes] | None = None, **more: Any) -> Delivery:
    number = next(_numbers)
    info = InstanceInfo(
        id=number, sop_class=sop_class, sop_instance=f"2.25.{number}",
        transfer_syntax=EXPLICIT,
        origin=Origin(listener="", peer="", calling_ae="", called_ae="", address=""),
        received=0.0, size=4, checksum=b"",
    )  # fmt: skip
    return Delivery(id=number, destination="pacs", instance=info, location=Location(1, 1, 0, 4), chunks=chunks, **more)


class Source:
    size = 4
    buffers: Sequence[bytes] | None = (b"data",)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"data"


class FakeSpool:
    def __init__(self) -> None:
        self.damaged: set[int] = set()
        self.error: Exception | None = None

    def source(self, delivery: Delivery) -> Source:
        return Source()

    async def load(self, info: InstanceInfo, location: Location) -> list[bytes]:
        if self.error is not None and info.id in self.damaged:
            raise self.error
        return [b"data"]


class FakeLedger:
    def __init__(self) -> None:
        self.ready: list[Delivery] = []
        self.outcomes: list[Outcome] = []
        self.released: list[Delivery] = []

    def settle(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    async def lease(self, destination: str, limit: int) -> list[Delivery]:
        found, self.ready = self.ready[:limit], self.ready[limit:]
        return found

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        self.released.extend(deliveries)

    async def next_ready_in(self, destination: str) -> float | None:
        return None

    def kinds(self) -> Counter[str]:
        return Counter(outcome.kind.value for outcome in self.outcomes)


class FakeSender:
    """Answers each object by ``answer``: a status, an exception, or None for no answer yet."""

    def __init__(self, answer: Callable[[InstanceInfo], Any], refused: frozenset[str], pairs: Sequence[Pair]) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        self.pairs = frozenset(pairs)
        self.sent: list[int] = []
        self.window = 1
        self.waiting: dict[int, asyncio.Future[StoreResponse]] = {}
        self.hurried = False
        self._answer = answer
        self._refused = refused
        self._loop = loop

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    @property
    def room(self) -> int:
        return self.window - len(self.waiting) if self.alive else 0

    def proposed(self, info: InstanceInfo) -> bool:
        return (info.sop_class, info.transfer_syntax) in self.pairs

    def accepts(self, info: InstanceInfo) -> bool:
        return self.accepts_pair((info.sop_class, info.transfer_syntax))

    def accepts_pair(self, pair: Pair) -> bool:
        return pair in self.pairs and pair[0] not in self._refused

    def store(self, info: InstanceInfo, source: Any) -> asyncio.Future[StoreResponse]:
        future: asyncio.Future[StoreResponse] = self._loop.create_future()
        self.sent.append(info.id)
        self.waiting[info.id] = future
        answer = self._answer(info)
        if answer is not None:
            self._loop.call_soon(self._respond, info.id, answer)
        return future

    def _respond(self, number: int, answer: Any) -> None:
        future = self.waiting.pop(number)
        if isinstance(answer, Exception):
            future.set_exception(answer)
            if isinstance(answer, AssociationAborted):
                self.closed.set_result(answer)
        else:
            future.set_result(StoreResponse(answer))

    def hurry(self, much_waits: bool) -> None:
        self.hurried = much_waits

    async def release(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        for future in self.waiting.values():
            future.set_exception(AssociationAborted("aborted by us"))
        self.waiting.clear()
        if not self.closed.done():
            self.closed.set_result(AssociationAborted("aborted by us"))


class Bench:
    """One lane and what it did."""

    def __init__(self, *, answer: Callable[[InstanceInfo], Any] = lambda info: 0x0000, **destination: Any) -> None:
        self.answer = answer
        self.opening: Callable[[], Exception | None] = lambda: None
        self.refused: frozenset[str] = frozenset()
        self.senders: list[FakeSender] = []
        self.ledger = FakeLedger()
        self.spool = FakeSpool()
        self.budget = Budget(1000)
        self.damaged: list[str] = []
        self.changes: list[bool] = []
        self.early: Counter[str] = Counter()
        limits = Limits(window=destination.pop("window", 1000))
        self.lane = Lane(
            Destination(name="pacs", kind="dicom", idle_timeout=0.05, **destination),
            ledger=self.ledger, spool=self.spool,
            open_sender=self._open, metrics=self, log=self, limits=limits, budget=self.budget, random=lambda: 0.5,
            damaged=lambda info, location, reason: self.damaged.append(reason),
        )  # fmt: skip

    async def _open(self, pairs: Sequence[Pair]) -> FakeSender:
        error = self.opening()
        if error is not None:
            raise error
        sender = FakeSender(lambda info: self.answer(info), self.refused, pairs)
        self.senders.append(sender)
        return sender

    @property
    def sent(self) -> list[int]:
        return [number for sender in self.senders for number in sender.sent]

    def owe(self, *deliveries: Delivery) -> None:
        self.ledger.ready.extend(deliveries)
        self.lane.backlog()

    async def until(self, condition: Callable[[], Any], what: str = "it") -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0)

        try:
            await asyncio.wait_for(poll(), 5)
        except TimeoutError:
            raise AssertionError(f"{what} did not happen; {self.lane.status()}; {self.ledger.outcomes}") from None

    async def two_in_flight(self, first: Delivery, second: Delivery) -> None:
        """On one association."""
        self.owe(first, second)
        await self.until(lambda: self.senders)
        self.senders[0].window = 2
        await self.until(lambda: len(self.senders[0].waiting) == 2 or self.lane.kick())

    async def close(self) -> None:
        await self.lane.close(1)
        assert self.budget.used == 0 or self.lane.waiting, "bytes are counted as kept that nobody keeps"
        assert self.lane.stock.flying == 0, "bytes are counted as in flight that are not"

    # LaneMetrics and Log ---------------------------------------------------------------------------------------

    def up(self, is_up: bool) -> None:
        self.changes.append(is_up)

    def outcome(self, kind: str) -> None: ...

    def delivered(self, size: int, seconds: float) -> None: ...

    def paused(self, is_paused: bool) -> None: ...

    def association_opened(self) -> None: ...

    def association_closed(self) -> None: ...

    def cut_through(self, outcome: str) -> None:
        self.early[outcome] += 1

    def debug(self, event: str, **values: Any) -> None: ...

    info = warning = error = debug
