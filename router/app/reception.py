"""One data set on its way in: from its first fragment to an entry for the spool, or to the answer that refuses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from router._blocks import Gatherer
from router.app.cut_through import CUT_THROUGH, KEEP, CutThrough
from router.delivery.early import EarlyTransfer
from router.dicom import attributes as attributes_of
from router.dicom.attributes import Attributes
from router.dicom.inspect import DatasetInspector
from router.errors import DatasetError
from router.ledger import Receipt
from router.model import Decision, Delivery, InstanceInfo, Origin, Status, Verdict
from router.ports import Buffer
from router.spool import SpoolStream

if TYPE_CHECKING:
    from router.app.intake import StoreIntake

STREAM_HIGH = 4 << 20
"""Bytes of one streamed object that may wait for the disk before its socket rests, although others have room."""
STREAM_LOW = 1 << 20
NONE_EARLY: Mapping[str, EarlyTransfer] = {}
NONE_SENT: tuple[Delivery, ...] = ()
REJECT, DISCARD = Verdict.REJECT, Verdict.DISCARD
"""Found once: to look a member of an enumeration up is a call."""

IDENTIFYING = (
    attributes_of.SOP_CLASS_UID,
    attributes_of.SOP_INSTANCE_UID,
    attributes_of.STUDY_INSTANCE_UID,
    attributes_of.SERIES_INSTANCE_UID,
    attributes_of.PATIENT_ID,
    attributes_of.ACCESSION_NUMBER,
    attributes_of.MODALITY,
)


class Entry(Receipt):
    """One instance on its way through the spool; for the ledger, its receipt once the spool has said where it lies."""

    __slots__ = ("chunks", "done", "early", "ended_at", "new")

    def __init__(
        self,
        info: InstanceInfo,
        decision: Decision,
        chunks: Sequence[Buffer] | None,
        direct: frozenset[str],
        on_duplicate: str,
        done: Callable[[int, str], None],
        ended_at: float,
    ) -> None:
        self.info = info
        self.decision = decision
        self.chunks = chunks
        self.direct = direct
        self.sent = NONE_SENT
        self.on_duplicate = on_duplicate
        self.done = done
        self.ended_at = ended_at
        """When its last fragment came, by the loop's clock."""
        self.new = False
        """No other instance with its UID was ever here; set when it is durable."""
        self.early: Mapping[str, EarlyTransfer] = NONE_EARLY
        """What is being sent of it already, by destination."""


class StoreReception:
    """Implements ``ports.Reception``: one data set on its way in."""

    __slots__ = (
        "_cut",
        "_cut_asked",
        "_error",
        "_gatherer",
        "_held",
        "_inspector",
        "_intake",
        "_move_originator",
        "_origin",
        "_recent",
        "_resume",
        "_rules",
        "_sop_class",
        "_sop_instance",
        "_stream",
        "_transfer_syntax",
        "read",
        "write",
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
        limits = intake.limits
        self._rules = intake.rules()
        self._inspector = DatasetInspector(transfer_syntax, self._rules.wanted, limits)
        most = min(limits.object_memory, limits.object_size)
        self._gatherer = Gatherer(self._inspector.look, self._beyond, most)
        self.write = self._gatherer.write
        self.read = self._gatherer.read
        """Most data sets go by these natively, from the first byte to the last."""
        self._held = 0
        """Bytes of ours counted in the intake's memory."""
        self._stream: SpoolStream | None = None
        self._cut: CutThrough | None = None
        self._cut_asked = False
        self._recent: list[Buffer] | None = None
        """What has been streamed, from the first byte, for who may soon be sent it; ``KEEP`` of the budget is taken."""
        self._error: DatasetError | None = None
        if intake.ledger.blocked or intake.spool.below_objects_floor():
            self._error = DatasetError(Status.OUT_OF_RESOURCES, intake.ledger.blocked or "out of disk space")
            self._gatherer.drop()

    @property
    def congested(self) -> bool:
        if self._failed():
            return False
        stream = self._stream
        if stream is not None and stream.pending > STREAM_HIGH:
            return True
        self._count()
        intake = self._intake
        if intake.over_memory:
            if self._held:
                # What rests holds nothing but what waits for the disk, and that drains by itself, whoever reads or not:
                # else enough of those that rest would keep each other from going on.
                self._to_disk(self._gatherer.take())
            if intake.over_memory:
                intake.rest(self._resume)
                return True
        return False

    def _count(self) -> None:
        """What is held here is counted once for all that a step brought; what waits for the disk, by ``_to_disk``."""
        before, self._held = self._held, self._gatherer.held
        if self._held >= before:
            self._intake.in_memory += self._held - before
        else:
            self._intake.freed(before - self._held)

    def _failed(self) -> bool:
        if self._error is None and self._gatherer.error is not None:
            self._fail(self._gatherer.error)
        return self._error is not None

    def _beyond(self) -> None:
        """There is more than stays in memory."""
        if self._gatherer.size > self._intake.limits.object_size:
            self._fail(DatasetError(Status.OBJECT_TOO_LARGE, "object exceeds the size limit"))
        else:
            self._to_disk(self._gatherer.full())

    def _to_disk(self, buffers: Sequence[Buffer]) -> None:
        """The next bytes of what does not stay in memory. Given block by block, they reach the disk without being
        copied."""
        stream = self._stream
        if stream is None:
            stream = self._start_stream()
        before = stream.taken
        stream.write(*buffers)
        self._intake.in_memory += stream.taken - before  # until the stream frees it
        if self._cut is not None:
            self._cut.append(*buffers)
        elif not self._cut_asked:
            if self._recent is not None:
                self._recent.extend(buffers)
            if stream.taken > CUT_THROUGH:
                self._cut_through(stream)
        self._count()

    def finish(self, done: Callable[[int, str], None]) -> None:
        intake = self._intake
        stream = self._stream
        try:
            error = self._error or self._gatherer.error
            if error is not None:
                raise error
            self._count()
            kept = self._gatherer.take()
            if stream is not None:
                self._to_disk(kept)
            attributes = self._inspector.finish()
            sop_class, sop_instance, *texts = attributes.firsts(IDENTIFYING)
            self._check_uids(attributes, sop_class, sop_instance)
            info = self._info(texts, intake.ids.next(), self._gatherer.end())
            cut = self._cut
            if cut is not None and not self._inspector.head_was_all:
                # Something that the rules name stood behind the pixels: what was decided without it does not hold.
                cut.give_up()
                cut = None
            decision = cut.decision if cut is not None else intake.decisions.of(self._rules, info, attributes)
            intake.decided(decision)
            verdict = decision.verdict
            entry = None
            if verdict is not REJECT and verdict is not DISCARD:
                now = intake.loop.time()
                if self._recent is not None:
                    self._forget_recent()
                # The lanes last: nothing behind it can fail and leave their places taken.
                entry = Entry(
                    info,
                    decision,
                    kept if stream is None else None,
                    intake.reserve(decision),
                    intake.changed_duplicate,
                    done,
                    now,
                )
        except DatasetError as error:
            self._drop()
            intake.ended()
            error.__traceback__ = None  # of this frame, which holds us, who hold those that remember it
            done(error.status, error.comment)
            return
        except Exception:
            self.discard()
            raise
        if entry is None:
            self._drop()
            intake.ended()
            if verdict is REJECT:
                done(Status.NOT_AUTHORIZED, "no rule takes this object")
            else:
                intake.discarded(info, decision)
                done(Status.SUCCESS, "")
            return
        # From here on it is the spool's, which tells of it once, whatever happens: it must not be let go of here too.
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
        decision = intake.decisions.of(self._rules, info, attributes)
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

    def _start_stream(self) -> SpoolStream:
        """More than one association may keep in memory: from here on the bytes go to a segment of their own."""
        self._gatherer.pass_on()
        stream = self._stream = self._intake.spool.stream()
        stream.on_freed = self._intake.freed
        stream.on_drain(STREAM_LOW, self._resume)
        if self._rules.of_head and self._intake.budget.take(KEEP):
            self._recent = []
        return stream

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
        self._gatherer.drop()
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
            number,
            self._sop_class,
            self._sop_instance,
            self._transfer_syntax,
            self._origin,
            time.time(),
            self._gatherer.size,
            checksum,
            study,
            series,
            patient_id,
            accession,
            modality,
            self._move_originator,
        )
