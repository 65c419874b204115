"""Listening sockets: take transports in, give each an association core and somebody to serve it, and drain at the
end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from router.errors import AssociationAborted, RouterError, TlsFailure
from router.model import Limits, Listener, Peer
from router.net.admission import BURST_TIMEOUT, CERTIFICATE, Gate, Place, Refusal
from router.net.connection import AssociationUser, Connection, Hold, address_of
from router.net.tls import Credentials, presented
from router.net.tls_transport import HANDSHAKE_RECORD, TlsTransport
from router.ports import ListenerMetrics, Log
from router.ul.association import Association, AssociationSettings, Role
from router.ul.pdus import AssociateAccept, AssociateRequest
from router.ul.state import State

BACKLOG = 1024
ANSWERS_HIGH = 64 << 10
"""Bytes of answers that a peer has not taken, past which we read nothing more from it."""
DRAIN_IDLE = 1.0
"""Seconds without a message after which an association is closed while draining."""

Serve = Callable[["AcceptedConnection", AssociateRequest, Peer], tuple[AssociateAccept, AssociationUser]]
"""Answers the presentation contexts of an admitted association and says who serves it."""


def association_settings(listener: Listener, limits: Limits) -> AssociationSettings:
    return AssociationSettings(
        max_pdu=listener.max_pdu,
        strict_pdu_length=limits.strict_pdu_length,
        associate_pdu=limits.associate_pdu,
        handshake_timeout=limits.handshake_timeout,
        artim_timeout=limits.artim_timeout,
        release_timeout=limits.release_timeout,
        idle_timeout=limits.idle_timeout,
        minimum_rate=limits.minimum_rate,
        rate_window=limits.rate_window,
        presentation_contexts=limits.presentation_contexts,
        transfer_syntaxes=limits.transfer_syntaxes,
    )


class AcceptedConnection(Connection):
    """A connection that a listener accepted. Takes a handshake's place first, then an association's; gives back each
    once."""

    __slots__ = ("_buffered", "_heard", "_peer", "_place", "_refused", "_stuck", "server")

    def __init__(self, server: ListeningServer) -> None:
        super().__init__(Association(Role.ACCEPTOR, server.settings, server.loop.time()), server.log, server.loop)
        self.server = server
        self._place: Place | None = None
        self._peer: Peer | None = None
        self._buffered = 0
        self._heard = False
        self._refused = False
        self._stuck: asyncio.TimerHandle | None = None

    # Transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self.server
        server.connections.add(self)
        self.transport = transport  # type: ignore[assignment]
        address = address_of(transport)
        if not address:
            # Reset before it was accepted, as probes of load balancers do: nobody is there to be judged.
            self.close_now()
            return
        place = server.gate.enter(server.listener, address, self._give_up_place, server.loop.time())
        if isinstance(place, str):
            server.refused(place, address)
            self.close_now()
            return
        self._place = place
        if place is Place.BURST:
            self.core = Association(Role.ACCEPTOR, server.burst_settings, server.loop.time())
        transport.set_write_buffer_limits(high=ANSWERS_HIGH)  # type: ignore[attr-defined]
        super().connection_made(transport)

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        if self._place is not None:
            if not self._heard:
                self._heard = True
                if not 1 <= self._view[0] <= 7:
                    self._not_dicom()
            if not self._refused and self.core.state is State.STA13 and self.core.request is None:
                self._malformed()
            gate = self.server.gate
            before, self._buffered = self._buffered, self.core.buffered
            gate.handshake_memory += self._buffered - before
            if gate.handshake_memory > gate.limits.handshake_memory:
                self.server.refused("handshake_memory", self.address)
                self.close_now()
        if self._turns.hurried:
            self._turns.heard()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, TlsFailure):
            self.server.refused(exc.label, self.address)
            self.log.warning(
                "security: TLS refused", listener=self.server.listener.name, address=self.address, reason=str(exc)
            )
        super().connection_lost(exc)
        self._handshake_over()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        self.server.connections.discard(self)

    def pause_writing(self) -> None:
        """The peer sends and does not take our answers: stop reading, and do not wait for ever."""
        super().pause_writing()
        self.hold(Hold.UNWRITTEN)
        if self._stuck is None:
            self._stuck = self.loop.call_later(self.core.settings.rate_window, self._on_stuck)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unhold(Hold.UNWRITTEN)
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _on_stuck(self) -> None:
        self._stuck = None
        self.log.warning("peer does not read its answers", address=self.address)
        self.close_now()

    # Association -------------------------------------------------------------------------------------------

    def _requested(self, request: AssociateRequest) -> None:
        server = self.server
        now = self.loop.time()
        certificate = None
        if server.credentials is not None and self.transport is not None:
            certificate = presented(self.transport.get_extra_info("ssl_object"))
        judged = server.gate.judge(server.listener, self.address, request, certificate)
        if isinstance(judged, Refusal):
            server.refused(judged.label, self.address, request.calling_ae)
            if judged.label == CERTIFICATE:
                self.log.warning(
                    "security: AE title of another certificate, or of none",
                    listener=server.listener.name,
                    address=self.address,
                    calling_ae=request.calling_ae,
                    public_key="" if certificate is None else certificate.public_key,
                )
            else:
                self.log.info(
                    "association rejected", address=self.address, calling_ae=request.calling_ae, reason=judged.label
                )
            # The socket keeps its handshake's place until it is closed: a refused peer must not hold sockets for
            # nothing.
            self.core.reject(judged.reject, now)
            self._end(None)
            return
        accept, user = server.serve(self, request, judged)
        self._peer = judged
        server.gate.association_began(judged, self.address)
        server.metrics.association_opened()
        self._handshake_over()
        self.user = user
        self.core.accept(accept, now)
        self.log.info("association accepted", peer=judged.name, address=self.address, calling_ae=request.calling_ae)

    def _on_timer(self) -> None:
        awaited = self.core.state is State.STA2
        super()._on_timer()
        if awaited and self.core.state is not State.STA2 and not self._refused:
            self._refused = True
            self.server.refused("handshake_timeout", self.address)

    def _end(self, error: Exception | None) -> None:
        if self.ended:
            return
        midway = self.holding or self.core.message_open
        super()._end(error)
        peer, self._peer = self._peer, None
        if peer is None:
            return
        self.server.gate.association_ended(peer, self.address)
        self.server.metrics.association_closed()
        if error is None:
            self.log.info("association released", peer=peer.name)
        elif midway or not (isinstance(error, AssociationAborted) and error.source is None):
            self.log.warning("association aborted", peer=peer.name, reason=str(error))
        else:
            # Some modalities close when they have their last answer.
            self.log.info("association closed by the peer without release", peer=peer.name)

    def _not_dicom(self) -> None:
        """The first byte that came begins no PDU (it is still in the buffer)."""
        self._refused = True
        server = self.server
        is_tls = server.credentials is None and self._view[0] == HANDSHAKE_RECORD
        server.refused("tls_on_plain_port" if is_tls else "not_dicom", self.address)
        self.log.warning(
            "the peer speaks TLS, and this listener plain DICOM" if is_tls else "the peer does not speak DICOM",
            listener=server.listener.name,
            address=self.address,
        )

    def _malformed(self) -> None:
        """What came in place of an A-ASSOCIATE-RQ is none; it has been answered A-ABORT."""
        self._refused = True
        server = self.server
        server.refused("malformed", self.address)
        self.log.warning("no A-ASSOCIATE-RQ, or a malformed one", listener=server.listener.name, address=self.address)

    def _handshake_over(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            self.server.gate.handshake_memory -= self._buffered
            self._buffered = 0
            self.server.gate.leave(place, self.address, self._give_up_place)

    def _give_up_place(self) -> None:
        self.server.refused("handshakes", self.address)
        self._handshake_over()
        self.close_now()


class ListeningServer:
    """One ``[[listen]]``.

    Args:
        gate: Shared by all listeners.
        credentials: For TLS; None for plain DICOM.
        shared: Other processes listen on the same port; the system spreads connections among them.
        serve: Answers the contexts of each admitted association.
        alert: Told of all that is refused: (listener, why, address, calling AE title or "").
    """

    def __init__(
        self,
        listener: Listener,
        limits: Limits,
        gate: Gate,
        serve: Serve,
        *,
        metrics: ListenerMetrics,
        log: Log,
        shared: bool = False,
        credentials: Credentials | None = None,
        alert: Callable[[str, str, str, str], None] = lambda listener, reason, address, calling: None,
    ) -> None:
        self.alert = alert
        self.shared = shared
        self.credentials = credentials
        self.listener = listener
        self.gate = gate
        self.serve = serve
        self.metrics = metrics
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.settings = association_settings(listener, limits)
        self.burst_settings = replace(
            self.settings, handshake_timeout=min(BURST_TIMEOUT, self.settings.handshake_timeout)
        )
        self.connections: set[AcceptedConnection] = set()
        self.port = listener.port
        """The real one, also where the configuration says 0."""
        self._server: asyncio.Server | None = None

    def refused(self, reason: str, address: str, calling_ae: str = "") -> None:
        """Somebody was not let in."""
        self.metrics.rejected(reason)
        self.alert(self.listener.name, reason, address, calling_ae)

    async def start(self) -> None:
        """Bind and listen. Raises RouterError, which says what to look at, when the address cannot be had."""
        listener = self.listener
        try:
            self._server = await self.loop.create_server(
                self._accepted,
                listener.host,
                listener.port,
                backlog=BACKLOG,
                reuse_address=True,
                reuse_port=self.shared,
            )
        except OSError as error:
            raise RouterError(
                f"cannot listen on {listener.name}: {error.strerror or type(error).__name__}; "
                "another program may have the port, or it needs privileges"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def _accepted(self) -> AcceptedConnection | TlsTransport:
        connection = AcceptedConnection(self)
        if self.credentials is None:
            return connection
        return TlsTransport(connection, self.credentials, self.loop)

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def drain(self, grace: float) -> None:
        """Let open associations finish for ``grace`` seconds, then abort what is left.

        The listening socket stays open meanwhile, so that new associations hear "come back later" instead of nothing.
        An association without a message under way for ``DRAIN_IDLE`` seconds is aborted: an acceptor has no other way
        to end it.
        """
        self.gate.draining = True
        deadline = self.loop.time() + grace
        while (now := self.loop.time()) < deadline:
            lasting = [connection for connection in self.connections if not connection.ended]
            if not lasting:
                break
            for connection in lasting:
                if connection.core.idle_since(now) > DRAIN_IDLE:
                    connection.abort(2, 0, message="shutting down")
            await asyncio.wait([connection.closed for connection in lasting], timeout=0.1)

    async def close(self, grace: float = 0.0) -> None:
        """``drain``, then close every socket. Cancelling it leaves sockets open."""
        await self.drain(grace)
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in list(self.connections):
            connection.abort(2, 0, message="shutting down")
        # What was written leaves with the next turn of the loop; a peer that does not close is not waited for.
        waiting = [connection.closed for connection in self.connections]
        if waiting:
            await asyncio.wait(waiting, timeout=0.2)
        for connection in list(self.connections):
            connection.close_now()
        waiting = [connection.closed for connection in self.connections]
        if waiting:
            await asyncio.wait(waiting, timeout=2)
