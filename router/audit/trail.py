"""From the ledger's rows to a collector or a file: at least once, in order, however long the collector is away.

Rows stay in the ledger until what was made of them has settled. When a sink fails, everything that has not settled is
read again. Rows of one transfer become two messages: that it began, and, when nothing came for a while, what it was.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.audit import messages
from router.audit.messages import Code, Message, Participant, Study
from router.audit.sinks import Sink
from router.audit.syslog import NOTICE, WARNING, line
from router.errors import LedgerError, RouterError, fault_location
from router.model import AuditRow, Destination
from router.ports import Log

POLL = 1.0
"""Seconds."""
IDLE = 5.0
"""Seconds without a further object after which a transfer is over."""
LONGEST = 60.0
"""Seconds after which a transfer is told of that still goes on."""
AT_ONCE = 500
"""Rows read, and messages in memory, at a time."""
LARGEST_GROUPS = 1000
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds after a failed attempt, doubled each time."""

APPLICATION = "dicom-router"
_ACTIONS: Mapping[str, tuple[Code, str]] = {
    "rules changed": (messages.CONFIGURATION, "U"),
}
_ALERTS: Mapping[str, Code] = {
    "tls": messages.NODE_AUTHENTICATION,
    "certificate": messages.NODE_AUTHENTICATION,
}


class Rows(Protocol):
    """The ledger's side."""

    async def audit_rows(self, after: int, limit: int) -> list[AuditRow]: ...

    async def audit_settle(self, told: Sequence[int], begun: Sequence[int]) -> None: ...

    async def audit_waiting(self) -> tuple[int, float | None]: ...


@dataclass(slots=True)
class _Transfer:
    """One that goes on."""

    first: AuditRow
    began: float
    last: float
    classes: dict[str, int] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)


class Trail:
    """Run by one process of a node.

    Args:
        node: This router's name: AuditSourceID.
        waiting: Told how many rows wait, and for how many seconds the oldest.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        rows: Rows,
        sink: Sink,
        *,
        node: str,
        destinations: Sequence[Destination],
        log: Log,
        waiting: Callable[[int, float], None] = lambda count, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._sink = sink
        self._node = node
        self._destinations = {destination.name: destination for destination in destinations}
        self._log = log
        self._waiting = waiting
        self._clock = clock
        self._host = socket.gethostname()
        self._after = 0
        self._open: dict[tuple[Any, ...], _Transfer] = {}
        self._unsettled: deque[tuple[float, list[int], list[int]]] = deque()
        """When it was told; rows of which that was all, and rows with which a transfer began."""
        self._failures = 0

    async def run(self) -> None:
        while True:
            seconds = await self.step()
            await asyncio.sleep(seconds)

    async def step(self, *, finish: bool = False) -> float:
        """Tell what can be told now; gives seconds until the next step.

        Args:
            finish: Transfers that go on are told of as far as they came.
        """
        try:
            more = await self._tell(finish=finish)
            await self._report()
        except Exception as error:  # whatever it is: once the trail has ended, nothing is told and nobody hears of it
            return await self._failed(error)
        if self._failures:
            self._failures = 0
            self._log.info("the audit trail is written again", place=self._sink.place)
        return 0.0 if more else POLL

    async def _failed(self, error: Exception) -> float:
        """Seconds until the next attempt."""
        if not isinstance(error, LedgerError):  # else what was told has only to be settled
            self._begin_again()
        self._failures += 1
        if self._failures == 1:
            reason = str(error) if isinstance(error, (OSError, RouterError)) else fault_location(error)
            self._log.warning("the audit trail cannot be written; messages wait", place=self._sink.place, reason=reason)
        with suppress(Exception):  # perhaps it cannot be counted for the same reason
            await self._report()
        return float(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self._failures - 1)))

    async def close(self, seconds: float = 5.0) -> None:
        """Tell what there is, if that can be done within ``seconds``: what cannot is told after the next start."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.step(finish=True):
                    pass
                await self._sink.close()
        except TimeoutError:
            pass

    def _begin_again(self) -> None:
        self._after = 0
        self._open.clear()
        self._unsettled.clear()

    async def _report(self) -> None:
        count, oldest = await self._rows.audit_waiting()
        self._waiting(count, 0.0 if oldest is None else max(0.0, time.time() - oldest))

    async def _tell(self, *, finish: bool) -> bool:
        """Whether there may be more at once."""
        now = self._clock()
        await self._sink.check()
        rows = await self._rows.audit_rows(self._after, AT_ONCE)
        told: list[bytes] = []
        ids: list[int] = []
        begun: list[int] = []
        for row in rows:
            self._after = row.id
            if row.what in ("received", "discarded", "sent"):
                if self._add(row, now):
                    told.append(self._line(self._of_transfer(row, messages.BEGIN_TRANSFERRING, "E", {}, row.at)))
                    begun.append(row.id)
            else:
                told.append(self._line(self._message(row)))
                ids.append(row.id)
        for key, transfer in list(self._open.items()):
            over = now - transfer.last >= IDLE or now - transfer.began >= LONGEST
            if over or (finish and not rows) or len(self._open) > LARGEST_GROUPS:
                del self._open[key]
                told.append(self._line(self._transferred(transfer)))
                ids += transfer.ids
        if told:
            await self._sink.write(told)
        if ids or begun:
            self._unsettled.append((now, ids, begun))
        ripe = [one for one in self._unsettled if self._clock() - one[0] >= self._sink.settles]
        if ripe:
            await self._rows.audit_settle(
                [number for _, ids, _ in ripe for number in ids], [number for _, _, begun in ripe for number in begun]
            )
            for _ in ripe:
                self._unsettled.popleft()
        return bool(rows)

    # Transfers ---------------------------------------------------------------------------------------------

    def _add(self, row: AuditRow, now: float) -> bool:
        """Whether that a transfer begins with it is to be told."""
        facts = row.facts
        key = (
            row.what,
            facts.get("calling"),
            facts.get("called"),
            facts.get("address"),
            facts.get("destination"),
            facts["study"],
            facts["patient"],
            facts["accession"],
            facts["failed"],
        )
        transfer = self._open.get(key)
        begins = False
        if transfer is None:
            transfer = self._open[key] = _Transfer(row, now, now)
            begins = not (facts["failed"] or row.begun)
        transfer.last = now
        transfer.ids.append(row.id)
        for sop_class, count in facts["classes"].items():
            transfer.classes[sop_class] = transfer.classes.get(sop_class, 0) + count
        return begins

    def _transferred(self, transfer: _Transfer) -> Message:
        action = "R" if transfer.first.what == "sent" else "C"
        return self._of_transfer(
            transfer.first, messages.INSTANCES_TRANSFERRED, action, transfer.classes, transfer.first.at
        )

    def _of_transfer(self, row: AuditRow, event: Code, action: str, classes: Mapping[str, int], at: float) -> Message:
        facts = row.facts
        if row.what != "sent":
            source = Participant(
                facts["calling"], True, messages.SOURCE_ROLE, ae_title=facts["calling"], address=facts["address"]
            )
            target = self._ourselves(False, messages.DESTINATION_ROLE, facts["called"])
            told = "refused: other bytes under a known SOP Instance UID" if facts["failed"] else ""
            if row.what == "discarded":
                told = "discarded, as the rules say"
        else:
            destination = self._destinations.get(facts["destination"])
            ours = destination.calling_ae_title if destination is not None else ""
            source = self._ourselves(True, messages.SOURCE_ROLE, ours)
            target = Participant(
                facts["destination"],
                False,
                messages.DESTINATION_ROLE,
                ae_title=destination.ae_title if destination is not None else "",
                address=destination.host if destination is not None else "",
                is_name=destination is not None and not _is_address(destination.host),
            )
            told = "given up: a dead letter, which waits for a person" if facts["failed"] else ""
        return Message(
            at=at,
            event=event,
            action=action,
            participants=(source, target),
            outcome=messages.SERIOUS_FAILURE if facts["failed"] else messages.SUCCESS,
            told=told,
            study=Study(facts["study"], facts["patient"], facts["accession"], classes),
        )

    def _ourselves(self, requestor: bool, role: Code | None, ae_title: str = "") -> Participant:
        return Participant(self._node, requestor, role, ae_title=ae_title, address=self._host, is_name=True)

    # Everything else ---------------------------------------------------------------------------------------

    def _message(self, row: AuditRow) -> Message:
        facts = row.facts
        if row.what == "started" or row.what == "stopped":
            return Message(
                at=row.at,
                event=messages.APPLICATION_ACTIVITY,
                kind=messages.APPLICATION_START if row.what == "started" else messages.APPLICATION_STOP,
                action="E",
                participants=(self._ourselves(False, messages.APPLICATION),),
            )
        if row.what == "alert":
            reason = facts["reason"]
            return Message(
                at=row.at,
                event=messages.SECURITY_ALERT,
                kind=_ALERTS.get(reason.partition("_")[0], messages.NETWORK_ENTRY),
                action="E",
                outcome=messages.MINOR_FAILURE,
                told=f"refused: {reason}" + (f", {facts['count']} times" if facts["count"] > 1 else ""),
                participants=(
                    self._ourselves(False, None),
                    Participant(
                        facts["calling"] or facts["address"], True, ae_title=facts["calling"], address=facts["address"]
                    ),
                ),
                node=facts["listener"],
            )
        action = str(facts["action"])
        kind, what = _ACTIONS.get(action, (messages.USE_OF_RESTRICTED, "E"))
        count = facts.get("count")
        return Message(
            at=row.at,
            event=messages.SECURITY_ALERT,
            kind=kind,
            action=what,
            told=action + (f": {count} instances" if count is not None else ""),
            outcome=messages.MINOR_FAILURE if facts.get("failed") else messages.SUCCESS,
            participants=(Participant("operator", True), self._ourselves(False, messages.APPLICATION)),
            node=facts.get("destination") or self._node,
        )

    def _line(self, message: Message) -> bytes:
        return line(
            messages.render(message, source=self._node),
            at=message.at,
            host=self._host,
            application=APPLICATION,
            process=os.getpid(),
            severity=NOTICE if message.outcome == messages.SUCCESS else WARNING,
        )


def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True
