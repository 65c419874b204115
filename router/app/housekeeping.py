"""What must happen now and then: retention, compaction, and the gauges that people watch.

Everything here may fail once and succeed the next time; it never stands between a sender and its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice

from router.app.known import KnownInstances
from router.delivery.lane import Lane
from router.errors import LedgerError, SpoolError, fault_location
from router.ledger import SqliteLedger
from router.model import ALONE, Decision, InstanceInfo, Location, Share, SpoolSettings
from router.observe.metrics import RouterMetrics
from router.ports import Log
from router.spool import Spool

GAUGES_EVERY = 2.0
EXPIRE_EVERY = 5.0
COMPACT_EVERY = 30.0
RECLAIM_EVERY = 30.0
KEPT_SHARE = 10
"""Without a setting, delivered objects may keep a tenth of the disk."""
MOVED_AT_ONCE = 1 << 20
"""Bytes of records that are moved together: little beside what the log takes of those that come."""
KNOWN_AT_ONCE = 1000
"""UIDs that are made known again in one step of the loop."""
AGES = ((86_400.0, "24 h"), (14_400.0, "4 h"), (900.0, "15 min"))
"""Ages of the oldest undelivered object at which a line says so, once each."""


class Housekeeping:
    def __init__(
        self,
        *,
        spool: Spool,
        ledger: SqliteLedger,
        lanes: Mapping[str, Lane],
        metrics: RouterMetrics,
        settings: SpoolSettings,
        log: Log,
        known: KnownInstances | None = None,
        share: Share = ALONE,
    ) -> None:
        self.share = share
        self.spool = spool
        self.ledger = ledger
        self.lanes = lanes
        self.metrics = metrics
        self.settings = settings
        self.log = log
        self.known = known
        self._told: dict[str, float] = {}
        self._paused: dict[str, str] = {}
        """What the ledger said last time of pauses."""
        self._unheld: set[tuple[int, int, str]] = set()
        """Leases of ours that no lane had when they were last looked at."""

    async def run(self) -> None:
        """Until cancelled. Cancelling it is safe at any point."""
        loop = asyncio.get_running_loop()
        expire_at = compact_at = reclaim_at = loop.time()
        while True:
            await self._attempt(self.gauges)
            if not self.share.alone:
                await self._attempt(self.attend)
            now = loop.time()
            if now >= expire_at:
                await self._attempt(self.expire)
                expire_at = loop.time() + EXPIRE_EVERY
            if now >= compact_at:
                await self._attempt(self.compact)
                await self._attempt(self.forget)
                compact_at = loop.time() + COMPACT_EVERY
            if now >= reclaim_at:
                await self._attempt(self.reclaim)
                reclaim_at = loop.time() + RECLAIM_EVERY
            await asyncio.sleep(GAUGES_EVERY)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            # A full disk, most likely; who gives up now never frees it.
            self.log.error("housekeeping will try again", reason=type(error).__name__, fault=fault_location(error))

    async def gauges(self) -> None:
        now = time.time()
        counts = await self.ledger.counted()
        oldest = await self.ledger.oldest()
        for name, lane in self.lanes.items():
            count, size = counts.open.get(name, (0, 0))
            age = max(0.0, now - oldest[name]) if count and name in oldest else 0.0
            self.metrics.set_queue(name, count, size, age)
            if self.share.worker == 0:
                self._tell_age(name, count, age, lane)
        strangers = {}
        for name in counts.strangers(self.lanes):
            count, size = counts.open[name]
            strangers[name] = count, size, max(0.0, now - oldest.get(name, now))
            if self.share.worker == 0:
                self._tell_age(name, count, strangers[name][2])
        self.metrics.set_strangers(strangers)
        self.metrics.set_held(counts.held, counts.dead)
        usage = self.spool.usage()
        self.metrics.set_spool(usage.bytes, usage.free_bytes)
        if self.share.worker == 0:  # the folder is everybody's
            self.metrics.set_quarantined(await asyncio.to_thread(self.spool.quarantined))

    async def attend(self) -> None:
        """What other processes have left to us: deliveries that are ready, and pauses that we were not told of."""
        for name in await self.ledger.ready_among(list(self.lanes)):
            self.lanes[name].backlog()
        states = {name: lane.state for name, lane in self.lanes.items()}
        before, self._paused = self._paused, await asyncio.to_thread(self.ledger.paused)
        for name, lane in self.lanes.items():
            # Twice the same: else what we read may be older than what we were told.
            if before.get(name) != self._paused.get(name) or lane.state != states[name]:
                continue
            if name in self._paused and lane.state != "paused":
                lane.pause(self._paused[name])
            elif name not in self._paused and lane.state == "paused":
                lane.resume()

    async def reclaim(self) -> None:
        """Deliveries that are leased to us and that no lane has: a fault of ours dropped them on their way, and without
        this they would wait for the next start."""
        if self.ledger.blocked:
            return  # outcomes wait for room, so the ledger cannot say what is still to be done
        leases = await self.ledger.leases()
        held = set().union(*(lane.holds() for lane in self.lanes.values()))
        before, self._unheld = self._unheld, {lease for lease in leases if lease[0] not in held}
        # Seen twice: once means little, as one may be between ledger and lane, or be settled, in this moment.
        lost = before & self._unheld
        if not lost:
            return
        destinations = await self.ledger.reclaim(sorted(lost))
        self.log.error("deliveries were lost sight of by a fault of ours, and are ready again", deliveries=len(lost))
        for name in destinations & self.lanes.keys():
            self.lanes[name].count_anew()

    def _tell_age(self, name: str, count: int, age: float, lane: Lane | None = None) -> None:
        """``lane``: None of a destination that is not configured."""
        told = self._told.get(name, 0.0)
        reached = next((limit for limit, _ in AGES if age >= limit), 0.0)
        if reached > told:
            text = dict(AGES)[reached]
            reason = "not configured" if lane is None else lane.status().reason
            self.log.warning("deliveries are late", destination=name, waiting=count, older_than=text, reason=reason)
        self._told[name] = reached

    async def expire(self) -> None:
        """Let go of delivered objects past their time, oldest first."""
        keep = self.settings.keep_delivered_size
        if keep is None:
            usage = self.spool.usage()
            keep = (usage.bytes + usage.free_bytes) // KEPT_SHARE
        while True:
            gone = await self.ledger.expire(self.settings.keep_delivered, keep)
            if not gone:
                return
            self.spool.settled([location for _, location in gone])

    async def forget(self) -> None:
        """Begin again with the instances that there still are, when too many have come since the last time."""
        if self.known is None or not self.known.full:
            return
        ledger, known = self.ledger, self.known
        count = await asyncio.to_thread(ledger.instances)
        known.begin_again(count)
        try:
            # What was added before this moment has been given to the ledger; what comes is added to both.
            await ledger.flush()
            names = ledger.sop_instances()
            while some := await asyncio.to_thread(lambda: list(islice(names, KNOWN_AT_ONCE))):
                known.also(some)
        except BaseException:
            known.stay()
            raise
        known.go_over()

    async def compact(self) -> None:
        """Move what little still lives out of mostly dead segments, so that they can be used again."""
        for segment in self.spool.compaction_candidates():
            for some in _together(await self.ledger.instances_in(segment)):
                ends = await asyncio.gather(*(self._move(*record) for record in some), return_exceptions=True)
                problems = [end for end in ends if end is not None]
                for problem in problems:
                    if not isinstance(problem, SpoolError):
                        raise problem
                if problems:
                    self.log.warning("record not moved", segment=segment, reason=str(problems[0]))
                    break

    async def _move(self, info: InstanceInfo, decision: Decision, old: Location) -> None:
        new = await self.spool.move(info, decision, old)
        try:
            relocated = await self.ledger.relocate(info.id, old, new)
        except LedgerError:
            if not self.ledger.failed:
                # For want of room, most likely: the record stays where it is, and nobody knows of the copy. A ledger
                # that has failed may have committed it all the same.
                self.spool.settled([new])
            raise
        if relocated:
            self.spool.moved(old, new)
        else:
            self.spool.settled([new])


def _together(
    records: Sequence[tuple[InstanceInfo, Decision, Location]],
) -> Iterator[list[tuple[InstanceInfo, Decision, Location]]]:
    """Those that are moved at once: they share syncs and commits, of which each would need its own."""
    some = []
    size = 0
    for record in records:
        some.append(record)
        size += record[2].length
        if size >= MOVED_AT_ONCE:
            yield some
            some = []
            size = 0
    if some:
        yield some
