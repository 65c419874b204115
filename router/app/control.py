"""What operators may ask of the running router: implements ``ports.Control`` over its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from router import __version__
from router.errors import InvalidRequest, NotFound
from router.ledger.queries import TRACED
from router.model import InstanceInfo, Verdict, format_id, parse_id
from router.observe.logs import as_logged
from router.ports import Json

if TYPE_CHECKING:
    from router.app.router import Router

SLOW = 10.0
"""Seconds after which we say of a disk, or of the ledger, that everybody waits for it."""
NOT_CONFIGURED = "not configured"
"""The state of a destination that the configuration no longer has, and that something is still owed to."""


def _selector(text: str) -> dict[str, Any]:
    """An instance id where it reads as one, and in any case what else may name instances: 13 characters of an accession
    number can look like an id."""
    try:
        return {"id": parse_id(text), "uid": text}
    except ValueError:
        return {"uid": text}


class RouterControl:
    def __init__(self, router: Router) -> None:
        self._router = router

    def ready(self) -> tuple[bool, Sequence[str]]:
        router = self._router
        reasons = []
        if router.failed.is_set():
            reasons.append(f"storage failed: {router.failure}")
        if router.draining:
            reasons.append("shutting down")
        if not router.listeners or not all(server.listening for server in router.listeners):
            reasons.append("not listening")
        if len(router.listeners) < len(router.config.listeners):
            reasons.append("starting")
        if router.spool.below_associations_floor():
            reasons.append("disk below its floor: new associations are refused")
        for what, seconds in (("the spool's disk", router.spool.stuck_for), ("the ledger", router.ledger.stuck_for)):
            if seconds > SLOW:
                reasons.append(f"{what} has not answered for {seconds:.0f} s")
        return not reasons, reasons

    async def status(self) -> Json:
        router = self._router
        usage = router.spool.usage()
        destinations = await self._destinations(None)
        counts = await router.ledger.counted()
        return {
            "node": router.config.node,
            "version": __version__,
            "state": "draining" if router.draining else "running",
            "started": router.started,
            "rules": {
                "version": router.rules.current.version,
                "loaded": router.rules.loaded,
                "problems": router.rules.problems,
            },
            "listeners": [
                {
                    "name": server.listener.name,
                    "port": server.port,
                    "ae_titles": list(server.listener.ae_titles),
                    "associations": len(server.connections),
                }
                for server in router.listeners
            ],
            "destinations": destinations,
            "held": counts.held,
            "dead_letters": counts.dead,
            "spool": {"bytes": usage.bytes, "live_bytes": usage.live_bytes, "free_bytes": usage.free_bytes},
        }

    async def queue(self, destination: str | None, limit: int) -> Json:
        destinations = await self._destinations(destination)
        if destination is not None and not destinations:
            self._known(destination)
        return {
            "destinations": destinations,
            "deliveries": await self._router.ledger.queue(destination, limit),
        }

    async def _destinations(self, only: str | None) -> list[Json]:
        router = self._router
        counts = await router.ledger.counted()
        oldest = await router.ledger.oldest()
        dead = await router.ledger.dead_by_destination()
        now = time.time()
        rows: list[Json] = []
        for destination in router.config.destinations:
            name = destination.name
            if only is not None and name != only:
                continue
            lane = router.lanes[name].status()
            count, size = counts.open.get(name, (0, 0))
            rows.append(
                {
                    "name": name,
                    "url": destination.url,
                    "state": lane.state,
                    "reason": lane.reason,
                    "since": lane.since,
                    "next_attempt_in": lane.next_attempt_in,
                    "waiting": count,
                    "bytes": size,
                    "oldest_seconds": max(0.0, now - oldest[name]) if count and name in oldest else None,
                    "in_flight": lane.in_flight,
                    "associations": lane.associations,
                    "dead_letters": dead.get(name, 0),
                }
            )
        for name in sorted({*counts.strangers(router.lanes), *(dead.keys() - router.lanes.keys())}):
            if only is not None and name != only:
                continue
            count, size = counts.open.get(name, (0, 0))
            rows.append(
                {
                    "name": name,
                    "url": "",
                    "state": NOT_CONFIGURED,
                    "reason": "name it in router.toml again and restart: what it is owed waits for that",
                    "since": router.started,
                    "next_attempt_in": None,
                    "waiting": count,
                    "bytes": size,
                    "oldest_seconds": max(0.0, now - oldest[name]) if count and name in oldest else None,
                    "in_flight": 0,
                    "associations": 0,
                    "dead_letters": dead.get(name, 0),
                }
            )
        return rows

    async def studies(self, query: str, limit: int) -> Json:
        return {"studies": await self._router.ledger.studies(query, limit)}

    async def trace(self, selector: str) -> Json:
        stories = await self._router.ledger.trace(selector)
        if not stories:
            raise NotFound("nothing is known by this id, UID or accession number")
        for story in stories:
            story["logged_as"] = as_logged(story["sop_instance"])
        total = len(stories) if len(stories) < TRACED else await self._router.ledger.named(selector)
        return {"instances": stories, "total": total}

    async def explain(self, selector: str) -> Json:
        router = self._router
        found = await router.ledger.find(_selector(selector))
        if found is None:
            raise NotFound("no stored instance has this id or UID")
        explanation = await router.held.explain(router.rules(), *found)
        decision = explanation.decision
        was, changes = await router.ledger.decided(found[0].id)
        note = ""
        if was == Verdict.HOLD != decision.verdict:
            note = "it is held until dicom-router release" + (
                ": other bytes came before under this SOP Instance UID" if changes else ""
            )
        elif was and was != decision.verdict:
            note = f"when it was decided, it was {was}: other rules were in force"
        return {
            "instance": format_id(found[0].id),
            "verdict": decision.verdict,
            "destinations": list(decision.destinations),
            "priority": decision.priority.name.lower(),
            "note": note,
            "version": decision.version,
            "rules": [
                {"name": line.name, "matched": line.matched, "because": line.because} for line in explanation.rules
            ],
        }

    async def rules(self) -> Json:
        router = self._router
        rules = router.rules.current
        matches = router.metrics.rule_matches()
        return {
            "version": rules.version,
            "loaded": router.rules.loaded,
            "problems": router.rules.problems,
            "warnings": list(rules.warnings),
            "rules": [
                {"name": rule.name, "file": rule.file, "to": list(rule.to), "matches": matches.get(rule.name, 0)}
                for rule in rules.rules
            ],
        }

    async def reload(self) -> Sequence[str]:
        return await self._router.reload()

    async def pause(self, destination: str, reason: str) -> None:
        self._known(destination)
        reason = reason or "paused by an operator"
        await self._router.ledger.set_paused(destination, reason)
        self._router.lanes[destination].pause(reason)
        await self._acted("paused", reason, destination)

    async def resume(self, destination: str) -> None:
        self._known(destination)
        await self._router.ledger.set_paused(destination, None)
        self._router.lanes[destination].resume()
        await self._acted("resumed", "", destination)

    async def resend(self, selector: str, destination: str | None) -> Json:
        if destination is not None:
            self._known(destination)
        counts = await self._router.ledger.resend(_selector(selector), destination, self._router.lanes)
        if not counts and await self._router.ledger.find(_selector(selector)) is None:
            raise NotFound("no stored instance has this id, UID or accession number")
        self._wake(counts)
        return {"deliveries": sum(counts.values())}

    async def release(self, selector: str | None, destinations: Sequence[str] | None) -> Json:
        for name in destinations or ():
            self._known(name)
        wanted = None if selector is None else _wanted(selector)
        return asdict(await self._router.held.release(wanted, destinations, "by an operator"))

    async def dead_letters(self, destination: str | None, limit: int) -> Json:
        dead = await self._router.ledger.dead_by_destination()
        if destination is not None and destination not in dead:
            self._known(destination)
        rows = await self._router.ledger.dead_letters(destination, limit)
        total = sum(dead.values()) if destination is None else dead.get(destination, 0)
        return {"dead_letters": rows, "total": total}

    async def retry_dead(self, destination: str | None, deliveries: Sequence[int] | None) -> Json:
        if destination is not None:
            self._known(destination)
        counts = await self._router.ledger.retry_dead(deliveries, destination, self._router.lanes)
        self._wake(counts)
        return {"retried": sum(counts.values())}

    async def discard_dead(self, deliveries: Sequence[int]) -> Json:
        if not deliveries:
            raise InvalidRequest("deliveries: the numbers that dead-letters shows")
        return {"discarded": await self._router.ledger.discard_dead(deliveries)}

    # Inside ------------------------------------------------------------------------------------------------

    def _known(self, destination: str) -> None:
        if destination not in self._router.lanes:
            raise NotFound(
                f"no destination is named {destination!r}; there are: {', '.join(self._router.lanes) or 'none'}"
            )

    def _wake(self, names: dict[str, int]) -> None:
        for name in names:
            lane = self._router.lanes.get(name)
            if lane is not None:
                lane.backlog()

    async def _acted(self, what: str, detail: str, destination: str) -> None:
        await self._router.ledger.event(what, detail, destination)
        self._router.log.info("operator action", action=what, destination=destination)


def _wanted(selector: str) -> Callable[[InstanceInfo], bool]:
    key = _selector(selector)
    number, uid = key.get("id"), key["uid"]
    return lambda info: (
        info.id == number or uid in (info.sop_instance, info.series, info.study) or (info.accession == uid != "")
    )
