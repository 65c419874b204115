"""Storage as SCP (PS3.4 Annex B): what a C-STORE-RQ must be before its data set is taken in.

Judges the command only. What the data set holds, whether there is room and when it is durable is the intake's business;
the order of answers is the acceptor's.
"""

from __future__ import annotations

from collections.abc import Callable

from router.dicom.uids import VERIFICATION, is_storage_class, valid_uid
from router.dimse.command import Command
from router.errors import DatasetError
from router.model import Origin, Peer, Status
from router.ports import Intake, Reception


def serves(abstract_syntax: str) -> bool:
    """Storage of every kind: what is not known to be of another service is taken, since it only has to be carried."""
    return valid_uid(abstract_syntax) and abstract_syntax != VERIFICATION and is_storage_class(abstract_syntax)


class StorageScp:
    """Storage for one association."""

    __slots__ = ("_intake", "_origin", "_peer", "_resume")

    def __init__(self, intake: Intake, origin: Origin, peer: Peer, resume: Callable[[], None]) -> None:
        self._intake = intake
        self._origin = origin
        self._peer = peer
        self._resume = resume

    def begin(self, command: Command, abstract_syntax: str, transfer_syntax: str) -> Reception:
        """Open a reception for the data set that follows.

        Raises:
            DatasetError: What to answer instead; the data set that follows is read and dropped.
        """
        sop_class, sop_instance = command.sop_class, command.sop_instance
        if not command.has_data_set:
            raise DatasetError(Status.NO_DATA_SET, "C-STORE without a data set")
        if not self._peer.store:
            raise DatasetError(Status.NOT_AUTHORIZED, "this peer may not store")
        if not sop_class or not sop_instance:
            raise DatasetError(Status.MISSING_UIDS, "command lacks SOP Class or SOP Instance UID")
        if not valid_uid(sop_instance):
            raise DatasetError(Status.INVALID_OBJECT_INSTANCE, "SOP Instance UID is not a UID")
        if sop_class != abstract_syntax or abstract_syntax == VERIFICATION:
            if not valid_uid(sop_class):
                raise DatasetError(Status.INVALID_OBJECT_INSTANCE, "SOP Class UID is not a UID")
            raise DatasetError(Status.SOP_CLASS_NOT_SUPPORTED, "SOP class not of this presentation context")
        originator = command.move_originator
        return self._intake.begin(
            self._origin,
            sop_class=sop_class,
            sop_instance=sop_instance,
            transfer_syntax=transfer_syntax,
            move_originator=(originator, command.move_originator_id or 0) if originator else None,
            resume=self._resume,
        )
