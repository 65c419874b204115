"""An association core wearing asyncio: every timer, transport call and socket option of one connection is here.

Both roles. Incoming bytes land in one buffer that all connections of the loop share: reading and handling are one synchronous
step, so an idle association costs no buffer. Outgoing buffers are written together once per step.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Protocol

from router.errors import (
    AssociationAborted,
    AssociationRejected,
    PeerProtocolError,
)
from router.net import tuning
from router.ports import Log
from router.ul.association import (
    Aborted,
    Association,
    AssociationAccepted,
    AssociationEvent,
    AssociationRequested,
    DataFragment,
    Rejected,
    Released,
    ReleaseRequested,
    TransportLost,
)
from router.ul.pdus import AssociateAccept, AssociateRequest
from router.ul.state import State

READ_SIZE = 512 << 10
"""Bytes of the shared receive buffer: about four PDUs of the size we announce."""
WRITE_HIGH = 1 << 20
"""Unwritten bytes at which a streaming sender rests."""

_per_thread = threading.local()


def _shared_view() -> memoryview:
    """The receive buffer of the loop that runs in this thread."""
    view: memoryview | None = getattr(_per_thread, "view", None)
    if view is None:
        view = _per_thread.view = memoryview(bytearray(READ_SIZE))
    return view


class AssociationUser(Protocol):
    """Who sits on top of a connection: the acceptor's services, or a storage SCU. All calls come on the loop."""

    def requested(self, connection: Connection, request: AssociateRequest) -> None:
        """Acceptor: decide, by ``connection.core.accept`` or ``reject``, before returning."""

    def established(self, connection: Connection, accept: AssociateAccept) -> None:
        """Requestor: the peer accepted."""

    def fragment(self, connection: Connection, fragment: DataFragment) -> None:
        """May raise PeerProtocolError: the association is then aborted with its reason."""

    def release_requested(self, connection: Connection) -> None:
        """Call ``connection.release_response()`` when nothing is left to answer."""

    def ended(self, connection: Connection, error: Exception | None) -> None:
        """Exactly once, whatever happened; ``error`` is None after an orderly release."""


class Connection(asyncio.BufferedProtocol):
    """One transport and its association.

    Args:
        core: Freshly made, in the state before the transport is open.
        closed: Called once when the transport is gone and the slot is free.
    """

    def __init__(self, core: Association, user: AssociationUser, log: Log, *, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.user = user
        self.log = log
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.address = ""
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the transport is closed; never raises."""
        self._view = _shared_view()
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._in_step = False
        self._writable = True
        self._drained: list[asyncio.Future[None]] = []

    # asyncio.BufferedProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None:
            tuning.prepare(self._socket)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[union-attr]
        if self.core.state is State.STA4:
            self.core.connected(self.loop.time())
        self._finish_step()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._step(self.core.receive, self._view[:nbytes])
        if self._socket is not None:
            tuning.acknowledge_at_once(self._socket)

    def eof_received(self) -> bool:
        return False  # nothing can follow in DICOM: close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self._step(self.core.transport_closed)
        self._end(None if self.core.state is State.STA1 and exc is None else AssociationAborted("connection lost"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        self.transport = None
        self._socket = None
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # What users call ---------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Messages may be sent."""
        return self.core.state is State.STA6 and not self._ended and self.transport is not None

    @property
    def writable(self) -> bool:
        return self._writable

    async def drain(self) -> None:
        """Wait until the transport takes more. Cancelling it is safe. Raises AssociationAborted if the connection is gone."""
        if not self._writable and self.transport is not None:
            future = self.loop.create_future()
            self._drained.append(future)
            await future
        if self.transport is None:
            raise AssociationAborted("connection lost")

    def flush(self) -> None:
        """Write what the core wants to send; a no-op within a step, which flushes at its end."""
        if not self._in_step:
            self._finish_step()

    def release(self) -> None:
        if self.core.state is State.STA6:
            self.core.release(self.loop.time())
            self.flush()
        else:
            self.abort()

    def release_response(self) -> None:
        self.core.release_response(self.loop.time())
        self.flush()

    def abort(self, source: int = 0, reason: int = 0) -> None:
        """A-ABORT and close; harmless when it is over already."""
        if self.transport is None:
            return
        self.core.abort(self.loop.time(), source, reason)
        self._end(AssociationAborted("aborted by us", source, reason))
        self.flush()

    def close_now(self) -> None:
        """Close without a word (refused before the association began)."""
        if self.transport is not None:
            self.transport.abort()

    def pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and self.transport.is_reading():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    # Steps: every entry from the outside goes through here --------------------------------------------------

    def _step(self, generator, *arguments) -> None:  # type: ignore[no-untyped-def]
        """Run one of the core's generators and handle its events; no exception leaves."""
        core = self.core
        self._in_step = True
        try:
            for event in generator(*arguments, self.loop.time()):
                if type(event) is DataFragment:
                    self.user.fragment(self, event)
                else:
                    self._handle(event)
        except PeerProtocolError as error:
            for event in core.fail(error, self.loop.time()):
                self._handle(event)
        except Exception as error:
            # A fault of ours must free the socket and the slot like any other ending.
            self.log.error("association failed by a fault of ours", error=type(error).__name__, exc_info=True)
            core.abort(self.loop.time(), 2, 0)
            self._end(error)
        finally:
            self._in_step = False
        self._finish_step()

    def _handle(self, event: AssociationEvent) -> None:
        if isinstance(event, AssociationRequested):
            self.user.requested(self, event.request)
        elif isinstance(event, AssociationAccepted):
            self.user.established(self, event.accept)
        elif isinstance(event, Rejected):
            reject = event.reject
            self._end(AssociationRejected(reject.result, reject.source, reject.reason))
        elif isinstance(event, ReleaseRequested):
            if self.core.state in (State.STA9, State.STA10):
                self._collision()
            else:
                self.user.release_requested(self)
        elif isinstance(event, Released):
            if self.core.state is State.STA12:
                self.core.release_response(self.loop.time())
            self._end(None)
        elif isinstance(event, Aborted):
            self._end(AssociationAborted(event.message, event.source, event.reason))
        elif isinstance(event, TransportLost):
            self._end(AssociationAborted("connection lost"))

    def _collision(self) -> None:
        """Both sides asked to release (PS3.8 §7.2.2): the requestor answers at once, the acceptor after the peer's answer."""
        if self.core.state is State.STA9:
            self.core.release_response(self.loop.time())

    def _finish_step(self) -> None:
        transport = self.transport
        if transport is None:
            return
        out = self.core.data_to_send()
        if out and not transport.is_closing():
            if len(out) == 1:
                transport.write(out[0])
            else:
                transport.writelines(out)
        if self.core.should_close:
            transport.close()
        self._arm()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self.user.ended(self, error)

    # The one timer -----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Lazily: a handle that fires too early looks again, so that no read has to cancel and make one."""
        deadline = self.core.next_deadline()
        if deadline is None or self.transport is None:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._step(self.core.on_timer)


