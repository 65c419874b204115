"""The acceptor's side of an association: who is let in, which contexts, and one answer per request, in order.

C-ECHO and C-STORE are served. Whatever else arrives on an accepted context is answered 0x0211, never with an abort.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router._fastpdu import frame_message
from router.dicom.uids import is_storage_class
from router.dimse.assembler import CommandReceived, MessageAssembler
from router.dimse.command import Command, CommandField, encode_response
from router.errors import AbortReason, PeerProtocolError
from router.model import Limits, Origin, Peer, Status
from router.net.admission import APPLICATION_CONTEXT_NOT_SUPPORTED, PROTOCOL_VERSION_NOT_SUPPORTED, Refusal
from router.net.connection import Connection
from router.net.listener import AcceptedConnection, ListeningServer
from router.ports import Buffer, Intake
from router.services.storage_scp import StoreMessage
from router.ul.association import DataFragment
from router.ul.negotiation import accepted_contexts, answer, answer_roles
from router.ul.pdus import APPLICATION_CONTEXT, AssociateAccept, AssociateRequest, UserInformation

VERIFICATION = "1.2.840.10008.1.1"
PIPELINE_LIMIT = 64
"""Unanswered requests of one peer; past it its socket is not read."""


class Answer:
    """A place in the order of answers; empty until the answer is known."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: Sequence[Buffer] | None = None


class Acceptor:
    """Serves one association. Implements ``net.connection.AssociationUser``."""

    __slots__ = (
        "_answers",
        "_assembler",
        "_connection",
        "_contexts",
        "_ended",
        "_origin",
        "_peer",
        "_release_asked",
        "_server",
        "_skip",
        "_store",
        "intake",
        "limits",
    )

    def __init__(self, server: ListeningServer, intake: Intake, limits: Limits) -> None:
        self.intake = intake
        self.limits = limits
        self._server = server
        self._connection: Connection | None = None
        self._contexts: dict[int, tuple[str, str]] = {}
        self._assembler: MessageAssembler | None = None
        self._answers: deque[Answer] = deque()
        self._store: StoreMessage | None = None
        self._skip = False
        """A data set follows that belongs to a request which is answered without it."""
        self._peer: Peer | None = None
        self._origin: Origin | None = None
        self._release_asked = False
        self._ended = False

    # AssociationUser ---------------------------------------------------------------------------------------

    def requested(self, connection: Connection, request: AssociateRequest) -> None:
        self._connection = connection
        if isinstance(connection, AcceptedConnection):
            connection.handshake_over()
        refusal = self._judge(connection, request)
        if refusal is not None:
            self._server.metrics.rejected(refusal.label)
            self._server.log.info(
                "association rejected", listener=self._server.listener.name, address=connection.address, reason=refusal.label
            )
            connection.core.reject(refusal.reject, connection.loop.time())
            return
        results = answer(request.contexts, supports=self._supports, takes=lambda uid: True)
        listener = self._server.listener
        accept = AssociateAccept(
            contexts=results,
            raw_header=request.raw_header,
            user=UserInformation(
                max_length=listener.max_pdu,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION_NAME,
                roles=answer_roles(
                    request.user.roles,
                    (proposal.abstract_syntax for proposal, result in zip(request.contexts, results, strict=True) if result.result == 0),
                ),
            ),
        )
        self._contexts = accepted_contexts(request, accept)
        self._assembler = MessageAssembler(self._contexts, self.limits.command_set)
        connection.core.accept(accept, connection.loop.time())
        if self._peer is not None:
            self._server.gate.association_began(self._peer, connection.address)
        self._server.metrics.association_opened()

    def established(self, connection: Connection, accept: AssociateAccept) -> None:
        """Never called: we are the acceptor."""

    def fragment(self, connection: Connection, fragment: DataFragment) -> None:
        assembler = self._assembler
        if assembler is None:
            raise PeerProtocolError("data before the association was accepted", AbortReason.UNEXPECTED_PDU)
        item = assembler.feed(fragment)
        if item is None:
            connection.core.message_begins()
        elif isinstance(item, CommandReceived):
            if item.command.has_data_set:
                connection.core.message_begins()
            else:
                connection.core.message_ends()
            self._command(connection, item)
        else:
            store = self._store
            if store is not None:
                store.data(item.data)
                if item.last:
                    self._store = None
                    connection.core.message_ends()
                    store.finish()
                elif store.congested:
                    connection.pause_reading()
            elif item.last:
                self._skip = False
                connection.core.message_ends()
                self._send_ready()

    def release_requested(self, connection: Connection) -> None:
        if self._assembler is not None and self._assembler.in_message:
            # A release within a message: what there is of it is worth nothing.
            raise PeerProtocolError("release within a message", AbortReason.UNEXPECTED_PDU)
        self._release_asked = True
        self._send_ready()

    def ended(self, connection: Connection, error: Exception | None) -> None:
        self._ended = True
        if self._store is not None:
            self._store.discard()
            self._store = None
        self._answers.clear()
        if self._assembler is not None and self._peer is not None:
            self._server.gate.association_ended(self._peer, connection.address)
            self._server.metrics.association_closed()
            if error is not None:
                self._server.log.info("association ended", peer=self._peer.name, reason=str(error))

    # Admission ---------------------------------------------------------------------------------------------

    def _judge(self, connection: Connection, request: AssociateRequest) -> Refusal | None:
        if not request.protocol_version & 1:
            return Refusal(PROTOCOL_VERSION_NOT_SUPPORTED, "protocol_version")
        if request.application_context != APPLICATION_CONTEXT:
            return Refusal(APPLICATION_CONTEXT_NOT_SUPPORTED, "application_context")
        listener = self._server.listener
        found = self._server.gate.judge(listener, connection.address, request)
        if isinstance(found, Refusal):
            return found
        self._peer = found
        self._origin = Origin(
            listener=listener.name,
            peer=found.name,
            calling_ae=request.calling_ae,
            called_ae=request.called_ae,
            address=connection.address,
        )
        return None

    def _supports(self, abstract_syntax: str) -> bool:
        peer = self._peer
        if abstract_syntax == VERIFICATION:
            return peer is not None and peer.echo
        return is_storage_class(abstract_syntax)

    # Messages ----------------------------------------------------------------------------------------------

    def _command(self, connection: Connection, item: CommandReceived) -> None:
        command = item.command
        if command.is_response or command.field == CommandField.C_CANCEL_RQ:
            # Unsolicited: nothing of ours waits for it.
            self._skip = command.has_data_set
            return
        place = Answer()
        self._answers.append(place)
        connection.core.answers_due += 1
        if len(self._answers) > PIPELINE_LIMIT:
            connection.pause_reading()
        if command.field == CommandField.C_STORE_RQ:
            self._begin_store(connection, item.context_id, command, place)
            return
        status = Status.UNRECOGNIZED_OPERATION
        comment = "operation not supported"
        if command.field == CommandField.C_ECHO_RQ:
            status, comment = Status.SUCCESS, ""
        self._skip = command.has_data_set
        self.respond(item.context_id, command, place, status, comment)

    def _begin_store(self, connection: Connection, context_id: int, command: Command, place: Answer) -> None:
        abstract, transfer = self._contexts[context_id]
        if self._origin is None or self._peer is None:
            raise PeerProtocolError("C-STORE before the association was accepted", AbortReason.UNEXPECTED_PDU)

        def done(status: int, comment: str) -> None:
            self._server.metrics.response(status, connection.loop.time() - message.finished_at)
            if status == Status.SUCCESS:
                self._server.metrics.received(self._peer.name if self._peer is not None else "unknown", message.size)
            self.respond(context_id, command, place, status, comment)

        message = StoreMessage(
            self.intake,
            command,
            origin=self._origin,
            abstract_syntax=abstract,
            transfer_syntax=transfer,
            may_store=self._peer.store,
            done=done,
            resume=connection.resume_reading,
            clock=connection.loop.time,
        )
        if command.has_data_set:
            self._store = message
        else:
            message.finish()

    def respond(self, context_id: int, command: Command, place: Answer, status: int, comment: str) -> None:
        """Fill a place in the order of answers; whatever is ready from the front is sent."""
        connection = self._connection
        if self._ended or connection is None:
            return
        place.buffers = frame_message(
            context_id, encode_response(command, status, comment), (), 0, connection.core.peer_max_length
        )
        self._send_ready()

    def _send_ready(self) -> None:
        connection = self._connection
        if connection is None or self._ended:
            return
        answers = self._answers
        was_full = len(answers) > PIPELINE_LIMIT
        now = connection.loop.time()
        sent = False
        while answers and answers[0].buffers is not None and not self._skip:
            connection.core.send_pdata(answers.popleft().buffers or (), now)
            connection.core.answers_due -= 1
            sent = True
        if was_full and len(answers) <= PIPELINE_LIMIT:
            connection.resume_reading()
        if self._release_asked and not answers:
            self._release_asked = False
            connection.release_response()
        elif sent:
            connection.flush()
