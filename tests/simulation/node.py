"""A router without sockets and disks: its lanes and its ledger as they are, its spool a list, all in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from router.app.held import HeldInstances
from router.app.router import Router
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.ledger import Receipt, SqliteLedger
from router.ledger.store import Store
from router.ledger.writer import _Call, _Record
from router.model import (
    Decision,
    Delivery,
    Destination,
    InstanceInfo,
    Limits,
    Location,
    LogPosition,
    Origin,
    Outcome,
    Verdict,
)
from router.observe.metrics import RouterMetrics
from tests.ledger.support import SilentLog
from tests.simulation.destination import SimulatedDestination

T = TypeVar("T")
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
ORIGIN = Origin(listener="l", peer="ct1", calling_ae="CT1", called_ae="ROUTER", address="10.0.0.5")
COMMIT = 0.025
"""Seconds that a transaction gathers."""
RENEW_EVERY = 3600.0
"""Seconds from one renewal of leases to the next: nobody else would take one that has run out."""


class _NoBallast:
    """The disk never fills, and 64 MB for each start take longer than the rest of it."""

    def make(self) -> None:
        pass

    def give(self) -> bool:
        return False


class SimulatedLedger(SqliteLedger):
    """The real one, without a thread: what waits is committed by a timer."""

    _timer: asyncio.TimerHandle | None = None
    dead = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._ballast = _NoBallast()  # type: ignore[assignment]

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: list[Any] = []

    def record(
        self, receipts: Sequence[Receipt], done: Callable[[Any], None], *, position: LogPosition | None, owed: bool
    ) -> None:
        self._submit(_Record(receipts, done, position, owed))

    def settle(self, outcome: Outcome) -> None:
        self._submit(outcome)

    def _call(self, work: Callable[[Store, float], T]) -> asyncio.Future[T]:
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Call(work, future))
        return future

    def renew(self) -> None:
        self._submit(_Call(self._renew, self._nobody()))

    def _submit(self, job: object) -> None:
        if self.dead:
            return
        self._jobs.append(job)
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(COMMIT, self._commit_jobs)

    def _commit_jobs(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        jobs, self._jobs = self._jobs, []
        self._transaction(jobs)

    def die(self) -> None:
        """What is not committed is gone, and nothing is heard any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.dead = True
        self.close_files()


class Spool:
    """What was answered: records in order. They survive."""

    def __init__(self) -> None:
        self.records: list[Receipt] = []

    def source(self, delivery: Delivery) -> Any:
        return _Source()

    async def load(self, info: InstanceInfo, location: Location) -> list[bytes]:
        await asyncio.sleep(0.001)
        return [b"data"]


class _Source:
    size = 4
    buffers: Sequence[bytes] | None = (b"data",)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"data"


@dataclass(frozen=True)
class Rules:
    """Some rules: where an object goes hangs on its UID and their number alone.

    Args:
        holds: Share of objects that they have no rule for.
    """

    number: int
    names: tuple[str, ...]
    holds: float

    @property
    def version(self) -> str:
        return f"v{self.number}"

    def decide(self, sop: str) -> Decision:
        drawn = zlib.crc32(f"{self.number}/{sop}".encode())
        if drawn % 1000 < self.holds * 1000:
            return Decision(verdict=Verdict.HOLD, version=self.version)
        names = tuple(name for at, name in enumerate(self.names) if drawn >> (16 + 2 * at) & 3)  # three of four
        verdict = Verdict.ROUTE if names else Verdict.DISCARD
        return Decision(verdict=verdict, destinations=names, rules=("r",), version=self.version)


class Held(HeldInstances):
    """The real ones, but that nobody reads a data set for the decision."""

    async def _decide(
        self, rules: Any, info: InstanceInfo, location: Location, destinations: Sequence[str] | None
    ) -> Decision | None:
        await asyncio.sleep(0.001)
        decision: Decision = rules.decide(info.sop_instance)
        return decision


def _found(receipt: Receipt) -> Receipt:
    """As a start reads it from the log: nobody's lane has it."""
    return Receipt(info=receipt.info, decision=receipt.decision, location=receipt.location)


class SimulatedNode:
    """Started and killed at will; ``spool`` and the ledger's file stay."""

    def __init__(
        self, folder: Path, destinations: Sequence[SimulatedDestination], chance: random.Random, window: int
    ) -> None:
        self.folder = folder
        self.window = window
        self.destinations = destinations
        self.chance = chance
        self.spool = Spool()
        self.lanes: dict[str, Lane] = {}
        self.paused: set[str] = set()
        self.largest_window = 0
        """Deliveries in memory at most."""
        self.rules_in_force = Rules(1, tuple(peer.name for peer in destinations), 0.0)
        self.log = SilentLog()
        self.config = SimpleNamespace(on_changed_duplicate="version")
        self.intake = SimpleNamespace(decided=lambda decision: None)
        self._ids = itertools.count(1)
        self.ledger: SimulatedLedger

    def start(self) -> None:
        loop = self.loop = asyncio.get_running_loop()
        ledger = SimulatedLedger.open(self.folder / "ledger.db", node="n1", log=SilentLog())
        assert isinstance(ledger, SimulatedLedger)
        self.ledger = ledger
        known = ledger.position().offset
        records = self.spool.records
        ledger.follow(
            (_found(one) for one in records[known:] if not ledger.knows(one.info.id)), LogPosition(1, len(records))
        )
        ledger.begin(loop)
        ledger.ready = self._ready
        budget = Budget(1 << 20)
        for peer in self.destinations:
            self.lanes[peer.name] = Lane(
                Destination(name=peer.name, kind="dicom", ae_title="X", host="h", port=1),
                ledger=ledger, spool=self.spool, open_sender=peer.open, log=SilentLog(),
                metrics=RouterMetrics(process=False).lane(peer.name),
                limits=Limits(window=self.window), budget=budget, random=self.chance.random, damaged=lambda *_: None,
            )  # fmt: skip
            if peer.name in self.paused:
                self.lanes[peer.name].pause("an operator")
        for lane in self.lanes.values():
            lane.start()
        self._renewing = loop.create_task(self._renew())
        self.held = Held(cast(Router, self))
        self.held.decide_again("started with other rules", held_by_others=True)  # as the router does

    def rules(self) -> Rules:
        return self.rules_in_force

    def log_discarded(self, info: InstanceInfo, decision: Decision) -> None:
        """Nobody reads it."""

    def reload(self, rules: Rules) -> None:
        self.rules_in_force = rules
        self.held.decide_again("rules changed")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            self.ledger.renew()

    def _ready(self, name: str) -> None:
        if name in self.lanes:
            self.lanes[name].backlog()

    async def kill(self) -> None:
        """Everything in memory is gone; what is on its way may arrive."""
        self._renewing.cancel()
        self.ledger.die()
        for lane in self.lanes.values():
            lane._closing = True
        for peer in self.destinations:
            peer.orphan()
        for task in sorted(asyncio.all_tasks(), key=lambda one: one.get_name()):
            if task is not asyncio.current_task() and task.get_name() != "the world":
                task.cancel()
        self.lanes.clear()
        await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._renewing.cancel()
        await self.held.close()
        await asyncio.gather(*(lane.close(5.0) for lane in self.lanes.values()))
        self.ledger._commit_jobs()
        self.ledger.die()
        await asyncio.sleep(0.01)
        self.lanes.clear()

    def receive(self, sop: str, content: bytes, decision: Decision) -> Receipt:
        """An object that was answered 0x0000: its record is durable before the ledger hears of it."""
        number = next(self._ids)
        info = InstanceInfo(
            id=number, sop_class=CT, sop_instance=sop, transfer_syntax=EXPLICIT, origin=ORIGIN,
            received=0.0, size=4, checksum=content, study="2.25.9",
        )  # fmt: skip
        direct = frozenset(name for name in decision.destinations if self.lanes[name].reserve())
        self.largest_window = max(self.largest_window, 0, *(lane.window for lane in self.lanes.values()))
        receipt = Receipt(info=info, decision=decision, location=Location(1, 1, number * 4096, 4), direct=direct)
        records = self.spool.records
        records.append(receipt)
        lanes = self.lanes

        def recorded(outcome: Any) -> None:
            if not isinstance(outcome, list):
                return
            (result,) = outcome
            got = {delivery.destination for delivery in result.deliveries}
            for delivery in result.deliveries:
                lanes[delivery.destination].offer(delivery)
                lanes[delivery.destination].kick()
            for name in direct - got:
                lanes[name].cancel_reservation()
            for name in result.backlog:
                lanes[name].backlog()

        self.ledger.record([receipt], recorded, position=LogPosition(1, len(records)), owed=True)
        return receipt
