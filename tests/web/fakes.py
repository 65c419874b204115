"""A router that remembers what it was asked, in place of the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.errors import NotFound
from router.model import format_id

STUDY = "2.25.900"
SOP = "2.25.901"
ID = format_id(7_000_000)

LANE = {
    "name": "pacs",
    "url": "dicom://PACS@127.0.0.1:104",
    "state": "resting",
    "reason": "connection refused",
    "since": 1.0,
    "next_attempt_in": 12.5,
    "waiting": 3,
    "bytes": 1_500_000,
    "oldest_seconds": 4000.0,
    "in_flight": 0,
    "associations": 0,
    "dead_letters": 1,
}
DELIVERY = {
    "delivery": 9,
    "instance": ID,
    "destination": "pacs",
    "state": "ready",
    "sop_instance": SOP,
    "study": STUDY,
    "modality": "CT",
    "size": 500_000,
    "attempts": 2,
    "received": 1_700_000_000.0,
    "not_before": 1_700_000_300.0,
    "last_error": "connection refused",
}


class FakeControl:
    """Implements ``ports.Control``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.reasons: list[str] = []
        self.problems: list[str] = []
        self.failure: Exception | None = None

    def _asked(self, *call: Any) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def ready(self) -> tuple[bool, Sequence[str]]:
        return not self.reasons, self.reasons

    async def status(self) -> dict[str, Any]:
        self._asked("status")
        return {
            "node": "router-1",
            "version": "0.1.0",
            "state": "running",
            "started": 1_700_000_000.0,
            "rules": {"version": "abcdef012345", "loaded": 1_700_000_000.0, "problems": self.problems},
            "listeners": [{"name": "127.0.0.1:11112", "ae_titles": ["ROUTER"], "associations": 2}],
            "destinations": [LANE],
            "held": 4,
            "dead_letters": 1,
            "spool": {"bytes": 10, "live_bytes": 5, "free_bytes": 100},
        }

    async def queue(self, destination: str | None, limit: int) -> dict[str, Any]:
        self._asked("queue", destination, limit)
        if destination not in (None, "pacs"):
            raise NotFound(f"no destination {destination!r}; there is pacs")
        return {"destinations": [LANE], "deliveries": [DELIVERY]}

    async def studies(self, query: str, limit: int) -> dict[str, Any]:
        self._asked("studies", query, limit)
        study = {
            "study": STUDY,
            "accession": "A1",
            "modality": "CT",
            "instances": 3,
            "first": 1_700_000_000.0,
            "last": 1_700_000_010.0,
            "delivered": 1,
            "waiting": 2,
            "dead": 0,
            "held": 0,
        }
        return {"studies": [study]}

    async def trace(self, selector: str) -> dict[str, Any]:
        self._asked("trace", selector)
        if selector == "nothing":
            raise NotFound("nothing is known by this name")
        story = {
            "instance": ID,
            "sop_instance": SOP,
            "sop_class": "1.2.840.10008.5.1.4.1.1.2",
            "study": STUDY,
            "series": "2.25.902",
            "accession": "A1",
            "transfer_syntax": "1.2.840.10008.1.2.1",
            "size": 500_000,
            "received": 1_700_000_000.0,
            "calling": "CT1",
            "called": "ROUTER",
            "address": "127.0.0.1",
            "verdict": "route",
            "rules": ["everything"],
            "rule_version": "abcdef012345",
            "deliveries": [
                {
                    "destination": "pacs",
                    "state": "done",
                    "attempts": 1,
                    "last_error": None,
                    "last_status": 0,
                    "updated": 1_700_000_001.0,
                }
            ],
            "events": [{"at": 1_700_000_000.5, "what": "retry", "destination": "pacs", "detail": "busy"}],
        }
        return {"instances": [story]}

    async def explain(self, selector: str) -> dict[str, Any]:
        self._asked("explain", selector)
        return {
            "verdict": "route",
            "destinations": ["pacs"],
            "priority": "normal",
            "version": "abcdef012345",
            "rules": [
                {"name": "ct", "matched": False, "because": 'Modality = "CT"'},
                {"name": "everything", "matched": True, "because": ""},
            ],
        }

    async def rules(self) -> dict[str, Any]:
        self._asked("rules")
        return {"version": "abcdef012345", "loaded": 1.0, "problems": [], "warnings": [], "rules": []}

    async def reload(self) -> Sequence[str]:
        self._asked("reload")
        return self.problems

    async def pause(self, destination: str, reason: str) -> None:
        self._asked("pause", destination, reason)

    async def resume(self, destination: str) -> None:
        self._asked("resume", destination)

    async def resend(self, selector: str, destination: str | None) -> dict[str, Any]:
        self._asked("resend", selector, destination)
        return {"deliveries": 3}

    async def release(self, selector: str | None, destinations: Sequence[str] | None) -> dict[str, Any]:
        self._asked("release", selector, destinations)
        return {"released": 4, "still_held": 1}

    async def dead_letters(self, destination: str | None, limit: int) -> dict[str, Any]:
        self._asked("dead_letters", destination, limit)
        letter = {**DELIVERY, "state": "dead", "last_status": 0xC000, "updated": 1_700_000_001.0}
        return {"dead_letters": [letter], "total": 1}

    async def retry_dead(self, destination: str | None, deliveries: Sequence[int] | None) -> dict[str, Any]:
        self._asked("retry_dead", destination, deliveries)
        return {"retried": 1}

    async def discard_dead(self, deliveries: Sequence[int]) -> dict[str, Any]:
        self._asked("discard_dead", deliveries)
        return {"discarded": len(deliveries)}
