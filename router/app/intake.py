"""From the first fragment of a data set to its answer: where "stored" is decided, and nowhere else.

The invariants, each held by a test:

1. 0x0000 is said in one place, ``_stored``, after the spool has synced the record. The record holds the data set *and*
   the decision: what is owed to whom is durable with it. The ledger follows, and a start reads from the spool what it
   had not yet heard (``recovery``). A DISCARD decision (``reception``) is the only other success, and counted.
2. Where the ledger has a say in the answer (a policy that refuses other bytes under a known UID) or the record is
   not in the log (streamed objects), the answer waits for its commit.
3. Any doubt (sync error, commit error, full disk) answers 0xA700 and leaves no reservation behind.
4. Lanes get an object whose UID is surely new as soon as it is answered. Any other they hear of after the ledger's
   commit: it alone knows whether older versions are still owed.
5. Bytes of a data set are copied once, from the receive buffer, and given on by reference: to the spool, to the lanes.
6. An object over ``CUT_THROUGH`` may be on its way to idle destinations before it is whole. Its last fragment leaves
   by 4, like everything else that counts.
7. Memory is bounded: an object beyond ``object_memory`` streams to the disk, and past ``ingest_memory`` sockets rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.app.decisions import Decisions
from router.app.ids import IdSource
from router.app.known import KnownInstances
from router.app.reception import Entry, StoreReception
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.errors import LedgerError, SpoolError, SpoolFull, fault_location
from router.ledger import ReceiptResult, SqliteLedger
from router.model import Decision, Delivery, InstanceInfo, Limits, Location, LogPosition, Origin, Status, Verdict
from router.ports import Log
from router.routing import RuleSet
from router.spool import Spool

NOWHERE: frozenset[str] = frozenset()
FIRST = 1
"""The fence of a delivery that is born leased."""
ROUTE, SUCCESS = Verdict.ROUTE, Status.SUCCESS
"""Found once: to look a member of an enumeration up is a call."""


class _Group:
    """Entries that were synced together and are recorded together."""

    __slots__ = ("answered", "entries", "intake", "outcome")

    def __init__(self, intake: StoreIntake, entries: list[Entry], *, answered: bool) -> None:
        self.intake = intake
        self.entries = entries
        self.answered = answered
        """Their senders do not wait for the ledger."""
        self.outcome: list[ReceiptResult] | LedgerError = []

    def committed(self, outcome: list[ReceiptResult] | LedgerError) -> None:
        """From the ledger's thread."""
        self.outcome = outcome
        self.intake.loop.call_soon_threadsafe(self.intake.recorded, self)


class StoreIntake:
    """Implements ``ports.Intake``. One per process; lives on the event loop.

    Args:
        rules: Gives the rule set in force; asked once per object, at its beginning, since the rules name the
        attributes to collect.
        discarded: Called with the rule names of every object that a rule dropped.
        held_by_others: Called when an instance is recorded as held by other rules than those in force by now: they
        changed while it came. With its id; of several in one group, the lowest.
        changed_duplicate: ``version``, ``reject`` or ``hold``: what to do with other bytes under a known UID.
        known: The UIDs that were here before; None: others receive for the same ledger, so nothing is surely new.
        budget: Of the lanes; what is kept of objects that are sent on while they arrive is counted in it too.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        spool: Spool,
        ledger: SqliteLedger,
        lanes: Mapping[str, Lane],
        rules: Callable[[], RuleSet],
        ids: IdSource,
        limits: Limits,
        log: Log,
        decided: Callable[[Decision], None],
        discarded: Callable[[InstanceInfo, Decision], None],
        commit_observed: Callable[[float, int], None],
        held_by_others: Callable[[int], None] = lambda instance: None,
        changed_duplicate: str = "version",
        known: KnownInstances | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.loop = loop
        self.spool = spool
        self.ledger = ledger
        self.lanes = lanes
        self.rules = rules
        self.ids = ids
        self.limits = limits
        self.log = log
        self.decided = decided
        self.discarded = discarded
        self.commit_observed = commit_observed
        self.held_by_others = held_by_others
        self.changed_duplicate = changed_duplicate
        self.known = known
        self.budget = budget if budget is not None else Budget(limits.window_memory)
        self.in_memory = 0
        """Bytes received and not yet given to the lanes, or streamed and not yet written, all receptions together."""
        self.decisions = Decisions()
        self._resting: dict[Callable[[], None], None] = {}
        """In the order in which they came to rest."""
        self._resuming = False
        self._begun = 0

    # ports.Intake ------------------------------------------------------------------------------------------

    def begin(
        self,
        origin: Origin,
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        move_originator: tuple[str, int] | None,
        resume: Callable[[], None],
    ) -> StoreReception:
        self._begun += 1
        return StoreReception(self, origin, sop_class, sop_instance, transfer_syntax, move_originator, resume)

    @property
    def open_receptions(self) -> int:
        """Receptions begun whose objects are not yet recorded, refused or discarded."""
        return self._begun

    def ended(self) -> None:
        self._begun -= 1

    # Memory ------------------------------------------------------------------------------------------------

    @property
    def over_memory(self) -> bool:
        return self.in_memory > self.limits.ingest_memory

    def rest(self, resume: Callable[[], None]) -> None:
        """Call ``resume`` on the loop, once, when there is room and those that have rested longer had their turn."""
        self._resting.setdefault(resume)

    def forget_rest(self, resume: Callable[[], None]) -> None:
        self._resting.pop(resume, None)

    def freed(self, size: int) -> None:
        self.in_memory -= size
        if self._resting and not self._resuming:
            self._resume_next()

    def _resume_next(self) -> None:
        """While there is room, who has rested longest goes on, and the next one in the next turn of the loop: by then
        what the first has read is counted, so that no more are woken than there is room for.

        Nobody starves, although newcomers are served too while there is room. Memory gets below its limit by ``freed``
        alone, and whenever it does one goes on at once, before anybody can take the room, unless one did in this turn
        or the last. Whoever comes to rest does so behind all others, so each one's turn comes. And memory does get
        below its limit: what is whole becomes durable by itself, what waits for the disk is written by itself, and what
        else is held goes to the disk with its next bytes, or ends when these do not come.
        """
        self._resuming = bool(self._resting) and not self.over_memory
        if not self._resuming:
            return
        resume = next(iter(self._resting))
        del self._resting[resume]
        try:
            resume()
        except Exception as error:
            self.log.error("fault while resuming", fault=fault_location(error))
        self.loop.call_soon(self._resume_next)

    # Deciding ----------------------------------------------------------------------------------------------

    def reserve(self, decision: Decision) -> frozenset[str]:
        """The destinations whose lane takes this object straight into its window."""
        if decision.verdict is not ROUTE:
            return NOWHERE
        lanes = self.lanes
        direct: list[str] = []
        try:
            for name in decision.destinations:
                if lanes[name].reserve():
                    direct.append(name)
        except Exception:
            for name in direct:
                lanes[name].cancel_reservation()
            raise
        return frozenset(direct)

    # Durable, then recorded -----------------------------------------------------------------------------------

    def synced(self, entries: Sequence[Any], position: LogPosition | None) -> None:
        """The spool: these records are durable."""
        if self.known is not None:
            # Here, where the ledger is told in the same turn: what is known is in the ledger or on its way to it.
            known = self.known.add
            for entry in entries:
                entry.new = known(entry.info.sop_instance)
        careful = self.changed_duplicate == "reject"
        sure: list[Entry] = []
        """The answer does not depend on the ledger."""
        unsure: list[Entry] = []
        for entry in entries:
            (sure if entry.chunks is not None and (entry.new or not careful) else unsure).append(entry)
        offered: list[Delivery] = []
        try:
            if sure:
                self._stored(sure)
                for entry in sure:
                    if entry.new and entry.direct:
                        offered += self._make_deliveries(entry)
        finally:
            # Whatever fault of ours there is: what was answered is owed, and once the next group is recorded no start
            # looks for this one.
            for members, answered in ((sure, True), (unsure, False)):
                if members:
                    group = _Group(self, members, answered=answered)
                    self.ledger.record(members, group.committed, position=position, owed=answered)
        self._offer(offered)

    def _make_deliveries(self, entry: Entry) -> Sequence[Delivery]:
        """Of what is surely new, for the lanes that have a place for it: as the ledger would make them."""
        number, info, direct = self.ledger.next_delivery, entry.info, entry.direct
        priority = entry.decision.priority
        sent = []
        for name in entry.decision.destinations:
            if name in direct:
                sent.append(Delivery(number(), name, info, entry.location, priority, FIRST, 0, None, entry.chunks))
        entry.sent = tuple(sent)
        entry.direct = NOWHERE
        entry.chunks = None
        self.freed(info.size)
        return sent

    def _offer(self, deliveries: Sequence[Delivery]) -> None:
        """To their lanes. The ledger has been told of them before: what it hears next is what became of them."""
        lanes, offered = self.lanes, set()
        for delivery in deliveries:
            lanes[delivery.destination].offer(delivery)
            offered.add(delivery.destination)
        for name in offered:
            lanes[name].kick()

    def failed(self, entries: Sequence[Any], problem: SpoolError) -> None:
        """The spool: these entries are not durable."""
        self._refuse(list(entries), problem)

    def _stored(self, entries: list[Entry]) -> None:
        """The one place where 0x0000 is said of an object that is kept."""
        for entry in entries:
            self._tell(entry, SUCCESS, "")
        self.commit_observed(self.loop.time() - entries[0].ended_at, len(entries))

    def recorded(self, group: _Group) -> None:
        """The ledger has committed, or failed."""
        outcome, entries = group.outcome, group.entries
        if isinstance(outcome, LedgerError):
            if group.answered:
                # Durable and owed all the same: the next start reads them from the spool. This router is failing.
                for entry in entries:
                    self._let_go(entry)
                return
            self._refuse(entries, outcome)
            if not self.ledger.failed:
                # The records are written and nobody owns them: their places are free again.
                self.spool.settled([entry.location for entry in entries])
            return
        if not group.answered:
            for entry, result in zip(entries, outcome, strict=True):
                if result.kind == "rejected":
                    self._tell(entry, Status.DUPLICATE_SOP_INSTANCE, "another object has this SOP Instance UID")
            kept = [entry for entry, result in zip(entries, outcome, strict=True) if result.kind != "rejected"]
            if kept:
                self._stored(kept)
        unneeded: list[Location] = []
        backlog: set[str] = set()
        offered: list[Delivery] = []
        lanes = self.lanes
        late: list[int] = []
        for entry, result in zip(entries, outcome, strict=True):
            self._begun -= 1
            if result.kind == "held" and entry.decision.version != self.rules().version:
                late.append(entry.info.id)
            chunks = entry.chunks
            if chunks is not None:
                self.freed(entry.info.size)
            if result.unneeded is not None:
                unneeded.append(result.unneeded)
            backlog |= result.backlog
            direct, early = entry.direct, entry.early
            if direct:
                deliveries = result.deliveries
                for delivery in deliveries:
                    delivery.chunks = chunks
                if early:
                    for delivery in deliveries:
                        lanes[delivery.destination].offer(delivery, early.get(delivery.destination))
                        lanes[delivery.destination].kick()
                else:
                    offered += deliveries
                if len(deliveries) < len(direct):
                    for name in direct.difference(delivery.destination for delivery in deliveries):
                        lanes[name].cancel_reservation()
            for transfer in early.values():
                transfer.give_up()  # unless it was adopted; before the record may be overwritten
        self._offer(offered)
        for name in backlog:
            lane = lanes.get(name)
            if lane is not None:
                lane.backlog()
        if unneeded:
            self.spool.settled(unneeded)
        if late:
            self.held_by_others(min(late))

    def _refuse(self, entries: list[Entry], problem: Exception) -> None:
        comment = "out of disk space" if isinstance(problem, SpoolFull) else "storage unavailable"
        self.log.error("store group refused", instances=len(entries), reason=str(problem))
        for entry in entries:
            self._let_go(entry)
            self._tell(entry, Status.OUT_OF_RESOURCES, comment)

    def _tell(self, entry: Entry, status: int, comment: str) -> None:
        """A fault of ours with one association is no reason to leave the others of its group without an answer."""
        try:
            entry.done(status, comment)
        except Exception as error:
            self.log.error("fault while answering", fault=fault_location(error))

    def _let_go(self, entry: Entry) -> None:
        """No lane gets it in this run."""
        self._begun -= 1
        if entry.chunks is not None:
            entry.chunks = None
            self.freed(entry.info.size)
        for name in entry.direct:
            self.lanes[name].cancel_reservation()
        for transfer in entry.early.values():
            transfer.give_up()
