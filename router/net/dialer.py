"""Opening an association to a peer: resolve, connect (with TLS, where it is asked for), negotiate, each with its own
time limit."""

from __future__ import annotations

import asyncio
import socket

from router._wire import read
from router.errors import AssociationAborted, DeliveryError, TlsFailure
from router.net.connection import WRITE_HIGH, Connection
from router.net.tls import Credentials
from router.net.tls_transport import TlsTransport
from router.net.turns import turns
from router.ports import Log
from router.ul.association import Association, AssociationSettings, Role
from router.ul.pdus import AssociateAccept, AssociateRequest


class DialedConnection(Connection):
    """A connection of ours; ``answered`` tells how the peer took the A-ASSOCIATE-RQ."""

    __slots__ = ("answered", "request")

    def __init__(
        self, request: AssociateRequest, settings: AssociationSettings, log: Log, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(Association(Role.REQUESTOR, settings, loop.time(), request), log, loop)
        self.request = request
        self.answered: asyncio.Future[AssociateAccept] = loop.create_future()

    @property
    def accept(self) -> AssociateAccept:
        """The A-ASSOCIATE-AC, once established."""
        return self.answered.result()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[attr-defined]
        self.core.connected(self.loop.time())
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, TlsFailure) and not self.answered.done():
            # In TLS 1.3 the peer's word on our certificate comes after the handshake.
            self.answered.set_exception(exc)
            self.answered.exception()
        turns().calm(self)
        super().connection_lost(exc)

    def hurry(self, much_waits: bool) -> None:
        """Look for the peer's answers more often than once in a turn of the loop, or not. With TLS nothing changes."""
        if much_waits and self._socket is not None:
            turns().hurry(self)
        else:
            turns().calm(self)

    def read_now(self) -> None:
        """Take what has come, if anything has; the end of the transport is left to the loop."""
        if self._socket is not None and (size := read(self._socket.fileno(), self.get_buffer(-1))):
            self.buffer_updated(size)

    def _established(self, accept: AssociateAccept) -> None:
        if not self.answered.done():
            self.answered.set_result(accept)

    def _end(self, error: Exception | None) -> None:
        super()._end(error)
        if not self.answered.done():
            self.answered.set_exception(self.error or AssociationAborted("connection lost"))
            self.answered.exception()  # who was cancelled does not look any more

    def _release_requested(self) -> None:
        if self.user is None:
            self.release_response()  # before anybody uses the association
        super()._release_requested()


async def associate(
    host: str,
    port: int,
    request: AssociateRequest,
    settings: AssociationSettings | None = None,
    *,
    connect_timeout: float,
    log: Log,
    credentials: Credentials | None = None,
) -> DialedConnection:
    """Connect and negotiate; gives an established association.

    The name is resolved each time, and its addresses are tried in turn within ``connect_timeout`` seconds in all. The
    wait for the answer is the core's ``acse_timeout``. Cancelling it is safe: nothing stays open.

    Args:
        settings: By default without idle timeout: who keeps an association decides how long.

    Raises:
        TlsFailure: No TLS with this peer.
        DeliveryError: No connection; always temporary.
        AssociationRejected: A-ASSOCIATE-RJ.
        AssociationAborted: A-ABORT, a lost connection, no answer in time, or an answer that cannot be read.
    """
    connection = await _connect(
        host, port, request, settings or AssociationSettings(idle_timeout=None), connect_timeout, log, credentials
    )
    try:
        await connection.answered
    except asyncio.CancelledError:
        connection.close_now()
        raise
    return connection


async def _connect(
    host: str,
    port: int,
    request: AssociateRequest,
    settings: AssociationSettings,
    time_limit: float,
    log: Log,
    credentials: Credentials | None,
) -> DialedConnection:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + time_limit
    try:
        async with asyncio.timeout_at(deadline):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise DeliveryError("name resolution timed out") from None
    except OSError as error:
        raise DeliveryError(f"cannot resolve the host name: {error.strerror}") from error
    # One entry per address, in the resolver's order of preference.
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    problem = DeliveryError("the host name has no address")
    for tried, (family, address) in enumerate(addresses):
        # A silent address must not use up the time of those after it.
        share = (deadline - loop.time()) / (len(addresses) - tried)
        try:
            async with asyncio.timeout(max(share, 0)):
                if credentials is not None:
                    return await _connect_tls(
                        DialedConnection(request, settings, log, loop), credentials, host, address, port, family
                    )
                _, connection = await loop.create_connection(
                    lambda: DialedConnection(request, settings, log, loop), address, port, family=family
                )
            return connection
        except TlsFailure:
            raise  # another address would be the same peer
        except TimeoutError:
            problem = DeliveryError("connection timed out")
        except OSError as error:
            problem = DeliveryError(f"cannot connect: {error.strerror or str(error) or type(error).__name__}")
    raise problem


async def _connect_tls(
    connection: DialedConnection, credentials: Credentials, host: str, address: str, port: int, family: int
) -> DialedConnection:
    loop = connection.loop
    transport, tls = await loop.create_connection(
        lambda: TlsTransport(connection, credentials, loop, host=host), address, port, family=family
    )
    try:
        await tls.established
    except BaseException:
        transport.abort()
        raise
    return connection
