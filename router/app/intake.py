"""From the first fragment of a data set to its answer: where "stored" is decided, and nowhere else.

The invariants, each held by a test:

1. 0x0000 is said in one place, ``_stored``, after the spool has synced the record. The record holds the data set *and*
   the decision: what is owed to whom is durable with it. The ledger follows, and a start reads from the spool what it
   had not yet heard (``recovery``). A DISCARD decision is the only other success, and it is counted.
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
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xxhash

from router.app.cut_through import CUT_THROUGH, KEEP, CutThrough
from router.app.held import facts_of
from router.app.ids import IdSource
from router.app.known import KnownInstances
from router.delivery.early import EarlyTransfer
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.dicom import attributes as attributes_of
from router.dicom.attributes import Attributes
from router.dicom.inspect import DatasetInspector
from router.errors import DatasetError, LedgerError, SpoolError, SpoolFull, fault_location
from router.ledger import Receipt, ReceiptResult, SqliteLedger
from router.model import Decision, Delivery, InstanceInfo, Limits, Location, LogPosition, Origin, Status, Verdict
from router.ports import Log
from router.routing import RuleSet
from router.spool import Spool, SpoolStream

# Fragments smaller than this are joined until they reach JOIN: a network that delivers 1,448 bytes a read would
# otherwise leave hundreds of small objects per instance, each a part of every vectored write.
SMALL_FRAGMENT = 16 << 10
JOIN = 64 << 10
STREAM_HIGH = 4 << 20
"""Bytes of one streamed object that may wait for the disk before its socket rests."""
STREAM_LOW = 1 << 20
NONE_EARLY: Mapping[str, EarlyTransfer] = {}


IDENTIFYING = (
    attributes_of.SOP_CLASS_UID,
    attributes_of.SOP_INSTANCE_UID,
    attributes_of.STUDY_INSTANCE_UID,
    attributes_of.SERIES_INSTANCE_UID,
    attributes_of.PATIENT_ID,
    attributes_of.ACCESSION_NUMBER,
    attributes_of.MODALITY,
)


class Entry:
    """One instance on its way through spool and ledger."""

    __slots__ = ("chunks", "decision", "direct", "done", "early", "ended_at", "info", "location", "new", "sent")

    def __init__(
        self,
        info: InstanceInfo,
        decision: Decision,
        chunks: list[bytes] | None,
        direct: frozenset[str],
        done: Callable[[int, str], None],
        ended_at: float,
        new: bool,
    ) -> None:
        self.info = info
        self.decision = decision
        self.chunks = chunks
        self.direct = direct
        self.done = done
        self.ended_at = ended_at
        """When its last fragment came, by the loop's clock."""
        self.new = new
        """No other instance with its UID was ever here."""
        self.early: Mapping[str, EarlyTransfer] = NONE_EARLY
        """What is being sent of it already, by destination."""
        self.location: Location | None = None
        self.sent: tuple[Delivery, ...] = ()
        """What lanes have without having heard of the ledger's commit."""


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
        self.changed_duplicate = changed_duplicate
        self.known = known
        self.budget = budget if budget is not None else Budget(limits.window_memory)
        self.in_memory = 0
        """Bytes received and not yet given to the lanes, all receptions together."""
        self._resting: set[Callable[[], None]] = set()
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
        self._resting.add(resume)

    def forget_rest(self, resume: Callable[[], None]) -> None:
        self._resting.discard(resume)

    def freed(self, size: int) -> None:
        self.in_memory -= size
        if self._resting and self.in_memory <= self.limits.ingest_memory // 2:
            resting, self._resting = self._resting, set()
            for resume in resting:
                resume()

    # Deciding ----------------------------------------------------------------------------------------------

    def decide(self, rules: RuleSet, info: InstanceInfo, attributes: Attributes) -> Decision:
        return rules.decide(attributes, facts_of(info, info.received))

    def reserve(self, decision: Decision) -> frozenset[str]:
        """The destinations whose lane takes this object straight into its window."""
        if decision.verdict is not Verdict.ROUTE:
            return frozenset()
        return frozenset(name for name in decision.destinations if self.lanes[name].reserve())

    # Durable, then recorded -----------------------------------------------------------------------------------

    def synced(self, entries: Sequence[Any], position: LogPosition | None) -> None:
        """The spool: these records are durable."""
        sure = [entry for entry in entries if self._is_sure(entry)]
        unsure = [entry for entry in entries if not self._is_sure(entry)] if len(sure) < len(entries) else []
        if sure:
            self._stored(sure)
            for entry in sure:
                if entry.new and entry.direct:
                    self._make_deliveries(entry)
        for members, answered in ((sure, True), (unsure, False)):
            if members:
                receipts = [
                    Receipt(
                        info=entry.info,
                        decision=entry.decision,
                        location=entry.location,
                        direct=entry.direct,
                        sent=entry.sent,
                        on_duplicate=self.changed_duplicate,
                    )
                    for entry in members
                ]
                group = _Group(self, members, answered=answered)
                self.ledger.record(receipts, group.committed, position=position, owed=answered)
        self._offer([delivery for entry in sure for delivery in entry.sent])

    def _is_sure(self, entry: Entry) -> bool:
        """The answer does not depend on the ledger."""
        return entry.chunks is not None and (entry.new or self.changed_duplicate != "reject")

    def _make_deliveries(self, entry: Entry) -> None:
        """Of what is surely new, for the lanes that have a place for it: as the ledger would make them."""
        location, number = entry.location, self.ledger.next_delivery
        if location is None:
            return
        info, chunks, direct, priority = entry.info, entry.chunks, entry.direct, entry.decision.priority
        entry.sent = tuple(
            Delivery(
                id=number(), destination=name, instance=info, location=location, priority=priority, fence=1,
                chunks=chunks,
            )
            for name in entry.decision.destinations
            if name in direct
        )  # fmt: skip
        entry.direct = frozenset()
        entry.chunks = None
        self.freed(info.size)

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
            self._tell(entry, Status.SUCCESS, "")
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
                self.spool.settled([entry.location for entry in entries if entry.location is not None])
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
        for entry, result in zip(entries, outcome, strict=True):
            self._begun -= 1
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
            self.freed(entry.info.size)
        for name in entry.direct:
            self.lanes[name].cancel_reservation()
        for transfer in entry.early.values():
            transfer.give_up()


class StoreReception:
    """Implements ``ports.Reception``: one data set on its way in."""

    __slots__ = (
        "_chunks",
        "_cut",
        "_cut_asked",
        "_error",
        "_hasher",
        "_held",
        "_inspector",
        "_intake",
        "_move_originator",
        "_origin",
        "_recent",
        "_resume",
        "_rules",
        "_size",
        "_small",
        "_small_size",
        "_sop_class",
        "_sop_instance",
        "_stream",
        "_transfer_syntax",
    )

    def __init__(
        self,
        intake: StoreIntake,
        origin: Origin,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        move_originator: tuple[str, int] | None,
        resume: Callable[[], None],
    ) -> None:
        self._intake = intake
        self._origin = origin
        self._sop_class = sop_class
        self._sop_instance = sop_instance
        self._transfer_syntax = transfer_syntax
        self._move_originator = move_originator
        self._resume = resume
        self._rules = intake.rules()
        self._inspector = DatasetInspector(transfer_syntax, self._rules.wanted, intake.limits)
        self._hasher = xxhash.xxh3_128()
        self._chunks: list[bytes] = []
        self._small: list[bytes] = []
        self._small_size = 0
        self._size = 0
        self._held = 0
        """Bytes of ours counted in the intake's memory."""
        self._stream: SpoolStream | None = None
        self._cut: CutThrough | None = None
        self._cut_asked = False
        self._recent: list[bytes] | None = None
        """What has been streamed, from the first byte, for who may soon be sent it; ``KEEP`` of the budget is taken."""
        self._error: DatasetError | None = None
        if intake.spool.below_objects_floor() or intake.ledger.full:
            self._error = DatasetError(Status.OUT_OF_RESOURCES, "out of disk space")

    @property
    def congested(self) -> bool:
        if self._error is not None:
            return False
        stream = self._stream
        if stream is not None and stream.pending > STREAM_HIGH:
            return True
        intake = self._intake
        if intake.over_memory and self._held:
            # What rests holds nothing: else enough of those that rest would keep each other from going on.
            self._start_stream()
        if intake.over_memory:
            intake.rest(self._resume)
            return True
        return False

    def write(self, fragment: memoryview) -> None:
        if self._error is not None:
            return
        length = len(fragment)
        self._size += length
        if self._size > self._intake.limits.object_size:
            self._fail(DatasetError(Status.OBJECT_TOO_LARGE, "object exceeds the size limit"))
            return
        self._inspector.feed(fragment)
        if self._inspector.error is not None:
            self._fail(self._inspector.error)
            return
        self._hasher.update(fragment)
        data = bytes(fragment)
        if self._stream is not None:
            self._stream.write(data)
            if self._cut is not None:
                self._cut.append(data)
            elif not self._cut_asked:
                if self._recent is not None:
                    self._recent.append(data)
                if self._size > CUT_THROUGH:
                    self._cut_through(self._stream)
            return
        self._held += length
        self._intake.in_memory += length
        if length < SMALL_FRAGMENT:
            self._small.append(data)
            self._small_size += length
            if self._small_size >= JOIN:
                self._join()
        else:
            if self._small:
                self._join()
            self._chunks.append(data)
        if self._size > self._intake.limits.object_memory:
            self._start_stream()

    def finish(self, done: Callable[[int, str], None]) -> None:
        intake = self._intake
        try:
            if self._error is not None:
                raise self._error
            attributes = self._inspector.finish()
            sop_class, sop_instance, *texts = attributes.firsts(IDENTIFYING)
            self._check_uids(attributes, sop_class, sop_instance)
        except DatasetError as error:
            self._drop()
            intake.ended()
            done(error.status, error.comment)
            return
        if self._small:
            self._join()
        info = self._info(texts, intake.ids.next(), self._hasher.digest())
        cut = self._cut
        if cut is not None and not self._inspector.head_was_all:
            # Something that the rules name stood behind the pixels: what was decided without it does not hold.
            cut.give_up()
            cut = None
        decision = cut.decision if cut is not None else intake.decide(self._rules, info, attributes)
        intake.decided(decision)
        if decision.verdict is Verdict.REJECT or decision.verdict is Verdict.DISCARD:
            self._drop()
            intake.ended()
            if decision.verdict is Verdict.REJECT:
                done(Status.NOT_AUTHORIZED, "no rule takes this object")
            else:
                intake.discarded(info, decision)
                done(Status.SUCCESS, "")
            return
        direct = intake.reserve(decision)
        stream = self._stream
        self._forget_recent()
        new = intake.known is not None and intake.known.add(info.sop_instance)
        entry = Entry(info, decision, self._chunks if stream is None else None, direct, done, intake.loop.time(), new)
        if stream is not None:
            if cut is not None:
                entry.early = cut.transfers
            stream.finish(entry)
        else:
            intake.spool.submit(entry)

    def discard(self) -> None:
        self._drop()
        self._intake.ended()

    # Inside ------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._chunks.append(self._small[0] if len(self._small) == 1 else b"".join(self._small))
        self._small = []
        self._small_size = 0

    def _cut_through(self, stream: SpoolStream) -> None:
        """Once what the rules can see is known: decide, and begin to send it on where that can be done at once."""
        attributes = self._inspector.head() if self._rules.of_head else None
        if attributes is None:
            self._forget_recent()
            self._cut_asked = not self._rules.of_head
            return
        self._cut_asked = True
        sop_class, sop_instance, *texts = attributes.firsts(IDENTIFYING)
        try:
            self._check_uids(attributes, sop_class, sop_instance)
        except DatasetError:
            self._forget_recent()
            return  # told at the end
        intake = self._intake
        info = self._info(texts, 0, b"")
        decision = intake.decide(self._rules, info, attributes)
        self._cut = CutThrough.begin(
            info,
            decision,
            stream,
            recent=self._recent,
            spool=intake.spool,
            lanes=intake.lanes,
            budget=intake.budget,
        )
        self._recent = None

    def _forget_recent(self) -> None:
        if self._recent is not None:
            self._recent = None
            self._intake.budget.give_back(KEEP)

    def _start_stream(self) -> None:
        """More than one association may keep in memory: from here on the bytes go to a segment of their own."""
        if self._small:
            self._join()
        stream = self._stream = self._intake.spool.stream()
        stream.on_drain(STREAM_LOW, self._resume)
        for chunk in self._chunks:
            stream.write(chunk)
        if self._rules.of_head and self._intake.budget.take(KEEP):
            self._recent = self._chunks
        self._chunks = []
        held, self._held = self._held, 0
        self._intake.freed(held)

    def _fail(self, error: DatasetError) -> None:
        """Remember the first error and let go of everything; the rest of the message is read and dropped."""
        self._error = error
        self._drop()

    def _drop(self) -> None:
        self._intake.forget_rest(self._resume)
        self._forget_recent()
        if self._cut is not None:
            self._cut.give_up()
            self._cut = None
        if self._stream is not None:
            self._stream.discard()
            self._stream = None
        self._chunks = []
        self._small = []
        held, self._held = self._held, 0
        if held:
            self._intake.freed(held)

    def _check_uids(self, attributes: Attributes, sop_class: str, sop_instance: str) -> None:
        """Command and data set must name the same instance (PS3.4 B.2.2.1: otherwise 0xA900)."""
        if not attributes.available:
            return
        if not sop_class or not sop_instance:
            raise DatasetError(Status.MISSING_UIDS, "data set lacks SOP Class or SOP Instance UID")
        if sop_class != self._sop_class or sop_instance != self._sop_instance:
            raise DatasetError(Status.DATA_SET_MISMATCH, "data set UIDs differ from the command")

    def _info(self, texts: Sequence[str], number: int, checksum: bytes) -> InstanceInfo:
        study, series, patient_id, accession, modality = texts
        return InstanceInfo(
            id=number,
            sop_class=self._sop_class,
            sop_instance=self._sop_instance,
            transfer_syntax=self._transfer_syntax,
            origin=self._origin,
            received=time.time(),
            size=self._size,
            checksum=checksum,
            study=study,
            series=series,
            patient_id=patient_id,
            accession=accession,
            modality=modality,
            move_originator=self._move_originator,
        )
