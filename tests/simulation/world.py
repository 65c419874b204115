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
from router.model import Decision, Verdict
from tests.simulation.destination import DEAD, DOUBTFUL, Mood, SimulatedDestination
from tests.simulation.loop import Clock, VirtualLoop
from tests.simulation.node import Rules, SimulatedNode

HOUR, DAY = 3600.0, 86400.0
HEALING = 4 * DAY
"""Virtual seconds after which everything must have arrived: ten attempts of an object take a day."""
SHORTEST, LONGEST = 5.0 * 0.8, 300.0 * 0.8
"""Of a rest: 5 s doubled to 300 s, give or take a fifth."""


@dataclass(frozen=True)
class Plan:
    """What a seed may draw. Another one makes another world of each seed."""

    window: int
    spans: tuple[float, ...]
    """Virtual seconds in which everything happens."""
    reloads: bool
    """Rules change, and some hold objects."""


PLAN = Plan(window=6, spans=(60.0,) * 6 + (HOUR,) * 6 + (DAY,) * 3 + (7 * DAY,), reloads=True)
FIRST_PLAN = Plan(window=20, spans=(60.0, HOUR, DAY, 7 * DAY), reloads=False)


@dataclass(frozen=True)
class Outcome:
    """What a seed did, and everything that is wrong with it."""

    seed: int
    objects: int
    deliveries: int
    kills: int
    dead: int
    released: int
    """Objects that rules held, and others released."""
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
    def __init__(self, seed: int, folder: Path, clock: Clock, plan: Plan) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.clock = clock
        self.plan = plan
        count = self.chance.choice((1, 2, 3))
        self.destinations = [SimulatedDestination(f"d{number}", self.chance) for number in range(count)]
        self.node = SimulatedNode(folder, self.destinations, self.chance, plan.window)
        self.rules = {1: self.node.rules_in_force}
        self.database = folder / "ledger.db"
        self.span = self.chance.choice(plan.spans)
        self.receipts: list[Receipt] = []
        self.poisoned: set[tuple[str, str]] = set()
        self.given_up: set[tuple[int, str]] = set()
        self.kills = 0
        self.released = 0
        self.violations: list[str] = []
        self._down_since: dict[str, tuple[float, int]] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        chance = self.chance
        self.node.start()
        for _ in range(chance.randrange(10, 60)):
            await asyncio.sleep(chance.expovariate(30 / self.span) if chance.random() < 0.7 else 0.0)
            await self._something()
        await self._heal()
        deadline = loop.time() + HEALING
        while loop.time() < deadline and not self._settled():
            await asyncio.sleep(HOUR / 4)
        await asyncio.sleep(1.0)
        await self.node.stop()
        self._judge()

    # What happens ------------------------------------------------------------------------------------------

    async def _something(self) -> None:
        what = (self._arrive, self._burst, self._mood, self._kill, self._restart, self._pause, self._step, self._again)
        weights = (50, 8, 25, 5, 3, 4, 3, 2)
        if self.plan.reloads:
            what, weights = (*what, self._reload), (*weights, 8)
        await self.chance.choices(what, weights)[0]()

    async def _arrive(self) -> None:
        chance = self.chance
        if self.receipts and chance.random() < 0.15:
            sop = chance.choice(self.receipts).info.sop_instance  # again: the same, or another version
            content = bytes([chance.randrange(3)]) * 16
        else:
            sop, content = f"2.25.{len(self.receipts) + 1}", b"\0" * 16
        if self.plan.reloads:
            decision = self.node.rules_in_force.decide(sop)
            if decision.verdict is Verdict.DISCARD:
                return
        else:
            names = tuple(peer.name for peer in self.destinations if chance.random() < 0.8)
            decision = Decision(verdict=Verdict.ROUTE, destinations=names, rules=("r",), version="v1")
        for peer in self.destinations:
            if chance.random() < 0.03:
                peer.poisoned.add(sop)
                self.poisoned.add((sop, peer.name))
        self.receipts.append(self.node.receive(sop, content, decision))

    async def _burst(self) -> None:
        for _ in range(self.chance.randrange(5, 3 * self.plan.window)):
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

    async def _reload(self) -> None:
        """Other rules; some have none for half of the objects."""
        self.node.reload(self._other_rules(self.chance.choice((0.0, 0.0, 0.1, 0.5))))

    def _other_rules(self, holds: float) -> Rules:
        number = len(self.rules) + 1
        names = tuple(peer.name for peer in self.destinations)
        rules = self.rules[number] = Rules(number, names, holds)
        return rules

    async def _heal(self) -> None:
        if self.plan.reloads:
            rules = self._other_rules(0.0)
            if self.chance.random() < 0.3:  # changed while the router is down
                await self.node.kill()
                self.node.rules_in_force = rules
                self._begin()
            else:
                self.node.reload(rules)
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
        allowed = most_attempts(lasted) + peer_associations(peer)
        made = len(peer.attempts) - attempts
        if made > allowed:
            self._wrong(f"{peer.name} was dead for {lasted:.0f} s and asked {made} times, {allowed} at most")

    def _rows(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def _settled(self) -> bool:
        open_rows = self._rows(
            "select 1 from delivery where state in ('ready','leased') "
            "union select 1 from instance where verdict='hold' limit 1"
        )
        return not open_rows and self.node.ledger.position().offset == len(self.node.spool.records)

    def _wrong(self, what: str) -> None:
        self.violations.append(what)

    def _judge(self) -> None:
        states = {
            (instance, dest): (state, reason)
            for instance, dest, state, reason in self._rows("select instance_id, dest, state, last_error from delivery")
        }
        doubtful = {peer.name for peer in self.destinations if peer.moods & DOUBTFUL}
        kept = {
            number: (verdict, version)
            for number, verdict, version in self._rows("select id, verdict, rule_version from instance")
        }
        versions: dict[str, list[Version]] = {}
        for receipt in self.receipts:
            info = receipt.info
            known = versions.setdefault(info.sop_instance, [])
            if info.id in kept:
                known.append(Version(info.id, info.checksum, self._owed(receipt, *kept[info.id])))
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
                for name in {name for number, name in states if number == version.id} - version.destinations:
                    self._wrong(f"object {version.id} is owed to {name}, which no rule chose")
        for peer in self.destinations:
            self._judge_arrivals(peer, versions)
        if self.node.largest_window > self.plan.window + 1:
            self._wrong(f"{self.node.largest_window} deliveries in memory")

    def _owed(self, receipt: Receipt, verdict: object, version: object) -> set[str]:
        """To whom, by the rules at its arrival or by those that released it."""
        decision = receipt.decision
        if verdict == "hold":
            self._wrong(f"object {receipt.info.id} is held by rules that are no more")
        if version == decision.version:
            return set(decision.destinations)
        if decision.verdict is not Verdict.HOLD:
            self._wrong(f"object {receipt.info.id} was decided twice")
        self.released += 1
        return set(self.rules[int(str(version).removeprefix("v"))].decide(receipt.info.sop_instance).destinations)

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
            if here and mine and whole and (sop, peer.name) not in self.poisoned and here[-1] != mine[-1].checksum:
                self._wrong(f"{peer.name} got an older version of {sop} last")
        if arrived:
            self._wrong(f"{peer.name} got objects that nobody sent")
        if peer.most_associations > 4:
            self._wrong(f"{peer.name} had {peer.most_associations} associations at once")


def most_attempts(seconds: float) -> int:
    """To a destination that is dead for so long, if every rest is as short as it may be."""
    count, rest, at = 1, SHORTEST, 0.0
    while at < seconds:
        count += 1
        at += rest
        rest = min(rest * 2, LONGEST)
    return count


def peer_associations(peer: SimulatedDestination) -> int:
    """Attempts that may be under way when it dies."""
    return peer.most_associations + 4


def finish(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing is left that runs."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def simulate(seed: int, folder: Path, plan: Plan = PLAN) -> Outcome:
    """Run one seed to its end. Deterministic."""
    loop = VirtualLoop()
    try:
        with virtual(loop) as clock:
            world = World(seed, folder, clock, plan)
            loop.run_until_complete(loop.create_task(world.run(), name="the world"))
            finish(loop)
    finally:
        loop.close()
    counts = Counter(name for receipt in world.receipts for name in receipt.decision.destinations)
    return Outcome(
        seed=seed,
        objects=len(world.receipts),
        deliveries=counts.total(),
        kills=world.kills,
        dead=len(world.given_up),
        released=world.released,
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
