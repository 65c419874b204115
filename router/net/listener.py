"""Listening sockets: accepts transports, gives each an association core and somebody to serve it, and drains at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.errors import RouterError
from router.model import Limits, Listener
from router.net.admission import Gate
from router.net.connection import AssociationUser, Connection
from router.ports import ListenerMetrics, Log
from router.ul.association import Association, AssociationSettings, Role

BACKLOG = 1024
DRAIN_IDLE = 1.0
"""Seconds without a message after which a drained association is closed."""


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
    """A connection that a listener accepted; counts as a handshake until its association is answered."""

    def __init__(self, server: ListeningServer, core: Association, user: AssociationUser) -> None:
        super().__init__(core, user, server.log, loop=server.loop)
        self._server = server
        self._handshaking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        label = server.gate.socket_refusal(server.listener, address)
        if label is not None:
            server.metrics.rejected(label)
            self._end(None)
            transport.abort()  # type: ignore[attr-defined]
            self.closed.set_result(None)
            return
        server.gate.handshake_began(address)
        self._handshaking = True
        server.connections.add(self)
        super().connection_made(transport)

    def buffer_updated(self, nbytes: int) -> None:
        before = self.core.buffered
        super().buffer_updated(nbytes)
        if self._handshaking:
            server = self._server
            server.handshake_memory += self.core.buffered - before
            if server.handshake_memory > server.limits.handshake_memory:
                server.metrics.rejected("handshake_memory")
                self.close_now()

    def handshake_over(self) -> None:
        """The A-ASSOCIATE-RQ has been answered, or there will be none."""
        if self._handshaking:
            self._handshaking = False
            self._server.handshake_memory -= min(self._server.handshake_memory, self.core.buffered)
            self._server.gate.handshake_ended(self.address)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.handshake_over()
        self._server.connections.discard(self)


class ListeningServer:
    """One ``[[listen]]``.

    Args:
        user: Makes the one who serves a new association.
    """

    def __init__(
        self,
        listener: Listener,
        limits: Limits,
        gate: Gate,
        user: Callable[[ListeningServer], AssociationUser],
        *,
        metrics: ListenerMetrics,
        log: Log,
    ) -> None:
        self.listener = listener
        self.limits = limits
        self.gate = gate
        self.metrics = metrics
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.connections: set[AcceptedConnection] = set()
        self.handshake_memory = 0
        self.port = listener.port
        """The real one, also where the configuration says 0."""
        self._user = user
        self._settings = association_settings(listener, limits)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind and listen. Raises RouterError with what to do when the address cannot be had."""
        listener = self.listener
        try:
            self._server = await self.loop.create_server(
                self._accept, listener.host, listener.port, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise RouterError(
                f"cannot listen on {listener.name}: {reason}; another program may have the port, or it needs privileges"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self) -> AcceptedConnection:
        core = Association(Role.ACCEPTOR, self._settings, self.loop.time())
        return AcceptedConnection(self, core, self._user(self))

    @property
    def listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

    async def close(self, grace: float) -> None:
        """Stop listening, let open associations finish for ``grace`` seconds, then abort what is left."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        deadline = self.loop.time() + grace
        while self.connections and self.loop.time() < deadline:
            for connection in list(self.connections):
                if connection.core.idle_since(self.loop.time()) > DRAIN_IDLE:
                    connection.abort(2, 0)
            await asyncio.wait({connection.closed for connection in self.connections}, timeout=0.1)
        for connection in list(self.connections):
            connection.abort(2, 0)
            connection.close_now()
        if self.connections:
            await asyncio.wait({connection.closed for connection in self.connections}, timeout=2)
