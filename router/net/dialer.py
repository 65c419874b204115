"""Opening an association to a peer: resolve, connect, negotiate, each with its own time limit."""

from __future__ import annotations

import asyncio

from router.errors import AssociationAborted, DeliveryError
from router.net.connection import AssociationUser, Connection
from router.ports import Log
from router.ul.association import Association, AssociationSettings, Role
from router.ul.pdus import AssociateRequest


async def connect(
    host: str,
    port: int,
    request: AssociateRequest,
    settings: AssociationSettings,
    user: AssociationUser,
    *,
    connect_timeout: float,
    log: Log,
) -> Connection:
    """Open the transport and send the A-ASSOCIATE-RQ; the user hears of the answer.

    The name is resolved each time and its addresses are tried in turn. Cancelling it is safe: the socket is closed.

    Raises:
        DeliveryError: No connection within ``connect_timeout`` seconds; always temporary.
    """
    loop = asyncio.get_running_loop()

    def factory() -> Connection:
        core = Association(Role.REQUESTOR, settings, loop.time(), request)
        return Connection(core, user, log, loop=loop)

    try:
        async with asyncio.timeout(connect_timeout):
            _, connection = await loop.create_connection(factory, host, port)
    except TimeoutError:
        raise DeliveryError("connection timed out") from None
    except OSError as error:
        reason = error.strerror or "name not resolved"
        raise DeliveryError(f"cannot connect: {reason}") from error
    if not isinstance(connection, Connection):
        raise AssociationAborted("connection lost")
    return connection
