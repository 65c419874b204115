"""One connection's TLS between its socket and its association: a protocol to the one, a transport to the other.

Why not asyncio's own: it tells of a connection when the handshake is over. Here a connection is somebody's from accept
on, so the places of sockets and the one absolute deadline of a handshake hold for those that never finish their TLS.
Beyond that it does what the plain path does, and with little more: the ciphertext lands in one buffer that all
connections of a loop share, the plaintext in that of the association, and what is sent goes straight to the socket
while nothing waits before it. Nothing is encrypted that the socket does not take.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from router.errors import TlsFailure
from router.net import tuning
from router.net.connection import Connection
from router.net.tls import Credentials, failure
from router.net.trickle import LowWater, TlsRecords
from router.ports import Buffer

READ_SIZE = 256 << 10
"""Bytes of the shared buffer of ciphertext."""
WRITE_SIZE = 256 << 10
"""Bytes that are encrypted at once: whole records, of 16 KiB each but the last."""
HANDSHAKE_RECORD = 0x16
"""First byte of every TLS connection (RFC 8446 §5.1)."""

_per_thread = threading.local()


def _shared_view() -> memoryview:
    view: memoryview | None = getattr(_per_thread, "view", None)
    if view is None:
        view = _per_thread.view = memoryview(bytearray(READ_SIZE))
    return view


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """Server side, ``protocol.connection_made`` comes at accept; client side, when the peer is known to be the right
    one, and ``established`` is done then.

    Args:
        host: Of a destination, for the name in its certificate.
    """

    def __init__(
        self,
        protocol: Connection,
        credentials: Credentials,
        loop: asyncio.AbstractEventLoop,
        *,
        host: str = "",
    ) -> None:
        asyncio.Transport.__init__(self)
        self.protocol = protocol
        self.established: asyncio.Future[None] = loop.create_future()
        """Raises TlsFailure, or ConnectionError when the peer went away."""
        self._credentials = credentials
        self._loop = loop
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = credentials.wrap(self._incoming, self._outgoing, host)
        self._server_side = credentials.server_side
        self._raw: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._low_water = LowWater()
        self._records = TlsRecords()
        self._view = _shared_view()
        self._shaken = False
        """The handshake is over."""
        self._made = False
        """The protocol has been told of the connection."""
        self._heard = False
        self._answered = False
        """Something came that could be decrypted: the peer has taken our certificate."""
        self._reading = True
        self._full = False
        """The socket takes no more for now."""
        self._closing = False
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._failure: TlsFailure | None = None

    # Towards the socket ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = transport  # type: ignore[assignment]
        self._socket = tuning.plain_socket(transport)
        if self._socket is not None:
            tuning.prepare(self._socket)
        if self._server_side:
            self._made = True
            self.protocol.connection_made(self)
        else:
            self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing and not self._shaken:
            return
        if not self._heard:
            self._heard = True
            if self._view[0] != HANDSHAKE_RECORD:
                self._fail(TlsFailure("the peer does not speak TLS on this port", "tls_plain_peer"))
                return
        self._incoming.write(self._view[:nbytes])
        if not self._shaken:
            self._shake()
            if self._socket is not None:
                # Behind the handshake nobody looks for the ends of records: a peer that got there is one we know.
                self._records.feed(self._view[:nbytes])
                self._low_water.after_read(self._socket, nbytes, 0 if self._shaken else self._records.missing)
        if self._shaken:
            self._read()
        if nbytes < READ_SIZE and self._socket is not None and not self._closing:
            tuning.acknowledge_at_once(self._socket)

    def eof_received(self) -> bool:
        # Whether the peer took leave of TLS before is of no matter: an association has an ending of its own.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not (self._closing or self._answered or self._server_side) and self._shaken:
            # In TLS 1.3 our side of the handshake is over before the peer has seen our certificate. The alert by which
            # it refuses that is lost where its end of the connection is closed before our request was read.
            self._failure = TlsFailure(
                "the peer closed without a word, as one that refuses our certificate", "tls_refused"
            )
        self._closing = True
        self._raw = None
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._socket is not None:
            self._socket.detach()  # the transport closes it
            self._socket = None
        error = self._failure or exc
        if not self.established.done():
            # By FIN or RST: without this, nobody would know that it took the connection at first.
            self.established.set_exception(
                self._failure or ConnectionResetError("closed by the peer in the TLS handshake")
            )
            self.established.exception()  # nobody may be waiting
        if self._made:
            self.protocol.connection_lost(error)

    def pause_writing(self) -> None:
        if not self._full:
            self._full = True
            if self._made:
                self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        self._encrypt()
        # While nothing is full all that waited has gone to the transport.
        if not self._full and self._made:
            self.protocol.resume_writing()

    # Towards the association -------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls if self._shaken else default
        if name == "sslcontext":
            return self._tls.context
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment]

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing or self._raw is None or self._raw.is_closing()

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        if self._reading and self._raw is not None:
            self._reading = False
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._reading or self._raw is None:
            return
        self._reading = True
        self._raw.resume_reading()
        # What has come already comes first, but not within the call of who resumes.
        self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Those of the socket: ``_waiting`` has something only while it is full."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes + (0 if self._raw is None else self._raw.get_write_buffer_size())

    def write(self, data: Buffer) -> None:
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        if self._closing or not self._shaken:
            return  # before the handshake there is nobody to read it
        for data in list_of_data:
            if size := len(data):
                self._waiting.append(memoryview(data))
                self._waiting_bytes += size
        self._encrypt()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._waiting:
                self._leave()

    def abort(self) -> None:
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    # TLS ---------------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail(failure(error))
            return
        self._flush()
        try:
            if not self._server_side:
                self._credentials.check_peer(self._tls)
        except TlsFailure as error:
            self._fail(error)
            return
        self._shaken = True
        if not self.established.done():
            self.established.set_result(None)
        if not self._made:
            self._made = True
            self.protocol.connection_made(self)

    def _read(self) -> None:
        """Hand on what can be decrypted, in as few pieces as it fits."""
        protocol, tls = self.protocol, self._tls
        more = True
        while more and self._reading and not self._closing:
            view = protocol.get_buffer(-1)
            size, got = len(view), 0
            problem: ssl.SSLError | None = None
            ended = False
            try:
                while got < size:
                    # Into a buffer it gives a number.
                    count = int(tls.read(size - got, view[got:]))
                    if not count:
                        ended = True  # close_notify
                        break
                    got += count
            except ssl.SSLWantReadError:
                more = False
            except ssl.SSLError as error:
                problem = error
            if got:
                self._answered = True
                protocol.buffer_updated(got)
            if problem is not None:
                self._fail(failure(problem))
                return
            if ended:
                self.close()
                return
        self._flush()  # a change of keys is answered

    def _encrypt(self) -> None:
        waiting = self._waiting
        while waiting and not self._full and self._raw is not None:
            pieces, size = [], 0
            while waiting and size < WRITE_SIZE:
                piece = waiting.popleft()
                if len(piece) > WRITE_SIZE - size:
                    waiting.appendleft(piece[WRITE_SIZE - size :])
                    piece = piece[: WRITE_SIZE - size]
                pieces.append(piece)
                size += len(piece)
            self._waiting_bytes -= size
            # Headers of PDUs would be records of their own.
            data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
            try:
                while data:
                    data = data[self._tls.write(data) :]
            except ssl.SSLError as error:
                self._fail(failure(error))
                return
            self._flush()
        if self._closing and not waiting:
            self._leave()

    def _flush(self) -> None:
        """What TLS has to say: straight to the socket while nothing is queued before it (see
        ``connection.Connection``)."""
        raw = self._raw
        if raw is None or not self._outgoing.pending:
            return
        data = self._outgoing.read()
        if self._socket is not None and not raw.get_write_buffer_size() and not raw.is_closing():
            try:
                sent = os.write(self._socket.fileno(), data)
            except OSError:
                sent = 0  # full, or broken: the transport finds out which
            if sent == len(data):
                return
            data = data[sent:]
        raw.write(data)

    def _leave(self) -> None:
        """Say so, and do not wait for an answer."""
        if self._raw is None:
            return
        if self._shaken:
            with suppress(ssl.SSLError):  # it wants the peer's answer
                self._tls.unwrap()
            self._flush()
        self._raw.close()

    def _fail(self, problem: TlsFailure) -> None:
        self._failure = problem
        self._closing = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._flush()  # the alert
        if self._raw is not None:
            self._raw.close()
