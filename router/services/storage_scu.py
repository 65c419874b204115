"""Storage as SCU (PS3.4 Annex B): sends instances over an established association and waits for their responses.

The data set's bytes leave as they came: framed around slices, never decoded. Several messages may be outstanding where
the peer granted an asynchronous operations window (PS3.7 D.3.3.3). A message that cannot be completed ends the
association: nothing may follow it.

Statuses are handed on as numbers; what they mean for a delivery is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router._fastpdu import DataFragment, MessageFramer, frame_message
from router.dicom.uids import VERIFICATION
from router.dimse.assembler import CommandReceived, MessageAssembler
from router.dimse.command import CommandField, encode_c_echo_rq, encode_c_store_rq
from router.dimse.requestor import Outstanding
from router.dimse.statuses import StatusClass, classify
from router.errors import AssociationAborted, DeliveryError, LocalProtocolError, PeerProtocolError
from router.model import InstanceInfo
from router.net.dialer import DialedConnection
from router.ports import DataSource, Log
from router.ul.negotiation import accepted_contexts
from router.ul.negotiation import propose as propose_contexts
from router.ul.pdus import AssociateRequest, UserInformation

_C_STORE_RQ = int(CommandField.C_STORE_RQ)
_STORED = frozenset({StatusClass.SUCCESS, StatusClass.WARNING})
MAX_WINDOW = 1024
"""Outstanding messages where the peer sets no limit."""


def propose(
    pairs: Iterable[tuple[str, str]],
    *,
    called_ae: str,
    calling_ae: str,
    max_pdu: int = 131072,
    async_operations: int = 1,
) -> AssociateRequest:
    """An A-ASSOCIATE-RQ for (SOP class, transfer syntax) pairs: one presentation context each, the first 128 different
    ones.

    Args:
        async_operations: Messages we want to have outstanding; 1 proposes nothing, which means one.
    """
    return AssociateRequest(
        called_ae=called_ae,
        calling_ae=calling_ae,
        contexts=propose_contexts(pairs),
        user=UserInformation(
            max_length=max_pdu,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
            async_window=(async_operations, 1) if async_operations > 1 else None,
        ),
    )


@dataclass(frozen=True, slots=True)
class StoreResponse:
    status: int
    comment: str = ""
    """Free text of the peer, at most 64 characters: may name a patient, so it is not for logs."""


_SUCCESS = StoreResponse(0x0000)
"""The answer to nearly everything; it is one for all, as nobody can change it."""


class Awaited(Protocol):
    """A ``dimse.requestor.Reply`` or a future."""

    def done(self) -> bool: ...

    def set_result(self, response: StoreResponse, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


class StorageScu:
    """The user of one established association.

    Args:
        response_timeout: Seconds without any progress (a response, or data that the peer took) after which the
        association is
            given up while messages are outstanding.
    """

    def __init__(self, connection: DialedConnection, *, response_timeout: float = 300.0, log: Log) -> None:
        request, accept = connection.request, connection.accept
        usable = accepted_contexts(request, accept)
        self.connection = connection
        self.accepted: dict[tuple[str, str], int] = {pair: context_id for context_id, pair in reversed(usable.items())}
        """(SOP class, transfer syntax) to the id of its accepted presentation context."""
        self.window = _window(request, accept.user.async_window)
        """Messages that may be outstanding."""
        self.closed: asyncio.Future[Exception | None] = connection.loop.create_future()
        """Done when the association is over, with what ended it (None: released); never raises."""
        self.alive = True
        """New messages can be sent."""
        self._loop = connection.loop
        self._log = log
        self._timeout = response_timeout
        self._max_length = connection.core.peer_max_length
        self.outstanding: Outstanding[tuple[Awaited, str]] = Outstanding(self.window)
        """With the SOP Instance UID. Has no ``room`` while something is streamed, and after the end."""
        self._assembler = MessageAssembler(frozenset(usable))
        self._streaming: asyncio.Task[None] | None = None
        self._unsent: Awaited | None = None
        """The response to what is being streamed and has not left to its last fragment."""
        self._awaits_data = False
        """What is being sent still arrives, and we wait for its sender: no fault of this peer."""
        self._progress = 0.0
        self._timer: asyncio.TimerHandle | None = None
        connection.user = self
        if connection.ended:
            self.ended(connection.error)

    # What callers use --------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing is outstanding."""
        return not len(self.outstanding)

    @property
    def room(self) -> int:
        """How many ``store`` calls are possible right now; 0 while a large instance is being sent."""
        return self.outstanding.room

    def store(self, info: InstanceInfo, source: DataSource) -> asyncio.Future[StoreResponse]:
        """Send one instance; the future gives the peer's answer.

        Instances in memory leave in one vectored write. Others are streamed; nothing else can be sent meanwhile. The
        last fragment of a source without a size leaves when its ``chunks`` ends.
        Cancelling the future does not stop the sending: the answer is then dropped.

        The future raises:
            DeliveryError: Nothing was sent: no presentation context was accepted for it.
            AssociationAborted: The association ended first; whether the peer has the instance is unknown.
            SpoolCorrupt, SpoolError: The data could not be read whole; the last fragment was not sent, the association
            is aborted.

        Raises:
            LocalProtocolError: There is no ``room``.
        """
        response: asyncio.Future[StoreResponse] = self._loop.create_future()
        self.begin(info, source, response)
        return response

    def begin(self, info: InstanceInfo, source: DataSource, response: Awaited) -> None:
        """As ``store``; ``response`` gets the answer."""
        context_id = self.accepted.get((info.sop_class, info.transfer_syntax))
        if not self.alive:
            response.set_exception(self.connection.error or AssociationAborted("the association is over"))
            return
        if context_id is None:
            response.set_exception(DeliveryError("no presentation context accepted for this instance", temporary=False))
            return
        if self._streaming is not None:
            raise LocalProtocolError("a message is still being sent")
        if 0 < self._max_length < 8:
            response.set_exception(DeliveryError("the peer's maximum length leaves no room for data"))
            self.connection.abort()
            return
        outstanding = self.outstanding
        if not outstanding:
            self._progress = self._loop.time()
        message_id = outstanding.begin(context_id, _C_STORE_RQ, (response, info.sop_instance))
        command = encode_c_store_rq(message_id, info.sop_class, info.sop_instance, info.move_originator)
        buffers, size = source.buffers, source.size
        if buffers is not None:
            if size is None:
                size = sum(map(len, buffers))
            self.connection.send(frame_message(context_id, command, buffers or (b"",), size, self._max_length))
        else:
            self._unsent = response
            outstanding.stopped = True
            self._streaming = self._loop.create_task(self._stream(context_id, command, source, response))
        if self._timer is None:
            self._arm()

    async def echo(self) -> int:
        """C-ECHO; gives its status. Needs ``VERIFICATION_CONTEXT`` among the accepted pairs.

        Raises:
            DeliveryError: Verification was not accepted.
            AssociationAborted: The association ended first.
            LocalProtocolError: There is no ``room``.
        """
        context_id = next((number for (uid, _), number in self.accepted.items() if uid == VERIFICATION), None)
        if context_id is None:
            raise DeliveryError("the peer does not accept Verification", temporary=False)
        if not self.alive:
            raise self.connection.error or AssociationAborted("the association is over")
        if self._streaming is not None:
            raise LocalProtocolError("a message is still being sent")
        response: asyncio.Future[StoreResponse] = self._loop.create_future()
        self._progressed()
        message_id = self.outstanding.begin(context_id, CommandField.C_ECHO_RQ, (response, ""))
        self.connection.send(frame_message(context_id, encode_c_echo_rq(message_id), (), 0, self._max_length))
        self._arm()
        return (await response).status

    async def release(self) -> None:
        """End the association politely and wait for the transport to close; aborts if messages are outstanding, or one
        is half sent.

        A peer that does not answer costs the release timeout and is no failure: what it had answered stays answered.
        Cancelling is safe: the ending goes on.
        """
        if self.idle and self._streaming is None:  # a peer may refuse what it has not seen whole
            self.connection.release()
        else:
            self.connection.abort()
        await asyncio.shield(self.connection.closed)

    def abort(self) -> None:
        """End the association at once. What is outstanding has an unknown outcome."""
        self.connection.abort()

    # net.AssociationUser -----------------------------------------------------------------------------------

    def fragment(self, fragment: DataFragment) -> None:
        assembler = self._assembler
        received = assembler.feed(fragment)
        self.connection.core.message_open = assembler.in_message
        if type(received) is not CommandReceived:
            return
        command = received.command
        if not command.is_response:
            raise PeerProtocolError("request from the acceptor")
        response, sop_instance = self.outstanding.match(received.context_id, command)
        self._progress = self._loop.time()
        if command.sop_instance and sop_instance and command.sop_instance != sop_instance:
            # The message id is what matches; several archives answer with a UID of their own.
            self._log.warning("response names another SOP instance", address=self.connection.address)
        if response.done():
            return
        status = command.status or 0
        if response is self._unsent and classify(status) in _STORED:
            # A peer may refuse what it has not seen whole, and cannot have stored it.
            early = "response of success before the message was sent"
            response.set_exception(AssociationAborted(early))
            raise PeerProtocolError(early)
        plain = not status and not command.error_comment
        response.set_result(_SUCCESS if plain else StoreResponse(status, command.error_comment))

    def release_requested(self) -> None:
        """The peer ends it, perhaps instead of answering: what it has not answered is unknown."""
        if self.connection.mid_send or self._streaming is not None:
            raise PeerProtocolError("A-RELEASE-RQ within a message of ours")
        self.connection.release_response()

    def ended(self, error: Exception | None) -> None:
        self.alive = False
        self.outstanding.stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._streaming is not None:
            self._streaming.cancel()
        for response, _ in self.outstanding.drain():
            if not response.done():
                response.set_exception(
                    error if error is not None else AssociationAborted("released by the peer before its answer")
                )
        if not self.closed.done():
            self.closed.set_result(error)

    # Inside ------------------------------------------------------------------------------------------------

    async def _stream(self, context_id: int, command: bytes, source: DataSource, response: Awaited) -> None:
        connection = self.connection
        try:
            framer = MessageFramer(context_id, source.size, self._max_length)
            connection.send(frame_message(context_id, command, (), 0, self._max_length))
            self._awaits_data = source.size is None
            async for chunk in source.chunks():
                self._progressed()
                self._awaits_data = False
                left = framer.left
                # An open-ended framer gives whole PDUs: an A-ABORT can follow any of them.
                connection.mid_send = left is not None and left > len(chunk)
                if out := framer.feed(chunk):
                    connection.send(out)
                await connection.drain()
                self._progressed()
                self._awaits_data = source.size is None
            if framer.left is None:
                connection.send(framer.end())
            elif framer.left:
                raise LocalProtocolError("the source gave less than its size")
            self._unsent = None
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception as error:
            # Whatever it was, the message is not whole, and the association is of no more use.
            if not response.done():
                response.set_exception(error)
            connection.abort()
        finally:
            self._streaming = None
            self._awaits_data = False
            self.outstanding.stopped = not self.alive

    def _progressed(self) -> None:
        self._progress = self._loop.time()

    def _arm(self) -> None:
        """One timer, looked at again when it fires: responses need not touch it."""
        if self._timer is None and len(self.outstanding):
            self._timer = self._loop.call_at(self._progress + self._timeout, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not len(self.outstanding):
            return
        if self._awaits_data:
            self._progressed()
        if self._loop.time() - self._progress >= self._timeout:
            self.connection.abort(message="no response in time")
        else:
            self._arm()


def _window(request: AssociateRequest, granted: tuple[int, int] | None) -> int:
    """What we asked for and what the peer grants, whichever is less; without an answer of the peer: one."""
    proposed = request.user.async_window
    if proposed is None or granted is None:
        return 1
    limits = [number for number in (proposed[0], granted[0]) if number]  # 0: no limit
    return min(limits, default=MAX_WINDOW)
