"""An association core wearing asyncio: every timer, transport call and back-pressure decision of one connection is
here.

Both roles. What holds, whatever happens:

1. Every entry from the outside (bytes, timer, end of the transport) is one *step*: the core's events are handled, then
   what it wants to send is written once and the one timer is looked at. No exception leaves a step.
2. ``AssociationUser.ended`` is called exactly once, and the transport is always closed some time after it: at once,
   when the peer closes, or when the ARTIM timer says so. After an A-ABORT or A-ASSOCIATE-RJ of ours the rest of what
   the peer sends is still read: closing over unread bytes makes the kernel send RST, which can destroy the last PDU on
   its way.
3. Incoming bytes land in one buffer that all connections of a loop share, or, of a data set that is kept in memory,
   where they are kept. Reading and handling are one synchronous step, so an idle association costs no buffer.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from enum import IntEnum
from typing import Protocol

from router._fastpdu import DataFragment, DataTaken
from router._wire import write
from router.errors import AssociationAborted, AssociationRejected, PeerProtocolError, fault_location
from router.net import tuning
from router.net.trickle import LowWater
from router.net.turns import turns
from router.ports import Buffer, Log
from router.ul.association import (
    STA6,
    Aborted,
    Association,
    AssociationAccepted,
    AssociationEvent,
    AssociationRequested,
    Rejected,
    Released,
    ReleaseRequested,
    TransportLost,
)
from router.ul.pdus import AssociateAccept, AssociateRequest
from router.ul.state import State

READ_SIZE = 256 << 10
"""Bytes of the shared receive buffer: two PDUs of the size we announce. Beyond it nothing is gained, and it should stay
in the cache."""
FIRST_READ = 64 << 10
"""Bytes that are read at the beginning of a message: small ones whole. The rest of a larger one goes past the shared
buffer."""
GLANCE = 512
"""Bytes that the event loop reads of what is pulled behind them."""
PULL_MOST = 512 << 10
"""Bytes that are pulled in one step."""
FULL_READS = 3
"""Reads that filled their buffer in one turn of the loop; then others have theirs."""
WRITE_HIGH = 1 << 20
"""Unwritten bytes at which a streaming sender rests."""
CLOSE_GRACE = 2.0
"""Seconds that a closing transport may take to write what is left; a peer that does not read must not keep the
socket."""

_per_thread = threading.local()


def _shared_views() -> tuple[memoryview, memoryview, memoryview]:
    """The receive buffer of the loop that runs in this thread: whole, for a first read, for a glance."""
    views: tuple[memoryview, memoryview, memoryview] | None = getattr(_per_thread, "views", None)
    if views is None:
        view = memoryview(bytearray(READ_SIZE))
        views = _per_thread.views = (view, view[:FIRST_READ], view[:GLANCE])
    return views


class Hold(IntEnum):
    """Why the peer rightly waits for us: one bit each (plain integers, as this is asked per message)."""

    OWING = 1
    """It awaits an answer; we go on reading."""
    CONGESTED = 2
    """We do not read: too much is in memory."""
    UNWRITTEN = 4
    """We do not read: it does not take our answers."""
    UNANSWERED = 8
    """We do not read: too many of its requests are unanswered."""
    OTHERS_TURN = 16
    """We do not read, until the next turn of the loop."""


_NOT_READING = Hold.CONGESTED | Hold.UNWRITTEN | Hold.UNANSWERED | Hold.OTHERS_TURN
_EVERY_HOLD = _NOT_READING | Hold.OWING


class AssociationUser(Protocol):
    """Who sits on top of an established association: an acceptor's services, or a storage SCU. All calls come on the
    loop."""

    def fragment(self, fragment: DataFragment) -> None:
        """The next fragment. May raise PeerProtocolError: the association is then aborted with its reason."""

    def release_requested(self) -> None:
        """Call ``Connection.release_response()`` when nothing is left to answer. May raise PeerProtocolError."""

    def ended(self, error: Exception | None) -> None:
        """Exactly once, whatever happened; ``error`` is None after an orderly release."""


class Connection(asyncio.BufferedProtocol):
    """One transport and its association. Not made directly: see ``dialer.associate`` and
    ``listener.ListeningServer``."""

    __slots__ = (
        "_drained",
        "_ended",
        "_first",
        "_full_reads",
        "_glance",
        "_holds",
        "_in_step",
        "_kill",
        "_low_water",
        "_socket",
        "_timer",
        "_turn",
        "_turns",
        "_view",
        "_writable",
        "address",
        "closed",
        "core",
        "error",
        "log",
        "loop",
        "mid_send",
        "transport",
        "user",
    )

    def __init__(self, core: Association, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self.core = core
        self.user: AssociationUser | None = None
        """May be set at any time; who comes after the end looks at ``ended`` and ``error``."""
        self.log = log
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.address = ""
        """IP address of the peer."""
        self.error: Exception | None = None
        """How the association ended; None while it lasts and after an orderly release."""
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the transport is closed; never raises."""
        self.mid_send = False
        """A P-DATA-TF of ours is half written: an A-ABORT would be read as its data, so an abort closes without one."""
        self._view, self._first, self._glance = _shared_views()
        self._socket: socket.socket | None = None
        self._low_water = LowWater()
        self._turns = turns()
        self._turn = self._full_reads = 0
        self._timer: asyncio.TimerHandle | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._ended = False
        self._in_step = False
        self._writable = True
        self._holds = 0
        self._drained: list[asyncio.Future[None]] = []

    # asyncio.BufferedProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.address = address_of(transport)
        self._socket = tuning.plain_socket(transport)
        if self._socket is not None:
            tuning.prepare(self._socket)
        self._finish_step()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._socket is None:
            return self._view
        core = self.core
        if core.reader.pulls:
            return self._glance
        return self._view if core.message_open else self._first

    def buffer_updated(self, nbytes: int) -> None:
        core = self.core
        now = self.loop.time()
        self._step(core.receive(self._view[:nbytes], now))
        if nbytes >= FIRST_READ or nbytes == GLANCE:
            self._count_full_read()
        sock = self._socket
        if sock is None:
            return
        reader = core.reader
        if reader.pulls and nbytes >= GLANCE and not self._holds & _NOT_READING:
            self._step(core.pull(sock.fileno(), PULL_MOST, now))
        missing = reader.missing
        if missing or self._low_water.small:
            self._low_water.after_read(sock, nbytes, missing)
        # A peer that has more to say may wait for an acknowledgement first. A full buffer means that more is there
        # already, and behind a whole message it is our turn: what we send next acknowledges it.
        if (missing or core.message_open) and nbytes < READ_SIZE and not core.should_close:
            tuning.acknowledge_at_once(sock)

    def _count_full_read(self) -> None:
        turn = self._turns.number(self.loop)
        if turn != self._turn:
            self._turn, self._full_reads = turn, 0
        self._full_reads += 1
        if self._full_reads >= FULL_READS and not self._ended:
            self.hold(Hold.OTHERS_TURN)
            self.loop.call_soon(self.unhold, Hold.OTHERS_TURN)

    def eof_received(self) -> bool:
        return False  # in DICOM nothing can follow: close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self._step(self.core.transport_closed(self.loop.time()))
        self._end(AssociationAborted("connection lost"))
        self.transport = None
        if self._socket is not None:
            self._socket.detach()  # the transport closes it
            self._socket = None
        for handle in (self._timer, self._kill):
            if handle is not None:
                handle.cancel()
        self._timer = self._kill = None
        self._wake_writers()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._wake_writers()

    # What users call ---------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Messages may be sent and answered."""
        return not self._ended and self.transport is not None

    @property
    def ended(self) -> bool:
        """The association is over (the transport may still be closing)."""
        return self._ended

    @property
    def holding(self) -> bool:
        """The peer waits for us, for one reason or another."""
        return self._holds != 0

    def send(self, buffers: list[Buffer]) -> None:
        """Send framed P-DATA-TFs, in one write; within a step they leave at its end.

        The buffers are kept by reference until they are written and must not change.
        """
        core, transport = self.core, self.transport
        if self._in_step or core.out or core.should_close or transport is None or transport.is_closing():
            core.send_pdata(buffers, self.loop.time())
            self._flush()
            return
        core.sends_data(self.loop.time())
        self._write(transport, buffers)
        if not core.our_turn:
            self._arm()

    async def drain(self) -> None:
        """Wait until the transport takes more. Cancelling it is safe. Raises AssociationAborted when the association is
        over."""
        if not self._writable and self.transport is not None:
            future = self.loop.create_future()
            self._drained.append(future)
            await future
        if self._ended or self.transport is None:
            raise self.error or AssociationAborted("connection lost")

    def hold(self, reason: int) -> None:
        """From now on the peer rightly waits for us; idempotent per reason."""
        before = self._holds
        self._holds = holds = before | reason
        self.core.our_turn = True
        if holds & _NOT_READING and not before & _NOT_READING:
            transport = self.transport
            if transport is not None and not transport.is_closing():
                transport.pause_reading()

    def unhold(self, reason: int) -> None:
        before = self._holds
        if not before & reason:
            return
        self._holds = holds = before & ~reason
        if not holds:
            self.core.peer_turn(self.loop.time())
            if not self._in_step:
                self._arm()
        if before & _NOT_READING and not holds & _NOT_READING:
            transport = self.transport
            if transport is not None and not transport.is_closing():
                transport.resume_reading()

    def release(self) -> None:
        """Ask the peer to end the association; in another state than established: abort."""
        if self.core.state is State.STA6:
            self.core.release(self.loop.time())
            self._flush()
        else:
            self.abort()

    def release_response(self) -> None:
        """Answer the peer's A-RELEASE-RQ. The association has then ended in order."""
        if self.core.state is not State.STA8:
            return
        self.core.release_response(self.loop.time())
        self._end(None)
        self._flush()

    def abort(self, source: int = 0, reason: int = 0, *, message: str = "aborted by us") -> None:
        """A-ABORT, then close when the peer has; harmless when it is over already."""
        if self.transport is None or self._ended:
            return
        self.core.abort(self.loop.time(), source, reason)
        self._end(AssociationAborted(message, source, reason))
        self._flush()

    def close_now(self) -> None:
        """Close without a word: what was refused unheard, what no longer reads, what is half sent."""
        if self.transport is not None:
            self.transport.abort()

    # Steps -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._in_step:
            self._finish_step()

    def _step(self, events: Iterator[AssociationEvent]) -> None:
        """Handle the events of one step of the core."""
        self._in_step = True
        user = self.user
        try:
            for event in events:
                if type(event) is DataFragment:
                    if user is not None and not self._ended:
                        user.fragment(event)
                elif type(event) is DataTaken:
                    self.core.told(event)
                else:
                    self._handle(event)
                    user = self.user
        except PeerProtocolError as error:
            self.core.skip()
            for event in self.core.fail(error, self.loop.time()):
                self._handle(event)
        except Exception as error:
            # A fault of ours frees the socket and the slot like any other ending.
            self.core.skip()
            self.log.error("association aborted by a fault of ours", fault=fault_location(error))
            self.core.abort(self.loop.time(), 2, 0)
            self._end(error)
        finally:
            self._in_step = False
        self._finish_step()

    def _handle(self, event: AssociationEvent) -> None:
        if isinstance(event, AssociationRequested):
            self._requested(event.request)
        elif isinstance(event, AssociationAccepted):
            self._established(event.accept)
        elif isinstance(event, ReleaseRequested):
            self._release_requested()
        elif isinstance(event, Released):
            if self.core.state is State.STA12:
                self.core.release_response(self.loop.time())
            self._end(None)
        elif isinstance(event, Rejected):
            reject = event.reject
            self._end(AssociationRejected(reject.result, reject.source, reject.reason))
        elif isinstance(event, Aborted):
            self._end(AssociationAborted(event.message, event.source, event.reason))
        elif isinstance(event, TransportLost):
            self._end(AssociationAborted("connection lost"))

    def _requested(self, request: AssociateRequest) -> None:
        """Acceptor: decide, by ``core.accept`` or ``core.reject``, before returning."""
        raise NotImplementedError

    def _established(self, accept: AssociateAccept) -> None:
        """Requestor: the peer accepted."""
        raise NotImplementedError

    def _release_requested(self) -> None:
        state = self.core.state
        if state is State.STA9:
            # Both sides asked (PS3.8 §7.2.2): the requestor answers at once and awaits the peer's answer, ...
            self.core.release_response(self.loop.time())
        elif state is State.STA8 and self.user is not None:
            self.user.release_requested()
        # ... the acceptor (Sta10) answers when the peer's answer is there.

    def _finish_step(self) -> None:
        core = self.core
        if core.out:
            out, transport = core.data_to_send(), self.transport
            if transport is not None and not transport.is_closing():
                if self.mid_send and core.state is State.STA13:
                    transport.abort()
                    return
                self._write(transport, out)
        if core.should_close:
            self._close()
        elif not core.our_turn or core.state is not STA6:
            self._arm()

    def _close(self) -> None:
        transport = self.transport
        if transport is not None and self._kill is None:
            transport.close()
            self._kill = self.loop.call_later(CLOSE_GRACE, transport.abort)

    def _write(self, transport: asyncio.Transport, out: list[Buffer]) -> None:
        """Straight to the socket while nothing is queued before it: the transport would copy the bytes to the kernel
        while it holds the interpreter lock, which the disk's threads need."""
        if self._socket is not None and not transport.get_write_buffer_size():
            out = write(self._socket.fileno(), out)
            if not out:
                return
        transport.writelines(out)  # full, or broken: the transport finds out which

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self.error = error
        # What the peer still sends is read and dropped, or its closing would not be noticed.
        self.unhold(_EVERY_HOLD)
        user = self.user
        if user is not None:
            try:
                user.ended(error)
            except Exception as fault:
                self.log.error("fault at the end of an association", fault=fault_location(fault))

    def _wake_writers(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # The one timer -----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Lazily: a handle that fires too early looks again, so that no read has to cancel one and make another."""
        deadline = self.core.next_deadline()
        if deadline is None or self.transport is None:
            return
        timer = self._timer
        if timer is not None:
            if timer.when() <= deadline:
                return
            timer.cancel()
        self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._step(self.core.on_timer(self.loop.time()))


def address_of(transport: asyncio.BaseTransport) -> str:
    """The peer's IP address; empty when it has gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
