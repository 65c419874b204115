"""Serving an accepted association: which contexts are taken, which message goes to which service, in which order
answers leave.

Requests may come before earlier ones are answered; answers leave in the order of the requests (PS3.7 §9.1), although
the intake finishes them when it can. A message that is refused is still read to its end: a status tells the sender more
than an A-ABORT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router._fastpdu import DataFragment, DataTaken, drop, frame_message
from router.dicom.uids import VERIFICATION, valid_uid
from router.dimse.assembler import CommandReceived, DataReceived, MessageAssembler
from router.dimse.command import RESPONSE_BIT, Command, CommandField, encode_response
from router.errors import AbortReason, DatasetError, PeerProtocolError, fault_location
from router.model import Origin, Peer, Status
from router.net.connection import Hold
from router.net.listener import AcceptedConnection, Serve
from router.ports import Buffer, Intake, Log, Reception
from router.services import verification
from router.services.storage_scp import StorageScp, serves
from router.ul.negotiation import accepted_contexts, answer, answer_roles
from router.ul.pdus import AssociateAccept, AssociateRequest, ContextOutcome, UserInformation, encode_accept
from router.ul.remembered import Remembered

MAX_OPERATIONS = 64
"""Asynchronous operations that we let a requestor invoke (PS3.7 D.3.3.3)."""
MAX_UNANSWERED = 256
"""Requests without an answer past which nothing more is read, whatever was negotiated."""

Contexts = Mapping[int, tuple[str, str]]
"""Accepted ones, as ``negotiation.accepted_contexts`` gives them."""

_OWING, _ANSWERED = Hold.OWING, Hold.OWING | Hold.UNANSWERED
_C_STORE_RQ, _C_CANCEL_RQ = CommandField.C_STORE_RQ, CommandField.C_CANCEL_RQ
"""Found once: to look a member of an enumeration up is a call."""
_RESPONSES = frozenset(field | RESPONSE_BIT for field in CommandField if not field & RESPONSE_BIT)


def serving(intake: Intake, *, log: Log) -> Serve:
    """Who serves the associations of a listener."""
    answers: Remembered[tuple[bytes, int], tuple[AssociateAccept, Contexts]] = Remembered()

    def serve(
        connection: AcceptedConnection, request: AssociateRequest, peer: Peer
    ) -> tuple[AssociateAccept, Acceptor]:
        max_pdu = connection.core.settings.max_pdu
        key = request.said, max_pdu
        known = answers.get(key) if request.said else None
        if known is None:
            accept = negotiate(request, max_pdu)
            known = replace(accept, encoded=encode_accept(accept)), accepted_contexts(request, accept)
            if request.said:
                answers.keep(key, known)
        accept, contexts = known
        return accept, Acceptor(connection, request, contexts, peer, intake, log)

    return serve


def negotiate(request: AssociateRequest, max_pdu: int) -> AssociateAccept:
    """The answer to a request that was admitted: storage and verification in the first transfer syntax proposed.

    Where nothing is acceptable, every context is rejected and the association is accepted all the same: the requestor
    sees why.
    """
    results = answer(request.contexts, supports=lambda uid: uid == VERIFICATION or serves(uid), takes=valid_uid)
    taken = {result.id for result in results if result.result == ContextOutcome.ACCEPTANCE}
    window = request.user.async_window
    if window is not None:
        # Our true values, no more than asked: 0 asks for no limit, and we invoke nothing ourselves.
        invoked = MAX_OPERATIONS if window[0] == 0 else min(window[0], MAX_OPERATIONS)
        window = (invoked, 1)
    return AssociateAccept(
        contexts=results,
        user=UserInformation(
            max_length=max_pdu,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
            async_window=window,
            roles=answer_roles(
                request.user.roles, (context.abstract_syntax for context in request.contexts if context.id in taken)
            ),
        ),
        raw_header=request.raw_header,
    )


class Answer:
    """The response to one request, perhaps not known yet."""

    __slots__ = ("_acceptor", "command", "comment", "complete_at", "context_id", "status")

    def __init__(self, acceptor: Acceptor, context_id: int, command: Command) -> None:
        self._acceptor = acceptor
        self.context_id = context_id
        self.command = command
        self.status: int | None = None
        self.comment = ""
        self.complete_at = 0.0
        """When the last fragment of the request was in; loop time."""

    def done(self, status: int, comment: str) -> None:
        """Say what to answer: once, on the loop, also long after the association ended."""
        self.status = status
        self.comment = comment
        self._acceptor.answered()


class Acceptor:
    """One association served. Implements ``net.AssociationUser``."""

    __slots__ = (
        "_answer",
        "_assembler",
        "_connection",
        "_contexts",
        "_limit",
        "_log",
        "_metrics",
        "_peer",
        "_reception",
        "_refusal",
        "_releasing",
        "_size",
        "_storage",
        "_unanswered",
    )

    def __init__(
        self,
        connection: AcceptedConnection,
        request: AssociateRequest,
        contexts: Contexts,
        peer: Peer,
        intake: Intake,
        log: Log,
    ) -> None:
        self._connection = connection
        self._contexts = contexts
        self._limit = request.user.max_length
        self._peer = peer
        self._log = log
        self._metrics = connection.server.metrics
        origin = Origin(
            listener=connection.server.listener.name,
            peer=peer.name,
            calling_ae=request.calling_ae,
            called_ae=request.called_ae,
            address=connection.address,
        )
        self._storage = StorageScp(intake, origin, peer, self._resume)
        self._assembler = MessageAssembler(self._contexts, connection.server.gate.limits.command_set)
        self._unanswered: deque[Answer] = deque()
        # Of the message whose data set is coming in:
        self._answer: Answer | None = None
        self._reception: Reception | None = None
        self._refusal: tuple[int, str] = (Status.SUCCESS, "")
        self._size = 0
        self._releasing = False

    # net.AssociationUser -----------------------------------------------------------------------------------

    def fragment(self, fragment: DataFragment) -> None:
        assembler = self._assembler
        received = assembler.feed(fragment)
        self._connection.core.message_open = assembler.in_message
        if type(received) is DataReceived:
            self._data(received)
        elif type(received) is CommandReceived:
            self._command(received.context_id, received.command)

    def release_requested(self) -> None:
        if self._assembler.in_message:
            raise PeerProtocolError("A-RELEASE-RQ within a message", AbortReason.UNEXPECTED_PDU)
        if self._unanswered:
            self._releasing = True
        else:
            self._connection.release_response()

    def ended(self, error: Exception | None) -> None:
        self._discard()
        self._unanswered.clear()

    # Messages ----------------------------------------------------------------------------------------------

    def _command(self, context_id: int, command: Command) -> None:
        self._answer = None
        field = command.field
        if field & RESPONSE_BIT:
            if field not in _RESPONSES:
                raise PeerProtocolError("unknown response", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._log.debug("response to nothing ignored", peer=self._peer.name)
        elif field != _C_CANCEL_RQ:
            if command.message_id is None:
                raise PeerProtocolError("request without Message ID", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            self._answer = Answer(self, context_id, command)
            self._unanswered.append(self._answer)
            if field == _C_STORE_RQ:
                self._begin(command, context_id)
            elif field == CommandField.C_ECHO_RQ:
                self._refusal = verification.answer(self._peer)
            else:
                self._refusal = (Status.UNRECOGNIZED_OPERATION, "only C-STORE and C-ECHO are served")
        if not command.has_data_set:
            self._complete()
        elif self._reception is None:
            # Nobody looks at it, and it may come in a million pieces.
            self._connection.core.divert(context_id, drop, self._taken)

    def _begin(self, command: Command, context_id: int) -> None:
        self._size = 0
        context = self._contexts[context_id]
        try:
            self._reception = reception = self._storage.begin(command, *context)
            self._connection.core.divert(context_id, reception.write, self._taken, reception.read)
        except DatasetError as error:
            self._refusal = (error.status, error.comment)
        except Exception as fault:
            self._fault(fault)

    def _data(self, received: DataReceived) -> None:
        """What did not come by the diversion: nobody takes it, or it came before the association was accepted."""
        reception = self._reception
        if reception is not None:
            self._size += len(received.data)
            try:
                reception.write(received.data)
            except Exception as fault:
                self._fault(fault)
            self._look_at_room()
        if received.last and self._answer is not None:
            self._connection.core.undivert()
            self._complete()

    def _taken(self, taken: DataTaken) -> None:
        self._size += taken.size
        if taken.fault is not None:
            self._fault(taken.fault)
        elif not taken.last:
            self._look_at_room()
        if taken.last:
            self._assembler.data_ended()
            self._connection.core.message_open = False
            self._complete()

    def _look_at_room(self) -> None:
        reception = self._reception
        try:
            if reception is not None and reception.congested:
                self._connection.hold(Hold.CONGESTED)
        except Exception as fault:
            self._fault(fault)

    def _complete(self) -> None:
        """The message is in, to its last fragment."""
        answer = self._answer
        reception, self._reception = self._reception, None
        if answer is None:
            return
        self._answer = None
        connection = self._connection
        answer.complete_at = connection.loop.time()
        if reception is None:
            answer.done(*self._refusal)
        else:
            self._metrics.received(self._peer.name, self._size)
            try:
                reception.finish(answer.done)
            except Exception as fault:
                self._fault(fault)
                if answer.status is None:
                    answer.done(*self._refusal)
        if self._unanswered:
            connection.hold(_OWING)
            if len(self._unanswered) >= MAX_UNANSWERED:
                connection.hold(Hold.UNANSWERED)

    def _fault(self, fault: Exception) -> None:
        """A bug of ours costs this object, with a status that says so, and not the association."""
        self._log.error("fault while storing", fault=fault_location(fault))
        self._refusal = (Status.PROCESSING_FAILURE, "processing failure")
        self._discard()

    def _discard(self) -> None:
        reception, self._reception = self._reception, None
        if reception is not None:
            self._connection.core.undivert()
            reception.discard()

    def _resume(self) -> None:
        """From the intake: there is room again, if nobody else took it."""
        reception = self._reception
        if reception is None or not reception.congested:
            self._connection.unhold(Hold.CONGESTED)

    # Answers -----------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """An answer is known: send those whose turn it is."""
        unanswered = self._unanswered
        if not unanswered or unanswered[0].status is None:
            return
        connection, limit = self._connection, self._limit
        if 0 < limit < 8:
            connection.abort(2, AbortReason.INVALID_PDU_PARAMETER_VALUE, message="peer's maximum length takes no data")
            return
        now = connection.loop.time()
        frames: list[Buffer] = []
        while unanswered and (status := unanswered[0].status) is not None:
            first = unanswered.popleft()
            frames += frame_message(
                first.context_id, encode_response(first.command, status, first.comment), (), 0, limit
            )
            if first.command.field == _C_STORE_RQ:
                self._metrics.response(status, now - first.complete_at)
        connection.send(frames)
        if not unanswered:
            connection.unhold(_ANSWERED)
            if self._releasing:
                connection.release_response()
        elif len(unanswered) < MAX_UNANSWERED // 2:
            connection.unhold(Hold.UNANSWERED)
