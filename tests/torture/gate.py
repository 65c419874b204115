"""What stands before a destination, counts who calls, and is shut or open."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from contextlib import suppress


class Gate:
    """A port that leads to another one while it is open; shut, it resets every connection, also those that there are.

    Shut at first. ``calls`` are the moments at which somebody connected, of ``time.monotonic()``.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.calls: list[float] = []
        self._open = False
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def open(self) -> None:
        self._open = True

    def shut(self) -> None:
        with self._lock:
            self._open = False
            connections, self._connections = self._connections, []
        for connection in connections:
            _reset(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.calls.append(time.monotonic())
                with self._lock:
                    if self._open:
                        self._lead(connection)
                        continue
                _reset(connection)
                connection.close()

    def _lead(self, connection: socket.socket) -> None:
        behind = socket.create_connection(("127.0.0.1", self._behind), timeout=10)
        self._connections += [connection, behind]
        threading.Thread(target=_carry, args=(connection, behind), daemon=True).start()

    def close(self) -> None:
        self.shut()
        with suppress(OSError):  # closing alone does not wake who accepts
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until either end has had enough."""
    to = {one: other, other: one}
    with one, other, suppress(OSError):
        while True:
            for source in select.select([one, other], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                to[source].sendall(data)
