"""Storage SCP (PS3.4 Annex B): one C-STORE-RQ from its command set to its answer.

Checks what the command says, hands the data set to the intake, and lets the data set of a refused message pass by unkept.
"""

from __future__ import annotations

from collections.abc import Callable

from router.dicom.uids import valid_uid
from router.dimse.command import Command
from router.model import Origin, Status
from router.ports import Intake, Reception


class StoreMessage:
    """One C-STORE message. ``done(status, comment)`` is called once, after ``finish``."""

    __slots__ = ("_clock", "_done", "_reception", "_refusal", "finished_at", "size")

    def __init__(
        self,
        intake: Intake,
        command: Command,
        *,
        origin: Origin,
        abstract_syntax: str,
        transfer_syntax: str,
        may_store: bool,
        done: Callable[[int, str], None],
        resume: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._done = done
        self._clock = clock
        self.finished_at = 0.0
        self.size = 0
        self._refusal = self._check(command, abstract_syntax, may_store)
        self._reception: Reception | None = None
        if self._refusal is None:
            move = None
            if command.move_originator and command.move_originator_id is not None:
                move = command.move_originator, command.move_originator_id
            self._reception = intake.begin(
                origin,
                sop_class=command.sop_class,
                sop_instance=command.sop_instance,
                transfer_syntax=transfer_syntax,
                move_originator=move,
                resume=resume,
            )

    @staticmethod
    def _check(command: Command, abstract_syntax: str, may_store: bool) -> tuple[int, str] | None:
        """The status and comment of a message that is refused by its command set alone."""
        if not command.has_data_set:
            return Status.NO_DATA_SET, "no data set"
        if not may_store:
            return Status.NOT_AUTHORIZED, "this peer may not store"
        if not command.sop_class or not command.sop_instance:
            return Status.MISSING_UIDS, "SOP Class or SOP Instance UID missing"
        if not valid_uid(command.sop_instance) or not valid_uid(command.sop_class):
            return Status.INVALID_OBJECT_INSTANCE, "malformed UID"
        if command.sop_class != abstract_syntax:
            return Status.SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the context"
        return None

    @property
    def congested(self) -> bool:
        return self._reception is not None and self._reception.congested

    def data(self, fragment: memoryview) -> None:
        self.size += len(fragment)
        if self._reception is not None:
            self._reception.write(fragment)

    def finish(self) -> None:
        self.finished_at = self._clock()
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.finish(self._done)
        elif self._refusal is not None:
            self._done(*self._refusal)

    def discard(self) -> None:
        """The message will not be completed."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.discard()
