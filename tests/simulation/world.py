"""One seed: objects arrive, destinations do what destinations do, the router is killed, clocks jump; then all heals,
and what must be true is looked at.

``python -m tests.simulation.world SEED`` runs one again and says what is wrong.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import router.delivery.lane
import router.ledger.writer
from router.ledger import Receipt
from tests.simulation.destination import DEAD, DOUBTFUL, Mood, SimulatedDestination
from tests.simulation.loop import Clock, VirtualLoop
from tests.simulation.node import WINDOW, SimulatedNode

HOUR, DAY = 3600.0, 86400.0
HEALING = 4 * DAY
"""Virtual seconds after which everything must have arrived: ten attempts of an object take a day."""
SHORTEST, LONGEST = 5.0 * 0.8, 300.0 * 0.8
"""Of a rest: PS: 5 s doubled to 300 s, give or take a fifth."""


@dataclass(frozen=True)
class Outcome:
    """What a seed did, and everything that is wrong with it."""

    seed: int
    objects: int
    deliveries: int
    kills: int
    dead: int
    virtual_seconds: float
    violations: tuple[str, ...]


@dataclass
class Version:
    """Of an object: what the ledger keeps as one instance."""

    id: int
    checksum: bytes
    destinations: set[str]


@contextmanager
def virtual(loop: VirtualLoop) -> Iterator[Clock]:
    """The modules that look at clocks look at virtual ones."""
    clock = Clock(loop)
    modules = (router.delivery.lane, router.ledger.writer)
    kept = [module.time for module in modules]  # type: ignore[attr-defined]
    for module in modules:
        module.time = clock  # type: ignore[attr-defined]
    try:
        yield clock
    finally:
        for module, real in zip(modules, kept, strict=True):
            module.time = real  # type: ignore[attr-defined]


class World:
    def __init__(self, seed: int, folder: Path, clock: Clock) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.clock = clock
        count = self.chance.choice((1, 2, 3))
        self.destinations = [SimulatedDestination(f"d{number}", self.chance) for number in range(count)]
        self.node = SimulatedNode(folder, self.destinations, self.chance)
        self.database = folder / "ledger.db"
        self.span = self.chance.choice((60.0, HOUR, DAY, 7 * DAY))
        self.receipts: list[Receipt] = []
        self.poisoned: set[tuple[str, str]] = set()
        self.given_up: set[tuple[int, str]] = set()
        self.kills = 0
        self.violations: list[str] = []
        self._down_since: dict[str, tuple[float, int]] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        chance = self.chance
        self.node.start()
        for _ in range(chance.randrange(10, 60)):
            await asyncio.sleep(chance.expovariate(30 / self.span) if chance.random() < 0.7 else 0.0)
            await self._something()
        self._heal()
        deadline = loop.time() + HEALING
        while loop.time() < deadline and not self._settled():
            await asyncio.sleep(HOUR / 4)
        await asyncio.sleep(1.0)
        await self.node.stop()
        self._judge()

    # What happens ------------------------------------------------------------------------------------------

    async def _something(self) -> None:
        what = self.chance.choices(
            (self._arrive, self._burst, self._mood, self._kill, self._restart, self._pause, self._step, self._again),
            (50, 8, 25, 5, 3, 4, 3, 2),
        )[0]
        await what()

    async def _arrive(self) -> None:
        chance = self.chance
        if self.receipts and chance.random() < 0.15:
            sop = chance.choice(self.receipts).info.sop_instance  # again: the same, or another version
            content = bytes([chance.randrange(3)]) * 16
        else:
            sop, content = f"2.25.{len(self.receipts) + 1}", b"\0" * 16
        names = [peer.name for peer in self.destinations if chance.random() < 0.8]
        for peer in self.destinations:
            if chance.random() < 0.03:
                peer.poisoned.add(sop)
                self.poisoned.add((sop, peer.name))
        self.receipts.append(self.node.receive(sop, content, names))

    async def _burst(self) -> None:
        for _ in range(self.chance.randrange(5, 3 * WINDOW)):
            await self._arrive()

    async def _mood(self) -> None:
        peer = self.chance.choice(self.destinations)
        self._look_at_attempts(peer)
        peer.change(self.chance.choice(list(Mood)))
        if peer.mood in DEAD:
            self._down_since[peer.name] = (asyncio.get_running_loop().time(), len(peer.attempts))

    async def _kill(self) -> None:
        self.kills += 1
        await self.node.kill()
        self._begin()

    async def _restart(self) -> None:
        await self.node.stop()
        self._begin()

    def _begin(self) -> None:
        self.node.start()
        now = asyncio.get_running_loop().time()
        for peer in self.destinations:  # a new process knows nothing of rests
            if peer.name in self._down_since:
                self._down_since[peer.name] = (now, len(peer.attempts))

    async def _pause(self) -> None:
        name = self.chance.choice(self.destinations).name
        if name in self.node.paused:
            self._resume(name)
        else:
            self.node.paused.add(name)
            self.node.lanes[name].pause("an operator")

    def _resume(self, name: str) -> None:
        self.node.paused.discard(name)
        self.node.lanes[name].resume()
        peer = next(peer for peer in self.destinations if peer.name == name)
        if name in self._down_since:  # which ends a rest
            self._down_since[name] = (asyncio.get_running_loop().time(), len(peer.attempts))

    async def _step(self) -> None:
        """The time of day jumps; monotonic clocks do not."""
        self.clock.step(self.chance.uniform(-10 * DAY, 10 * DAY))

    async def _again(self) -> None:
        """An operator has dead letters tried again."""
        await self.node.ledger.retry_dead(None, None)
        for lane in self.node.lanes.values():
            lane.backlog()

    def _heal(self) -> None:
        for peer in self.destinations:
            self._look_at_attempts(peer)
            self._down_since.pop(peer.name, None)
            peer.change(Mood.UP)
        for name in list(self.node.paused):
            self._resume(name)

    # What must be true -------------------------------------------------------------------------------------

    def _look_at_attempts(self, peer: SimulatedDestination) -> None:
        """A dead peer is asked once a rest: 5 s, doubled to 300 s."""
        found = self._down_since.pop(peer.name, None)
        if found is None:
            return
        since, attempts = found
        lasted = asyncio.get_running_loop().time() - since
        allowed = 1 + peer_associations(peer)
        rest, at = SHORTEST, 0.0
        while at < lasted:
            allowed += 1
            at += rest
            rest = min(rest * 2, LONGEST)
        made = len(peer.attempts) - attempts
        if made > allowed:
            self._wrong(f"{peer.name} was dead for {lasted:.0f} s and asked {made} times, {allowed} at most")

    def _rows(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def _settled(self) -> bool:
        open_rows = self._rows("select 1 from delivery where state in ('ready','leased') limit 1")
        return not open_rows and self.node.ledger.position().offset == len(self.node.spool.records)

    def _wrong(self, what: str) -> None:
        self.violations.append(what)

    def _judge(self) -> None:
        states = {
            (instance, dest): (state, reason)
            for instance, dest, state, reason in self._rows("select instance_id, dest, state, last_error from delivery")
        }
        doubtful = {peer.name for peer in self.destinations if peer.moods & DOUBTFUL}
        kept = {row[0] for row in self._rows("select id from instance")}
        versions: dict[str, list[Version]] = {}
        for receipt in self.receipts:
            info = receipt.info
            known = versions.setdefault(info.sop_instance, [])
            if info.id in kept:
                known.append(Version(info.id, info.checksum, set(receipt.decision.destinations)))
            elif known and known[-1].checksum == info.checksum:
                known[-1].destinations.update(receipt.decision.destinations)  # a repeated one may be owed to more
            else:
                self._wrong(f"object {info.id} was answered, and nobody knows of it")
        for sop, found in versions.items():
            for version in found:
                for name in version.destinations:
                    state, reason = states.get((version.id, name), ("missing", None))
                    if state == "dead" and reason and ((sop, name) in self.poisoned or name in doubtful):
                        self.given_up.add((version.id, name))
                    elif state != "done":
                        self._wrong(f"object {version.id} for {name} is {state}: {reason}")
        for peer in self.destinations:
            self._judge_arrivals(peer, versions)
        if self.node.largest_window > WINDOW + 1:
            self._wrong(f"{self.node.largest_window} deliveries in memory")

    def _judge_arrivals(self, peer: SimulatedDestination, versions: dict[str, list[Version]]) -> None:
        arrived: dict[str, list[bytes]] = {}
        for arrival in peer.arrivals:
            arrived.setdefault(arrival.sop, []).append(arrival.checksum)
        for sop, found in versions.items():
            mine = [version for version in found if peer.name in version.destinations]
            here = arrived.pop(sop, [])
            if set(here) - {version.checksum for version in mine}:
                self._wrong(f"{peer.name} got {sop}, which it is not owed")
            for version in mine:
                if (version.id, peer.name) not in self.given_up and version.checksum not in here:
                    self._wrong(f"{peer.name} never got object {version.id}")
            whole = all((version.id, peer.name) not in self.given_up for version in mine)
            if here and whole and (sop, peer.name) not in self.poisoned and here[-1] != mine[-1].checksum:
                self._wrong(f"{peer.name} got an older version of {sop} last")
        if arrived:
            self._wrong(f"{peer.name} got objects that nobody sent")
        if peer.most_associations > 4:
            self._wrong(f"{peer.name} had {peer.most_associations} associations at once")


def peer_associations(peer: SimulatedDestination) -> int:
    """Attempts that may be under way when it dies."""
    return peer.most_associations + 4


def simulate(seed: int, folder: Path) -> Outcome:
    """Run one seed to its end. Deterministic."""
    loop = VirtualLoop()
    try:
        with virtual(loop) as clock:
            world = World(seed, folder, clock)
            loop.run_until_complete(loop.create_task(world.run(), name="the world"))
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()
    counts = Counter(name for receipt in world.receipts for name in receipt.decision.destinations)
    return Outcome(
        seed=seed,
        objects=len(world.receipts),
        deliveries=counts.total(),
        kills=world.kills,
        dead=len(world.given_up),
        virtual_seconds=loop.now,
        violations=tuple(world.violations),
    )


def main() -> int:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        outcome = simulate(int(sys.argv[1]), Path(folder))
    print(outcome)
    return bool(outcome.violations)


if __name__ == "__main__":
    sys.exit(main())
