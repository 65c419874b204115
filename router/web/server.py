"""Serving the admin application on the router's own event loop.

uvicorn would exit the process when it cannot bind and would take the signals for itself; so we bind, and the signals
stay with the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from router.errors import RouterError
from router.web.local import bind_local

CONNECTIONS = 128
"""Requests at once; more are answered 503."""
CLOSE_GRACE = 2.0
"""Seconds for open requests to end when the server closes."""


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises RouterError that names the address, for example if it is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RouterError(f"admin: {host}:{port}: {error.strerror or error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise RouterError(f"admin: cannot listen on {host}:{port}: {error.strerror or error}") from error
    listening.setblocking(False)
    return listening


class AdminServer:
    """One HTTP server; ``start`` it once, ``close`` it once.

    Args:
        app: As ``create_app`` gives it.
        host: Address to bind; keeping it to loopback is the configuration's business.
        port: 0 lets the system choose; see ``port``.
        path: Of a Unix socket to serve on instead.
    """

    def __init__(self, app: ASGIApp, *, host: str = "", port: int = 0, path: Path | None = None) -> None:
        self._app = app
        self._host = host
        self._wanted_port = port
        self._path = path
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port really bound. Only while it runs."""
        if self._socket is None or self._path is not None:
            raise RouterError("the admin server has no port")
        number: int = self._socket.getsockname()[1]
        return number

    async def start(self) -> None:
        """Bind and serve. Raises RouterError if the address cannot be bound. Cancelling it leaves nothing behind."""
        self._socket = bind(self._host, self._wanted_port) if self._path is None else bind_local(self._path)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=int(CLOSE_GRACE),
            )
        )
        self._task = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[self._socket]), name="admin server"
        )
        serving = asyncio.get_running_loop().create_task(self._server.serving.wait())
        try:
            await asyncio.wait({self._task, serving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            serving.cancel()
        if self._task.done():
            await self._task

    async def close(self) -> None:
        """Stop listening, give open requests ``CLOSE_GRACE`` seconds. Safe to call twice, and before ``start``."""
        server, task, listening = self._server, self._task, self._socket
        self._server = self._task = self._socket = None
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.wait({task}, timeout=CLOSE_GRACE + 1)
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if listening is not None:
            listening.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Without signal handlers, and telling when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()
