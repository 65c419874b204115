"""Storage SCU and Verification SCU (PS3.4 Annex A, B): instances out over one established association.

An instance counts as stored only by the C-STORE-RSP that answers it: same message id, same context, same operation, with a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from router import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from router._fastpdu import MessageFramer, frame_message
from router.dimse.assembler import CommandReceived, MessageAssembler
from router.dimse.command import CommandField, encode_c_echo_rq, encode_c_store_rq
from router.dimse.requestor import Outstanding
from router.errors import AssociationAborted, DeliveryError, PeerProtocolError, SpoolError
from router.model import InstanceInfo
from router.net.connection import Connection
from router.net.dialer import connect
from router.ports import DataSource, Log
from router.ul.association import AssociationSettings, DataFragment
from router.ul.negotiation import accepted_contexts, propose
from router.ul.pdus import AssociateAccept, AssociateRequest, UserInformation

VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True)
class StoreResponse:
    status: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """How to call one peer; times in seconds."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    max_pdu: int = 131072
    connect_timeout: float = 10.0
    acse_timeout: float = 30.0
    response_timeout: float = 300.0
    release_timeout: float = 10.0
    async_operations: int = 1
    """Operations window to propose; 1 proposes none."""


class StorageScu:
    """One association as requestor. Make it with ``StorageScu.open``.

    One message is on its way out at a time; up to ``window`` may wait for their response.
    """

    def __init__(self, settings: CallSettings, request: AssociateRequest, log: Log) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.request = request
        self.log = log
        self.loop = loop
        self.connection: Connection | None = None
        self.contexts: dict[tuple[str, str], int] = {}
        """(SOP class, transfer syntax) to the id of the context that was accepted for it."""
        self.window = 1
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the association is over, however; never raises."""
        self.error: Exception | None = None
        self._outstanding: Outstanding[asyncio.Future[StoreResponse]] = Outstanding(1)
        self._assembler: MessageAssembler | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_progress = 0.0

    @classmethod
    async def open(cls, settings: CallSettings, pairs: Iterable[tuple[str, str]], log: Log) -> StorageScu:
        """Associate, proposing one context per (SOP class, transfer syntax). Cancelling it is safe.

        Raises:
            DeliveryError: No connection.
            AssociationRejected, AssociationAborted: As the peer answered, or did not in time.
        """
        window = (settings.async_operations, 1) if settings.async_operations > 1 else None
        request = AssociateRequest(
            called_ae=settings.called_ae,
            calling_ae=settings.calling_ae,
            contexts=propose(pairs),
            user=UserInformation(
                max_length=settings.max_pdu,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION_NAME,
                async_window=window,
            ),
        )
        scu = cls(settings, request, log)
        association = AssociationSettings(
            max_pdu=settings.max_pdu,
            strict_pdu_length=False,
            acse_timeout=settings.acse_timeout,
            release_timeout=settings.release_timeout,
            idle_timeout=None,
        )
        scu.connection = await connect(
            settings.host, settings.port, request, association, scu, connect_timeout=settings.connect_timeout, log=log
        )
        try:
            await scu.opened
        except BaseException:
            scu.abort()
            raise
        return scu

    # Sending -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.connection is not None and self.connection.alive and not self.closed.done()

    @property
    def ready(self) -> bool:
        """Another message may start now."""
        return self.alive and self._streaming is None and self._outstanding.room > 0

    @property
    def idle(self) -> bool:
        """Nothing is on its way and nothing awaits a response."""
        return len(self._outstanding) == 0

    def store(self, info: InstanceInfo, source: DataSource) -> asyncio.Future[StoreResponse]:
        """Send one instance; only while ``ready``. The result is its response.

        The future raises AssociationAborted when the outcome is unknown, DeliveryError when no context fits, SpoolError when the
        stored bytes could not be read: the association is then aborted before the last fragment, and the peer keeps nothing.
        """
        context_id = self.contexts.get((info.sop_class, info.transfer_syntax))
        connection = self.connection
        future: asyncio.Future[StoreResponse] = self.loop.create_future()
        if context_id is None:
            future.set_exception(DeliveryError("no presentation context was accepted for it", temporary=False))
            return future
        if connection is None or not self.alive:
            future.set_exception(AssociationAborted("association is over"))
            return future
        message_id = self._outstanding.begin(context_id, CommandField.C_STORE_RQ, future)
        command = encode_c_store_rq(message_id, info.sop_class, info.sop_instance, info.move_originator)
        max_length = connection.core.peer_max_length
        if 0 < max_length < 8:
            self.abort()
            return future
        buffers = source.buffers
        now = self.loop.time()
        self._last_progress = now
        if buffers is not None:
            connection.core.send_pdata(frame_message(context_id, command, buffers, source.size, max_length), now)
            connection.flush()
        else:
            connection.core.send_pdata(frame_message(context_id, command, (), 0, max_length), now)
            self._streaming = self.loop.create_task(self._stream(connection, context_id, source, future))
        self._watch()
        return future

    async def _stream(
        self, connection: Connection, context_id: int, source: DataSource, future: asyncio.Future[StoreResponse]
    ) -> None:
        framer = MessageFramer(context_id, source.size, connection.core.peer_max_length)
        try:
            async for chunk in source.chunks():
                if not connection.alive:
                    return
                self._last_progress = self.loop.time()
                connection.core.send_pdata(framer.feed(chunk), self._last_progress)
                connection.flush()
                await connection.drain()
        except SpoolError as error:
            if not future.done():
                future.set_exception(error)
            self.abort()
        except AssociationAborted:
            return
        finally:
            self._streaming = None

    async def echo(self) -> int:
        """C-ECHO; gives the status. Raises AssociationAborted without an answer, DeliveryError without a context."""
        context_id = next((number for (abstract, _), number in self.contexts.items() if abstract == VERIFICATION), None)
        if context_id is None or self.connection is None:
            raise DeliveryError("verification was not accepted", temporary=False)
        future: asyncio.Future[StoreResponse] = self.loop.create_future()
        message_id = self._outstanding.begin(context_id, CommandField.C_ECHO_RQ, future)
        command = encode_c_echo_rq(message_id)
        self._last_progress = self.loop.time()
        self.connection.core.send_pdata(
            frame_message(context_id, command, (), 0, self.connection.core.peer_max_length), self._last_progress
        )
        self.connection.flush()
        self._watch()
        return (await future).status

    async def release(self) -> None:
        """A-RELEASE, then wait for the end, bounded by the release time limit. A failed release is no failed delivery."""
        if self.connection is not None:
            self.connection.release()
            await asyncio.wait({self.connection.closed}, timeout=self.settings.release_timeout + 1)

    def abort(self) -> None:
        if self.connection is not None:
            self.connection.abort()

    # The response time limit -------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.settings.response_timeout, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not len(self._outstanding) or not self.alive:
            return
        left = self._last_progress + self.settings.response_timeout - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._on_timer)
            return
        self.log.warning("no response in time", called=self.settings.called_ae)
        self._fail(AssociationAborted("no response in time"))
        self.abort()

    # AssociationUser ---------------------------------------------------------------------------------------

    def requested(self, connection: Connection, request: AssociateRequest) -> None:
        """Never called: we are the requestor."""

    def established(self, connection: Connection, accept: AssociateAccept) -> None:
        usable = accepted_contexts(self.request, accept)
        self.contexts = {pair: number for number, pair in usable.items()}
        granted = accept.user.async_window
        if self.settings.async_operations > 1 and granted is not None:
            # 0 stands for unlimited; never more than what was proposed.
            invoked = granted[0] or self.settings.async_operations
            self.window = min(self.settings.async_operations, invoked)
        self._outstanding.window = max(1, self.window)
        self._assembler = MessageAssembler(usable)
        if not self.opened.done():
            self.opened.set_result(None)

    def fragment(self, connection: Connection, fragment: DataFragment) -> None:
        assembler = self._assembler
        if assembler is None:
            raise PeerProtocolError("data before the association was accepted")
        item = assembler.feed(fragment)
        if item is None or not isinstance(item, CommandReceived):
            return
        if not item.command.is_response:
            raise PeerProtocolError("the peer sent a request where only responses are expected")
        future = self._outstanding.match(item.context_id, item.command)
        self._last_progress = self.loop.time()
        if self._streaming is not None and item.command.field == CommandField.C_STORE_RSP and len(self._outstanding) == 0:
            # Answered before the data set was whole: the message cannot be taken back, the association is of no more use.
            if not future.done():
                future.set_result(StoreResponse(item.command.status or 0, item.command.error_comment))
            raise PeerProtocolError("response before the message was complete")
        if not future.done():
            status = item.command.status
            future.set_result(StoreResponse(status if status is not None else 0xFFFF, item.command.error_comment))

    def release_requested(self, connection: Connection) -> None:
        self._fail(AssociationAborted("the peer released instead of responding"))
        connection.release_response()

    def ended(self, connection: Connection, error: Exception | None) -> None:
        self.error = error
        self._fail(error if error is not None else AssociationAborted("association is over"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.opened.done():
            self.opened.set_exception(error if error is not None else AssociationAborted("association is over"))
        if not self.closed.done():
            self.closed.set_result(None)

    def _fail(self, error: Exception) -> None:
        for future in self._outstanding.drain():
            if not future.done():
                future.set_exception(error)
