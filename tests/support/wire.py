"""Both ends of an association as plain sockets, so that a test says which bytes leave when, and sees which arrive.

Their P-DATA-TFs are made and read by the plain-Python reference, not by the code under test.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from router import IMPLEMENTATION_CLASS_UID
from router.dimse.command import encode_c_store_rq, encode_response, parse_command
from router.services.storage_scu import propose
from router.ul.pdus import (
    AssociateAccept,
    ContextResult,
    UserInformation,
    decode_request,
    encode_accept,
    encode_request,
)
from tests.support.plain_pdu import fragments, p_data

ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])
MAX = 65536


def read_pdu(connection: socket.socket) -> tuple[int, bytes] | None:
    """(type, body); None: the peer has closed."""
    head = _exactly(connection, 6)
    if head is None:
        return None
    body = _exactly(connection, struct.unpack(">I", head[2:])[0])
    return None if body is None else (head[0], body)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


class WireSender:
    """One association to the router, one object at a time, fragment by fragment; over TLS where it gets a context."""

    def __init__(
        self, port: int, pair: tuple[str, str], *, calling: str = "SENDER", tls: ssl.SSLContext | None = None
    ) -> None:
        self._sop_class = pair[0]
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        try:
            if tls is not None:
                self.connection = tls.wrap_socket(self.connection, server_hostname="127.0.0.1")
            self.connection.sendall(encode_request(propose([pair], called_ae="ROUTER", calling_ae=calling)))
            answer = read_pdu(self.connection)
            assert answer is not None
            assert answer[0] == 2, "the association was not accepted"
        except BaseException:
            self.close()
            raise
        self._left: list[bytes] = []

    def begin(self, sop_instance: str, data: bytes) -> None:
        """Send the command; the fragments of the data set wait."""
        command = encode_c_store_rq(1, self._sop_class, sop_instance)
        pieces = fragments(data, MAX)
        self.connection.sendall(p_data(1, 3, command))
        self._left = [p_data(1, 2 if number == len(pieces) else 0, piece) for number, piece in enumerate(pieces, 1)]

    def stream(self, sop_instance: str, pieces: Iterable[bytes]) -> int:
        """An object that nobody has in memory, in pieces of at most ``MAX - 6`` bytes; gives the status."""
        self.connection.sendall(p_data(1, 3, encode_c_store_rq(1, self._sop_class, sop_instance)))
        waiting = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer says why
            for piece in pieces:
                if waiting:
                    self.connection.sendall(p_data(1, 0, waiting))
                waiting = piece
            self.connection.sendall(p_data(1, 2, waiting))
        return self.status()

    def send(self, share: float = 1.0) -> None:
        """This share of the fragments that are left; less than all: never the last."""
        count = len(self._left) if share >= 1 else int((len(self._left) - 1) * share)
        for piece in self._left[:count]:
            self.connection.sendall(piece)
        del self._left[:count]

    def send_all_but_last(self) -> None:
        for piece in self._left[:-1]:
            self.connection.sendall(piece)
        del self._left[:-1]

    def status(self) -> int:
        answer = read_pdu(self.connection)
        assert answer is not None, "no answer"
        status = parse_command(answer[1][6:]).status
        assert status is not None
        return status

    def store(self, sop_instance: str, data: bytes) -> int:
        self.begin(sop_instance, data)
        self.send()
        return self.status()

    def abort(self) -> None:
        self.connection.sendall(ABORT)
        self.close()

    def close(self) -> None:
        self.connection.close()


class WireSink:
    """A destination that counts what arrives while it arrives.

    Args:
        before_read: Called with ``arriving`` before a fragment counts; may block, then nothing more is read.
        keep: Keep the data sets in ``whole``; else only their SHA-256 in ``digests``.
    """

    def __init__(
        self, before_read: Callable[[int], None] = lambda size: None, port: int = 0, *, keep: bool = True
    ) -> None:
        self._before_read = before_read
        self._keep = keep
        self.digests: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.arriving = 0
        """Bytes of data sets, whole or not."""
        self.begun = 0
        """Commands."""
        self.whole: list[bytes] = []
        self.aborted = 0
        """Associations that ended within an object."""
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        data, command, digest = bytearray(), b"", hashlib.sha256()
        try:
            while (pdu := read_pdu(connection)) is not None:
                kind, body = pdu
                if kind == 1:
                    connection.sendall(encode_accept(_accept_all(body)))
                elif kind == 5:
                    connection.sendall(bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                    return
                elif kind != 4:
                    return
                else:
                    length, context, control = struct.unpack(">IBB", body[:6])
                    assert length == len(body) - 4
                    if control & 1:
                        command = body[6:]
                        self.begun += 1
                        continue
                    self._before_read(self.arriving)
                    if self._keep:
                        data += body[6:]
                    else:
                        digest.update(memoryview(body)[6:])
                    self.arriving += len(body) - 6
                    if control & 2:
                        self.whole.append(bytes(data))
                        self.digests.append(digest.hexdigest())
                        digest = hashlib.sha256()
                        request = parse_command(command)
                        data.clear()
                        command = b""
                        connection.sendall(p_data(context, 3, encode_response(request, 0)))
        except OSError:
            pass
        finally:
            self.aborted += bool(command)
            connection.close()

    def cut(self) -> None:
        """Reset what is open, and listen no more."""
        self._listening.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # Closing alone does not wake a thread that accepts.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> WireSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _accept_all(body: bytes) -> AssociateAccept:
    request = decode_request(body)
    return AssociateAccept(
        contexts=tuple(ContextResult(item.id, 0, item.transfer_syntaxes[0]) for item in request.contexts),
        user=UserInformation(max_length=MAX, implementation_class_uid=IMPLEMENTATION_CLASS_UID),
        raw_header=request.raw_header,
    )
