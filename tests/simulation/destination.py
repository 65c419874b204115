"""Destinations that do everything destinations do, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from router.delivery.sender import Pair
from router.errors import AssociationAborted, AssociationRejected, DeliveryError
from router.model import InstanceInfo
from router.services.storage_scu import StoreResponse

RESPONSE_TIMEOUT = 300.0
CONNECT_TIMEOUT = 10.0


class Mood(StrEnum):
    UP = "up"
    SLOW = "slow"
    DOWN = "down"
    """Refuses connections."""
    SILENT = "silent"
    """Takes objects and never answers."""
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    """0xA700 for everything."""
    CONGESTED = "congested"
    """A-ASSOCIATE-RJ, transient."""
    MISCONFIGURED = "misconfigured"
    """A-ASSOCIATE-RJ, permanent."""
    FAILING = "failing"
    """0x0110 for some."""
    ABORTING = "aborting"
    """Ends associations within objects."""
    FORGETFUL = "forgetful"
    """Stores, and loses its answer with the association."""


GOOD = (Mood.UP, Mood.SLOW)
DOUBTFUL = {Mood.SILENT, Mood.ABORTING, Mood.FORGETFUL, Mood.FAILING}
"""Objects are charged with attempts, and given up after ten of them in a day or more."""
DEAD = (Mood.DOWN, Mood.UNREACHABLE)


@dataclass
class Arrival:
    sop: str
    checksum: bytes
    at: float


@dataclass
class SimulatedDestination:
    name: str
    chance: random.Random
    mood: Mood = Mood.UP
    poisoned: set[str] = field(default_factory=set)
    """SOP Instance UIDs that it refuses for good: 0xC000."""
    arrivals: list[Arrival] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    """When somebody wanted to associate."""
    most_associations: int = 0
    moods: set[Mood] = field(default_factory=set)
    """All that it ever was in."""
    _open: dict[SimulatedSender, None] = field(default_factory=dict)

    async def open(self, pairs: Sequence[Pair]) -> SimulatedSender:
        loop = asyncio.get_running_loop()
        self.attempts.append(loop.time())
        await asyncio.sleep(self.chance.uniform(0.001, 0.05))
        if self.mood is Mood.DOWN:
            raise DeliveryError("cannot connect: Connection refused")
        if self.mood is Mood.UNREACHABLE:
            await asyncio.sleep(CONNECT_TIMEOUT)
            raise DeliveryError("connection timed out")
        if self.mood is Mood.CONGESTED:
            raise AssociationRejected(2, 3, 1)
        if self.mood is Mood.MISCONFIGURED:
            raise AssociationRejected(1, 1, 3)
        sender = SimulatedSender(self, pairs)
        self._open[sender] = None
        self.most_associations = max(self.most_associations, len(self._open))
        return sender

    def change(self, mood: Mood) -> None:
        """What is open dies with a host that goes away."""
        self.mood = mood
        self.moods.add(mood)
        if mood in DEAD:
            for sender in list(self._open):
                sender.lost("connection lost")

    def orphan(self) -> None:
        """Who called is gone: what is on its way may be stored, and nobody hears of it."""
        for sender in self._open:
            sender.orphaned()
        self._open.clear()

    def forget(self, sender: SimulatedSender) -> None:
        self._open.pop(sender, None)

    def latency(self) -> float:
        return self.chance.uniform(1.0, 20.0) if self.mood is Mood.SLOW else self.chance.uniform(0.001, 0.1)


class SimulatedSender:
    """One association. Implements ``delivery.sender.Sender``."""

    def __init__(self, peer: SimulatedDestination, pairs: Sequence[Pair]) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Exception | None] = self._loop.create_future()
        self._peer = peer
        self._pairs = frozenset(pairs)
        self._waiting: dict[int, asyncio.Future[StoreResponse]] = {}
        self._sent: dict[int, InstanceInfo] = {}
        self._window = peer.chance.choice((1, 1, 4))

    @property
    def alive(self) -> bool:
        return not self.closed.done()

    @property
    def room(self) -> int:
        return self._window - len(self._waiting) if self.alive else 0

    def proposed(self, info: InstanceInfo) -> bool:
        return (info.sop_class, info.transfer_syntax) in self._pairs

    def accepts(self, info: InstanceInfo) -> bool:
        return self.proposed(info)

    def accepts_pair(self, pair: Pair) -> bool:
        return pair in self._pairs

    def store(self, info: InstanceInfo, source: Any) -> asyncio.Future[StoreResponse]:
        future: asyncio.Future[StoreResponse] = self._loop.create_future()
        self._waiting[info.id] = future
        self._sent[info.id] = info
        self._loop.call_later(RESPONSE_TIMEOUT, self._too_late, future)
        self._loop.call_later(self._peer.latency(), self._answer, info)
        return future

    def _too_late(self, future: asyncio.Future[StoreResponse]) -> None:
        if not future.done():
            self.lost("no response in time")

    def _answer(self, info: InstanceInfo) -> None:
        peer, future = self._peer, self._waiting.get(info.id)
        if future is None or future.done():
            return
        mood, chance = peer.mood, peer.chance
        if mood is Mood.SILENT:
            return
        if mood is Mood.ABORTING and chance.random() < 0.5:
            self.lost("aborted by the peer")
            return
        status = 0x0000
        if info.sop_instance in peer.poisoned:
            status = chance.choice((0xC000, 0xA900))
        elif mood is Mood.BUSY:
            status = 0xA700
        elif mood is Mood.FAILING and chance.random() < 0.3:
            status = 0x0110
        elif chance.random() < 0.02:
            status = 0xB000
        if status in (0x0000, 0xB000):
            peer.arrivals.append(Arrival(info.sop_instance, info.checksum, self._loop.time()))
            if mood is Mood.FORGETFUL and chance.random() < 0.5:
                self.lost("connection lost")
                return
        del self._waiting[info.id]
        future.set_result(StoreResponse(status))

    def orphaned(self) -> None:
        peer = self._peer
        for number in self._waiting:
            info = self._sent[number]
            if peer.mood in GOOD and peer.chance.random() < 0.5 and info.sop_instance not in peer.poisoned:
                peer.arrivals.append(Arrival(info.sop_instance, info.checksum, self._loop.time()))
        self._waiting.clear()

    def lost(self, why: str) -> None:
        self._end(AssociationAborted(why))

    def _end(self, error: Exception | None) -> None:
        self._peer.forget(self)
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error or AssociationAborted("released"))
        if not self.closed.done():
            self.closed.set_result(error)

    def hurry(self, much_waits: bool) -> None:
        """It answers when the simulation says so."""

    async def release(self) -> None:
        await asyncio.sleep(0.001)
        self._end(None)

    def abort(self) -> None:
        self._end(AssociationAborted("aborted by us"))
