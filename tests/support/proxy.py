"""A TCP proxy with bad manners, as a process of its own: what a network or a destination does to a connection.

    python -m tests.support.proxy UPSTREAM_PORT

Prints ``ready PORT``. Each line on its standard input is the manners from now on, as JSON, ``{"to": {...}, "back":
{...}}``: of what goes to the upstream, and of what comes back from it (``Manner``; left out: pass). Answers ``ok`` when
they are in force. Ends when its standard input closes. ``Proxy`` does all this for a test.

Connections that are open change their manners too. One of which bytes were swallowed is reset then: nothing that
follows would make sense.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections import deque
from dataclasses import asdict, dataclass

from tests.support.told import Told

PIECE = 65536
UNDER_WAY = 1 << 20
"""Bytes of one direction that are in the proxy at most; then it reads no more."""


@dataclass(frozen=True)
class Manner:
    """How one direction behaves; seconds and bytes."""

    delay: float = 0.0
    """Each piece is late by this and by up to ``jitter`` more, in order."""
    jitter: float = 0.0
    rate: float = 0.0
    """Bytes a second of each connection; 0: any."""
    swallow: bool = False
    """Everything is read, and nothing of it goes on."""
    stopped: bool = False
    """Nothing is read."""
    reset_after: int = 0
    """Bytes after which both ends of the connection are reset (RST); 0: never."""


PASS = Manner()


class Direction:
    """From one socket to the other: a reader, a writer, and what is between them."""

    def __init__(self, connection: Connection, name: str, source: socket.socket, target: socket.socket) -> None:
        self._connection = connection
        self._name = name
        self._source = source
        self._target = target
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._moved = asyncio.Condition()

    @property
    def manner(self) -> Manner:
        return self._connection.proxy.manners[self._name]

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        passed = 0
        due = 0.0
        while True:
            await self._until_it_reads()
            data = await loop.sock_recv(self._source, PIECE)
            await self._until_it_reads()  # it may have been stopped while this was waited for
            manner = self.manner
            passed += len(data)
            if manner.reset_after and passed >= manner.reset_after:
                raise ConnectionResetError
            if manner.swallow:
                self._connection.swallowed = True
                if not data:
                    return
                continue
            late = manner.delay + random.random() * manner.jitter
            due = max(due, loop.time() + late if late else 0.0)
            async with self._moved:
                await self._moved.wait_for(lambda: self._size < self._room())
                self._pieces.append((due, data))
                self._size += len(data)
                self._moved.notify_all()
            if not data:
                return

    def _room(self) -> float:
        rate = self.manner.rate
        return min(UNDER_WAY, rate) if rate else UNDER_WAY

    async def write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._moved:
                await self._moved.wait_for(lambda: self._pieces)
                due, data = self._pieces[0]
            if (late := due - loop.time()) > 0:
                await asyncio.sleep(late)
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            left = memoryview(data)
            while left:
                rate = self.manner.rate
                step = max(1, int(rate / 20)) if rate else len(left)
                await loop.sock_sendall(self._target, left[:step])
                left = left[step:]
                if rate:
                    await asyncio.sleep(step / rate)
            async with self._moved:
                self._pieces.popleft()
                self._size -= len(data)
                self._moved.notify_all()

    async def _until_it_reads(self) -> None:
        while self.manner.stopped:
            await self._connection.proxy.changed.wait()


class Connection:
    def __init__(self, proxy: Server, near: socket.socket) -> None:
        self.proxy = proxy
        self.swallowed = False
        self._near = near
        self._far = socket.socket()
        self._far.setblocking(False)
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        near, far = self._near, self._far
        try:
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self.proxy.upstream))
            directions = Direction(self, "to", near, far), Direction(self, "back", far, near)
            async with asyncio.TaskGroup() as group:
                for direction in directions:
                    group.create_task(direction.read())
                    group.create_task(direction.write())
        except* OSError:
            self._linger_not()
        finally:
            for end in (near, far):
                end.close()
            self.proxy.connections.discard(self)

    def _linger_not(self) -> None:
        """Closing sends RST, and what has not been sent is lost."""
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def reset(self) -> None:
        self._linger_not()
        self.task.cancel()


class Server:
    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.manners = {"to": PASS, "back": PASS}
        self.changed = asyncio.Event()
        self.connections: set[Connection] = set()
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listening.setblocking(False)

    async def accept(self) -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(self.listening)
            self.connections.add(Connection(self, near))

    def change(self, manners: dict[str, dict[str, float]]) -> None:
        self.manners = {name: Manner(**manners.get(name, {})) for name in ("to", "back")}  # type: ignore[arg-type]
        for connection in list(self.connections):
            if connection.swallowed:
                connection.reset()
        self.changed.set()
        self.changed = asyncio.Event()


async def main(upstream: int) -> None:
    server = Server(upstream)
    accepting = asyncio.create_task(server.accept())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(f"ready {server.listening.getsockname()[1]}", flush=True)
    while line := await commands.readline():
        server.change(json.loads(line))
        print("ok", flush=True)
    accepting.cancel()
    for connection in list(server.connections):
        connection.reset()


class Proxy(Told):
    """A running proxy in front of ``upstream``; leave the ``with`` block and it has ended."""

    def __init__(self, upstream: int) -> None:
        super().__init__("tests.support.proxy", upstream)
        self.port = self.ready()

    def behave(self, *, to: Manner = PASS, back: Manner = PASS) -> None:
        """These manners are in force when it returns."""
        self.tell(json.dumps({"to": asdict(to), "back": asdict(back)}))

    def heal(self) -> None:
        self.behave()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
