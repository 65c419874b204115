"""A destination is down for a week, and objects come all the time: what it costs the others and the network, and how
the backlog drains.

Lanes and ledger are real, time is virtual. One destination is up, one is down for seven days; every object is owed to
both. After the return more objects come, faster than before and some of them urgent, while the backlog drains.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from router.model import Decision, Priority, Verdict
from tests.simulation.destination import Mood, SimulatedDestination
from tests.simulation.loop import VirtualLoop
from tests.simulation.node import SimulatedNode
from tests.simulation.world import DAY, HOUR, finish, most_attempts, virtual

WEEK = 7 * DAY
MEAN = 600.0
"""Virtual seconds from one object to the next, on average, while it is down."""
MEAN_AFTER = 0.5
AFTER = 200
"""Objects that come after the return."""
DRAINING = 50
"""Objects that come once the backlog has begun to drain."""
MEAN_DRAINING = 0.1
NOTICED = 1.0
"""Seconds from the first delivery until the lane has surely left off probing."""
WINDOW = 20


@dataclass(frozen=True)
class Week:
    """What was seen; seconds are virtual."""

    objects: int
    missing: int
    """Deliveries that never came."""
    repeated: int
    attempts: int
    allowed: int
    """Attempts to the dead destination, and how many there may be."""
    returned: float
    """From the return to the first delivery."""
    drained: float
    """From the return until nothing of the week was left."""
    steady: float
    """The longest that an object took to the destination that was up, in the week and after it."""
    urgent: float
    """The longest that an urgent object took to the one that came back, while its backlog drained."""
    ordinary: float
    """The same of one that is not urgent and came while it drained: what is late and what is new take turns."""
    overlapped: int
    """Urgent objects that came while the backlog drained."""
    largest_window: int


def simulate_week(seed: int, folder: Path) -> Week:
    loop = VirtualLoop()
    try:
        with virtual(loop):
            week = loop.run_until_complete(loop.create_task(_week(seed, folder), name="the world"))
            finish(loop)
            return week
    finally:
        loop.close()


async def _week(seed: int, folder: Path) -> Week:
    loop, chance = asyncio.get_running_loop(), random.Random(seed)
    steady, down = (SimulatedDestination(name, chance) for name in ("steady", "down"))
    down.mood = Mood.DOWN
    node = SimulatedNode(folder, [steady, down], chance, WINDOW)
    node.start()
    sent: dict[str, float] = {}
    urgent: set[str] = set()

    def arrive(priority: Priority = Priority.LOW) -> None:
        sop = f"2.25.{len(sent) + 1}"
        decision = Decision(
            verdict=Verdict.ROUTE, destinations=("steady", "down"), priority=priority, rules=("r",), version="v1"
        )
        if priority is Priority.STAT:
            urgent.add(sop)
        sent[sop] = loop.time()
        node.receive(sop, b"\0" * 16, decision)

    while loop.time() < WEEK:
        arrive()
        await asyncio.sleep(chance.expovariate(1 / MEAN))
    attempts, allowed = len(down.attempts), most_attempts(loop.time())
    back = loop.time()
    of_the_week = set(sent)
    down.change(Mood.UP)
    for number in range(AFTER):
        arrive(Priority.STAT if number % 5 == 0 else Priority.LOW)
        await asyncio.sleep(chance.expovariate(1 / MEAN_AFTER))
    while not down.arrivals and loop.time() < back + HOUR:
        await asyncio.sleep(0.01)
    for _ in range(DRAINING):
        arrive()
        await asyncio.sleep(chance.expovariate(1 / MEAN_DRAINING))
    deadline = loop.time() + DAY
    while loop.time() < deadline and len({one.sop for one in down.arrivals}) < len(sent):
        await asyncio.sleep(HOUR / 60)
    await node.stop()

    there = {peer.name: {one.sop: one.at for one in reversed(peer.arrivals)} for peer in (steady, down)}
    at = there["down"]
    drained = max((at[sop] for sop in of_the_week & at.keys()), default=deadline)
    first = min(at.values(), default=deadline)
    early = {sop for sop in urgent & at.keys() if sent[sop] < drained and at[sop] > first}
    meanwhile = {sop for sop in at.keys() - urgent if first + NOTICED < sent[sop] < drained}

    def longest(sops: set[str]) -> float:
        return max((at[sop] - max(sent[sop], first) for sop in sops), default=0.0)

    return Week(
        objects=len(sent),
        missing=sum(len(sent.keys() - found.keys()) for found in there.values()),
        repeated=sum(len(peer.arrivals) - len(there[peer.name]) for peer in (steady, down)),
        attempts=attempts,
        allowed=allowed,
        returned=first - back,
        drained=drained - back,
        steady=max(moment - sent[sop] for sop, moment in there["steady"].items()),
        urgent=longest(early),
        ordinary=longest(meanwhile),
        overlapped=len(early),
        largest_window=node.largest_window,
    )
