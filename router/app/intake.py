"""From the first fragment of a data set to its answer: where "stored" is decided, and nowhere else.

The invariants, each held by a test:

1. 0x0000 is said in one place, ``_Group.answer``, after the spool has synced the record *and* the ledger has
committed the
   instance with every delivery that its decision names. A DISCARD decision is the only other success, and it is
   counted.
2. Any doubt (sync error, commit error, full disk) answers 0xA700 and leaves no reservation behind.
3. A group's records are written before its ledger transaction starts, and the sync and the commit then run side by
side.
4. Bytes of a data set are copied once, from the receive buffer, and given on by reference: to the spool, to the lanes.
5. Memory is bounded: an object beyond ``object_memory`` streams to the disk, and past ``ingest_memory`` sockets rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import xxhash

from router.app.held import facts_of
from router.app.ids import IdSource
from router.delivery.lane import Lane
from router.dicom.attributes import Attributes
from router.dicom.inspect import DatasetInspector
from router.errors import DatasetError, LedgerError, SpoolError, SpoolFull
from router.ledger import Receipt, ReceiptResult, SqliteLedger
from router.model import Decision, InstanceInfo, Limits, Location, Origin, Status, Verdict
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


class Entry:
    """One instance on its way through spool and ledger."""

    __slots__ = ("chunks", "decision", "direct", "done", "group", "info", "location", "receipt")

    def __init__(
        self,
        info: InstanceInfo,
        decision: Decision,
        chunks: list[bytes] | None,
        direct: frozenset[str],
        done: Callable[[int, str], None],
    ) -> None:
        self.info = info
        self.decision = decision
        self.chunks = chunks
        self.direct = direct
        self.done = done
        self.location: Location | None = None
        self.group: _Group | None = None


class _Group:
    """Entries that share a sync and a commit. Complete when both have answered; then the loop is woken once."""

    __slots__ = ("_lock", "_waiting", "began", "entries", "intake", "problem", "results")

    def __init__(self, intake: StoreIntake, entries: Sequence[Entry]) -> None:
        self.intake = intake
        self.entries = entries
        self.began = intake.loop.time()
        self.results: list[ReceiptResult] | None = None
        self.problem: SpoolError | LedgerError | None = None
        self._waiting = 2
        self._lock = Lock()

    def committed(self, outcome: list[ReceiptResult] | LedgerError) -> None:
        """From the ledger's thread."""
        if isinstance(outcome, LedgerError):
            self.problem = outcome
        else:
            self.results = outcome
        self._arrived()

    def synced(self, problem: SpoolError | None) -> None:
        """From the spool's thread."""
        if problem is not None:
            self.problem = problem
        self._arrived()

    def _arrived(self) -> None:
        with self._lock:
            self._waiting -= 1
            complete = self._waiting == 0
        if complete:
            self.intake.wake(self)


class StoreIntake:
    """Implements ``ports.Intake``. One per process; lives on the event loop.

    Args:
        rules: Gives the rule set in force; asked once per object, at its beginning, since the rules name the
        attributes to collect.
        discarded: Called with the rule names of every object that a rule dropped.
        changed_duplicate: ``version``, ``reject`` or ``hold``: what to do with other bytes under a known UID.
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
        self.in_memory = 0
        """Bytes received and not yet durable, all receptions together."""
        self._resting: set[Callable[[], None]] = set()
        self._begun = 0
        self._ready: list[_Group] = []

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
        """Receptions begun and not yet answered or discarded."""
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

    # The group commit: spool thread, ledger thread, loop ---------------------------------------------------

    def written(self, entries: Sequence[Any]) -> None:
        """Spool thread: the bytes are in the page cache and have their places; the sync comes next."""
        group = _Group(self, entries)
        receipts = []
        for entry in entries:
            entry.group = group
            location = entry.location
            if location is None:
                raise SpoolError("the spool wrote a record without saying where")
            receipts.append(
                Receipt(
                    info=entry.info,
                    decision=entry.decision,
                    location=location,
                    direct=entry.direct,
                    on_duplicate=self.changed_duplicate,
                )
            )
        self.ledger.record(receipts, group.committed)

    def synced(self, entries: Sequence[Any]) -> None:
        """Spool thread."""
        group = entries[0].group
        if group is not None:
            group.synced(None)

    def failed(self, entries: Sequence[Any], problem: SpoolError) -> None:
        """Spool thread: these entries are not durable. Those never written have no group and no ledger rows."""
        group = entries[0].group
        if group is None:
            group = _Group(self, entries)
            group.committed([])
        group.synced(problem)

    def wake(self, group: _Group) -> None:
        """Spool or ledger thread: both halves of the group have answered."""
        self.loop.call_soon_threadsafe(self._answer, group)

    def _answer(self, group: _Group) -> None:
        problem, results = group.problem, group.results
        if problem is not None or results is None:
            self._refuse(group, problem)
            return
        # Every sender of the group hears its answer before the first object is sent on: sending takes longer.
        for entry, result in zip(group.entries, results, strict=True):
            if result.kind == "rejected":
                self._end(entry, Status.DUPLICATE_SOP_INSTANCE, "another object has this SOP Instance UID")
            else:
                self._end(entry, Status.SUCCESS, "")
        self.commit_observed(self.loop.time() - group.began, len(group.entries))
        unneeded: list[Location] = []
        backlog: set[str] = set()
        for entry, result in zip(group.entries, results, strict=True):
            if result.unneeded is not None:
                unneeded.append(result.unneeded)
            backlog |= result.backlog
            direct = entry.direct
            if direct:
                offered = set()
                for delivery in result.deliveries:
                    delivery.chunks = entry.chunks
                    offered.add(delivery.destination)
                    self.lanes[delivery.destination].offer(delivery)
                for name in direct - offered:
                    self.lanes[name].cancel_reservation()
        for name in backlog:
            lane = self.lanes.get(name)
            if lane is not None:
                lane.backlog()
        if unneeded:
            self.spool.settled(unneeded)

    def _refuse(self, group: _Group, problem: Exception | None) -> None:
        comment = "out of disk space" if isinstance(problem, SpoolFull) else "storage unavailable"
        self.log.error("store group refused", instances=len(group.entries), reason=str(problem))
        for entry in group.entries:
            for name in entry.direct:
                self.lanes[name].cancel_reservation()
            self._end(entry, Status.OUT_OF_RESOURCES, comment)
        if isinstance(problem, LedgerError) and not self.ledger.failed:
            # The records are written and nobody owns them: their places are free again.
            self.spool.settled([entry.location for entry in group.entries if entry.location is not None])

    def _end(self, entry: Entry, status: int, comment: str) -> None:
        self._begun -= 1
        if entry.chunks is not None:
            self.freed(entry.info.size)
        entry.done(status, comment)


class StoreReception:
    """Implements ``ports.Reception``: one data set on its way in."""

    __slots__ = (
        "_chunks",
        "_error",
        "_hasher",
        "_held",
        "_inspector",
        "_intake",
        "_move_originator",
        "_origin",
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
        self._error: DatasetError | None = None
        if intake.spool.below_objects_floor():
            self._error = DatasetError(Status.OUT_OF_RESOURCES, "out of disk space")

    @property
    def congested(self) -> bool:
        if self._error is not None:
            return False
        stream = self._stream
        if stream is not None and stream.pending > STREAM_HIGH:
            return True
        if self._intake.over_memory:
            self._intake.rest(self._resume)
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
            self._check_uids(attributes)
        except DatasetError as error:
            self._drop()
            intake.ended()
            done(error.status, error.comment)
            return
        if self._small:
            self._join()
        info = self._info(attributes)
        decision = intake.decide(self._rules, info, attributes)
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
        if self._stream is not None:
            self._stream.finish(Entry(info, decision, None, direct, done))
        else:
            intake.spool.submit(Entry(info, decision, self._chunks, direct, done))

    def discard(self) -> None:
        self._drop()
        self._intake.ended()

    # Inside ------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._chunks.append(self._small[0] if len(self._small) == 1 else b"".join(self._small))
        self._small = []
        self._small_size = 0

    def _start_stream(self) -> None:
        """More than one association may keep in memory: from here on the bytes go to a segment of their own."""
        if self._small:
            self._join()
        stream = self._stream = self._intake.spool.stream()
        stream.on_drain(STREAM_LOW, self._resume)
        for chunk in self._chunks:
            stream.write(chunk)
        self._chunks = []
        held, self._held = self._held, 0
        self._intake.freed(held)

    def _fail(self, error: DatasetError) -> None:
        """Remember the first error and let go of everything; the rest of the message is read and dropped."""
        self._error = error
        self._drop()

    def _drop(self) -> None:
        self._intake.forget_rest(self._resume)
        if self._stream is not None:
            self._stream.discard()
            self._stream = None
        self._chunks = []
        self._small = []
        held, self._held = self._held, 0
        if held:
            self._intake.freed(held)

    def _check_uids(self, attributes: Attributes) -> None:
        """Command and data set must name the same instance (PS3.4 B.2.2.1: otherwise 0xA900)."""
        if not attributes.available:
            return
        for tag, expected in ((0x00080016, self._sop_class), (0x00080018, self._sop_instance)):
            found = attributes.texts((tag,))
            if not found:
                raise DatasetError(Status.MISSING_UIDS, "data set lacks SOP Class or SOP Instance UID")
            if found[0] != expected:
                raise DatasetError(Status.DATA_SET_MISMATCH, "data set UIDs differ from the command")

    def _info(self, attributes: Attributes) -> InstanceInfo:
        def first(tag: int) -> str:
            values = attributes.texts((tag,))
            return values[0] if values else ""

        return InstanceInfo(
            id=self._intake.ids.next(),
            sop_class=self._sop_class,
            sop_instance=self._sop_instance,
            transfer_syntax=self._transfer_syntax,
            origin=self._origin,
            received=time.time(),
            size=self._size,
            checksum=self._hasher.digest(),
            study=first(0x0020000D),
            series=first(0x0020000E),
            patient_id=first(0x00100020),
            accession=first(0x00080050),
            modality=first(0x00080060),
            move_originator=self._move_originator,
        )
