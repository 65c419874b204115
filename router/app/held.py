"""Instances that no rule took: decided again when the rules change, or when a person releases them.

One that changes what was received under its SOP Instance UID waits for a person where ``on_changed_duplicate`` is
"hold", whatever the rules say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from router.dicom.inspect import DatasetInspector
from router.errors import DatasetError, RouterError, SpoolCorrupt
from router.model import Decision, Delivery, InstanceInfo, Location, Verdict
from router.routing import Explanation, RuleFacts, RuleSet

if TYPE_CHECKING:
    from router.app.router import Router

BATCH = 200


@dataclass(slots=True)
class Released:
    """What became of held instances, in numbers."""

    released: int = 0
    """Sent on."""
    discarded: int = 0
    """Dropped, as the rules say."""
    still_held: int = 0


def facts_of(info: InstanceInfo, now: float) -> RuleFacts:
    """What the rules see of an instance beside its attributes."""
    origin = info.origin
    return RuleFacts(
        calling_ae=origin.calling_ae,
        called_ae=origin.called_ae,
        peer_address=origin.address,
        listener=origin.listener,
        sop_class=info.sop_class,
        transfer_syntax=info.transfer_syntax,
        size=info.size,
        now=now,
    )


class HeldInstances:
    def __init__(self, router: Router) -> None:
        self._router = router
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()

    def decide_again(self, why: str, *, held_by_others: bool = False, since: int = 0) -> None:
        """In the background: the held instances by the rules in force.

        Args:
            held_by_others: Only those that other rules held. For a start: they may have changed while nobody looked.
            since: Only this instance and later ones.
        """
        router = self._router
        task: asyncio.Task[object] = router.loop.create_task(
            self._release(
                None,
                None,
                why,
                other_than=router.rules().version if held_by_others else None,
                changes=router.config.on_changed_duplicate != "hold",
                since=since,
            )
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._router.log.error("held instances could not be decided again", exc_info=task.exception())

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def release(
        self, wanted: Callable[[InstanceInfo], bool] | None, destinations: Sequence[str] | None, why: str
    ) -> Released:
        """Decide held instances by the rules in force, or send them to ``destinations``.

        Args:
            wanted: Which of the held ones; None: all.
        """
        return await self._release(wanted, destinations, why, other_than=None, changes=True)

    async def _release(
        self,
        wanted: Callable[[InstanceInfo], bool] | None,
        destinations: Sequence[str] | None,
        why: str,
        *,
        other_than: str | None,
        changes: bool,
        since: int = 0,
    ) -> Released:
        router = self._router
        found = Released()
        after = since - 1
        async with self._lock:
            while batch := await router.ledger.held_instances(after, BATCH, other_than=other_than, changes=changes):
                after = batch[-1][0].id
                rules = router.rules()  # they may have changed since this began, and what they were is wrong by now
                decisions: list[tuple[InstanceInfo, Decision]] = []
                for info, location in batch:
                    if wanted is not None and not wanted(info):
                        continue
                    decision = await self._decide(rules, info, location, destinations)
                    if decision is None or decision.verdict in (Verdict.HOLD, Verdict.REJECT):
                        found.still_held += 1
                        continue
                    decisions.append((info, decision))
                routed = await router.ledger.route_held([(info.id, decision) for info, decision in decisions], why)
                woken: set[str] = set()
                for info, decision in decisions:
                    if info.id in routed:  # else another worker was first
                        self._tell(found, info, decision)
                        woken.update(decision.destinations)
                for name in woken & router.lanes.keys():
                    router.lanes[name].backlog()
        if found.released or found.discarded:
            router.log.info("held instances released", why=why, **asdict(found))
        return found

    def _tell(self, found: Released, info: InstanceInfo, decision: Decision) -> None:
        """As of one that has just come, but that the audit trail knows that it came."""
        router = self._router
        router.intake.decided(decision)
        if decision.verdict is Verdict.DISCARD:
            found.discarded += 1
            router.log_discarded(info, decision)
        else:
            found.released += 1

    async def _decide(
        self, rules: RuleSet, info: InstanceInfo, location: Location, destinations: Sequence[str] | None
    ) -> Decision | None:
        if destinations is not None:
            once = tuple(dict.fromkeys(destinations))  # as rules name each once, whatever somebody repeats
            return Decision(verdict=Verdict.ROUTE, destinations=once, version=rules.version)
        try:
            explanation = await self.explain(rules, info, location)
        except RouterError as error:
            self._router.log.error("held instance cannot be read", reason=str(error))
            return None
        return explanation.decision

    async def explain(self, rules: RuleSet, info: InstanceInfo, location: Location) -> Explanation:
        """Why the rules decide what for a stored instance. Raises SpoolCorrupt, SpoolError."""
        inspector = DatasetInspector(info.transfer_syntax, rules.wanted, self._router.config.limits)
        source = self._router.spool.source(Delivery(id=0, destination="", instance=info, location=location))
        async for chunk in source.chunks():
            inspector.feed(chunk)
        try:
            attributes = inspector.finish()
        except DatasetError as error:
            raise SpoolCorrupt(f"stored data set cannot be read: {error.comment}") from error
        return rules.explain(attributes, facts_of(info, time.time()))
