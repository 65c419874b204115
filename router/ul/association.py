"""One association as a core without I/O (PS3.8 §9.2): bytes, requests and the time in; events, bytes to send and the
next deadline out.

Both roles. The states are ``state.TRANSITIONS``; this module carries its effects out. It opens no socket, starts no
task and reads no clock: whoever owns the transport calls ``receive``, ``on_timer`` and ``transport_closed``, writes
``data_to_send()`` after each, and closes the transport when ``should_close`` says so. It does not know what a message
is: the layer above says so by ``message_open``.

Timers, all seconds, one deadline at a time, found from the state instead of being started and stopped:

========= ============================================================================================
state     deadline
========= ============================================================================================
Sta2      ``handshake_timeout`` from the transport indication, absolute: bytes do not extend it
Sta5      ``acse_timeout`` for the answer to our A-ASSOCIATE-RQ
Sta6      ``idle_timeout`` between messages; within a PDU or message ``minimum_rate`` over ``rate_window``
Sta7-12   ``release_timeout``
Sta13     ``artim_timeout`` for the peer to close
========= ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from router._fastpdu import DataFragment, DataTaken, EventReader, PduReader
from router.errors import AbortReason, LocalProtocolError, PeerProtocolError
from router.ports import Buffer, ReadStraight
from router.ul.pdus import (
    RELEASE_RP,
    RELEASE_RQ,
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    PduType,
    decode_abort,
    decode_accept,
    decode_reject,
    decode_request,
    encode_abort,
    encode_accept,
    encode_reject,
    encode_request,
)
from router.ul.state import TRANSITIONS, Effect, Event, State, transition


class Role(Enum):
    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationSettings:
    """Seconds and bytes; what each timer covers says the module's table."""

    max_pdu: int = 131072
    """Announced maximum length, bytes; what the peer may put into one P-DATA-TF."""
    strict_pdu_length: bool = True
    """A P-DATA-TF longer than announced is answered by A-ABORT; False takes it up to 16 MiB."""
    associate_pdu: int = 1 << 20
    """Bytes of an A-ASSOCIATE PDU where one is expected (nothing is kept of one elsewhere), and of what a peer may send
    behind it before it is answered."""
    handshake_timeout: float = 10.0
    acse_timeout: float = 30.0
    artim_timeout: float = 10.0
    release_timeout: float = 10.0
    idle_timeout: float | None = 60.0
    """None: an association may rest for ever."""
    minimum_rate: int = 1024
    """Bytes per second within a PDU or message, on average over ``rate_window``."""
    rate_window: float = 30.0
    presentation_contexts: int = 128
    transfer_syntaxes: int = 64
    """Per presentation context."""


def _nobody(taken: DataTaken) -> None:
    """Nothing is diverted."""


# Events ----------------------------------------------------------------------------------------------------


class AssociationRequested:
    """Answer with ``accept`` or ``reject`` before the next step of the generator, or later with ``resume``."""

    __slots__ = ("request",)

    def __init__(self, request: AssociateRequest) -> None:
        self.request = request


class AssociationAccepted:
    __slots__ = ("accept",)

    def __init__(self, accept: AssociateAccept) -> None:
        self.accept = accept


class Rejected:
    __slots__ = ("reject",)

    def __init__(self, reject: AssociateReject) -> None:
        self.reject = reject


class ReleaseRequested:
    """The peer wants to end; call ``release_response`` when nothing is left to answer."""

    __slots__ = ()


class Released:
    __slots__ = ()


class Aborted:
    __slots__ = ("by_peer", "message", "reason", "source")

    def __init__(self, source: int, reason: int, by_peer: bool, message: str) -> None:
        self.source = source
        self.reason = reason
        self.by_peer = by_peer
        self.message = message


class TransportLost:
    """The transport went away although the association had not ended."""

    __slots__ = ()


AssociationEvent = (
    AssociationRequested
    | AssociationAccepted
    | Rejected
    | DataFragment
    | DataTaken
    | ReleaseRequested
    | Released
    | Aborted
    | TransportLost
)

_PDU_EVENTS = {
    PduType.ASSOCIATE_RQ: Event.RQ_PDU,
    PduType.ASSOCIATE_AC: Event.AC_PDU,
    PduType.ASSOCIATE_RJ: Event.RJ_PDU,
    PduType.RELEASE_RQ: Event.RELEASE_RQ_PDU,
    PduType.RELEASE_RP: Event.RELEASE_RP_PDU,
    PduType.ABORT: Event.ABORT_PDU,
}
_P_DATA_TF = int(PduType.P_DATA_TF)
_RELEASING = frozenset({State.STA7, State.STA9, State.STA10, State.STA11, State.STA12})
STA6, STA7 = State.STA6, State.STA7
"""Found once: to look a member of an enumeration up is a call."""
_SENDS_DATA = frozenset(state for state, event in TRANSITIONS if event is Event.DATA_REQUEST)


class Association:
    """See the module's text. ``now`` is any monotonic clock in seconds, always the same one."""

    __slots__ = (
        "_abort_sent",
        "_event_reader",
        "_events",
        "_held",
        "_held_data",
        "_last_activity",
        "_phase_began",
        "_window_began",
        "_window_bytes",
        "accepted",
        "message_open",
        "our_turn",
        "out",
        "reader",
        "request",
        "role",
        "settings",
        "should_close",
        "state",
        "told",
    )

    def __init__(
        self, role: Role, settings: AssociationSettings, now: float, request: AssociateRequest | None = None
    ) -> None:
        self.role = role
        self.settings = settings
        self.request = request
        self.accepted: AssociateAccept | None = None
        self.state = State.STA1
        self.should_close = False
        """Close the transport as soon as everything to send is written; what still arrives is of no interest."""
        self.message_open = False
        """Half a message has been received: the layer above says so, after each fragment."""
        self.our_turn = False
        """The peer rightly waits for us: an answer is owed, or we do not read. Its silence is not held against it."""
        self.reader = PduReader(settings.max_pdu, settings.associate_pdu, settings.strict_pdu_length)
        """To be asked what it awaits (``pulls``, ``missing``) with every read; all else goes by the core."""
        self.told: Callable[[DataTaken], None] = _nobody
        """Whom a ``DataTaken`` is for."""
        self.out: list[Buffer] = []
        """What waits to be written; ``data_to_send`` takes it."""
        self._events: list[AssociationEvent] = []
        self._event_reader = EventReader(self.reader, self._events)
        self._held: list[tuple[Any, ...]] = []
        self._held_data = bytearray()
        self._abort_sent = False
        self._phase_began = now
        self._last_activity = now
        self._window_began: float | None = None
        self._window_bytes = 0
        if role is Role.ACCEPTOR:
            self._step(Event.TRANSPORT_INDICATION, now)
        else:
            if request is None:
                raise LocalProtocolError("a requestor needs an A-ASSOCIATE request")
            self._step(Event.ASSOCIATE_REQUEST, now)

    # What the owner of the transport calls -----------------------------------------------------------------

    def connected(self, now: float) -> None:
        """Requestor: the transport is open; the A-ASSOCIATE-RQ is ready to be sent."""
        self._step(Event.TRANSPORT_CONNECTED, now)

    def receive(self, data: memoryview, now: float) -> Iterator[AssociationEvent]:
        """Bytes from the peer. Lazily: the caller handles each event before the next PDU is looked at, and
        exhausts it (or calls ``skip`` before the bytes change). What a peer sends behind its A-ASSOCIATE-RQ while that
        is undecided (Sta3) is copied, and given by ``resume``."""
        self._last_activity = now
        self._window_bytes += len(data)
        if self._held:
            self._hold(self.reader.feed(data), data)
            return iter(())
        return self._event_reader.begin(data, self._judge)

    def skip(self) -> None:
        """Read over what is left of the bytes that ``receive`` was given last: nobody goes on with its events."""
        self._event_reader.skip()

    def resume(self, now: float) -> Iterator[AssociationEvent]:
        """What arrived while the association request was undecided; call it after a late ``accept`` or ``reject``."""
        items, data = self._held, self._held_data
        self._held, self._held_data = [], bytearray()
        self._last_activity = now
        return self._event_reader.begin(memoryview(data), self._judge, items)

    def divert(
        self,
        context_id: int,
        write: Callable[[memoryview], None],
        told: Callable[[DataTaken], None] = _nobody,
        read: ReadStraight | None = None,
    ) -> None:
        """Give the data set that follows on this presentation context straight to ``write``, fragment by fragment as it
        comes in, or have it read by ``read``. A ``DataTaken`` for ``told`` comes once for all that a step brought, and
        at the end. Whatever ends the association ends it too."""
        self.told = told
        self.reader.divert(context_id, write, read)

    def pull(self, descriptor: int, most: int, now: float) -> Iterator[AssociationEvent]:
        """``receive`` for what comes of a diverted data set: reads it itself, from a non-blocking socket, to where it
        is kept; ``most`` bytes, or a little more."""
        size, behind = self.reader.pull(descriptor, most)
        if not size:
            return iter(())
        self._window_bytes += size - len(behind)
        return self.receive(memoryview(behind), now)

    def undivert(self) -> None:
        """Give what still comes as ``DataFragment`` again."""
        self.told = _nobody
        self.reader.divert(0, None)

    def transport_closed(self, now: float) -> Iterator[AssociationEvent]:
        """The peer or the network closed the transport."""
        if self.state is not State.STA1:
            self._step(Event.TRANSPORT_CLOSED, now)
        yield from self._drain_events()

    def on_timer(self, now: float) -> Iterator[AssociationEvent]:
        """Call when ``next_deadline`` has come; harmless before it."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        if self.state in (State.STA2, State.STA5, State.STA7, State.STA13):
            messages = {State.STA5: "no answer to A-ASSOCIATE-RQ", State.STA7: "no answer to A-RELEASE-RQ"}
            self._step(Event.ARTIM_EXPIRED, now, message=messages.get(self.state, ""))
        elif self.state is State.STA6 and not self._progressing:
            self._abort(now, "association idle for too long")
        elif self.state is State.STA6:
            needed = self.settings.minimum_rate * self.settings.rate_window
            if self._window_bytes < needed:
                self._abort(now, "peer too slow within a message")
            else:
                self._window_began, self._window_bytes = now, 0
        else:
            self._abort(now, "release not completed")
        yield from self._drain_events()

    def next_deadline(self) -> float | None:
        """When ``on_timer`` wants to be called; None: never, as things are."""
        settings = self.settings
        state = self.state
        if state is STA6:
            if self.our_turn:
                return None
            if self._progressing:
                if self._window_began is None:
                    self._window_began, self._window_bytes = self._last_activity, 0
                return self._window_began + settings.rate_window
            self._window_began = None
            return None if settings.idle_timeout is None else self._last_activity + settings.idle_timeout
        if state is State.STA2:
            return self._phase_began + settings.handshake_timeout
        if state is State.STA5:
            return self._phase_began + settings.acse_timeout
        if state is State.STA13:
            return self._phase_began + settings.artim_timeout
        if state in _RELEASING:
            return self._phase_began + settings.release_timeout
        return None

    def data_to_send(self) -> list[Buffer]:
        """Everything that waits to be written, in order; asking takes it."""
        out, self.out = self.out, []
        return out

    # What the user of the association calls ----------------------------------------------------------------

    def accept(self, accept: AssociateAccept, now: float) -> None:
        """Answer A-ASSOCIATE-AC (AE-7); LocalProtocolError unless a request is undecided."""
        self.accepted = accept
        self._step(Event.ACCEPT, now)

    def reject(self, reject: AssociateReject, now: float) -> None:
        """Answer A-ASSOCIATE-RJ (AE-8)."""
        self._step(Event.REJECT, now, reject=reject)

    def send_pdata(self, buffers: Sequence[Buffer], now: float) -> None:
        """Framed P-DATA-TF bytes, as ``frame_message`` gives them; kept by reference until written. LocalProtocolError
        unless data may be sent (Sta6, Sta8)."""
        self.sends_data(now)
        self.out.extend(buffers)

    def sends_data(self, now: float) -> None:
        """As ``send_pdata``, for who writes the bytes himself; nothing else may wait to be written."""
        if self.state not in _SENDS_DATA:
            raise LocalProtocolError(f"no data can be sent in {self.state.name}")
        self._last_activity = now

    def release(self, now: float) -> None:
        self._step(Event.RELEASE_REQUEST, now)

    def release_response(self, now: float) -> None:
        """Answer a ``ReleaseRequested``."""
        self._step(Event.RELEASE_RESPONSE, now)

    def abort(self, now: float, source: int = 0, reason: int = 0) -> None:
        """A-ABORT; nothing in a state where there is nothing left to abort."""
        if self.state in (State.STA1, State.STA13):
            self.should_close = True
            return
        if self.state is State.STA2:
            # The table knows no local abort before a request; what it does about an invalid PDU is what is wanted.
            self._step(Event.INVALID_PDU, now, abort=Abort(source, reason))
            return
        self._step(Event.ABORT_REQUEST, now, abort=Abort(source, reason))

    def fail(self, error: PeerProtocolError, now: float) -> Iterator[AssociationEvent]:
        """The layer above found the peer's bytes wrong: A-ABORT from the provider with the error's reason."""
        if self.state not in (State.STA1, State.STA13):
            self._invalid(error, now)
        yield from self._drain_events()

    def peer_turn(self, now: float) -> None:
        """Ends ``our_turn``: from now on the peer's silence counts."""
        self.our_turn = False
        self._last_activity = now
        self._window_began = None

    @property
    def mid_pdu(self) -> bool:
        return self.reader.mid_pdu

    def idle_since(self, now: float) -> float:
        """Seconds without bytes and without a message under way; 0 while there is one."""
        return 0.0 if self._progressing or self.our_turn else now - self._last_activity

    @property
    def buffered(self) -> int:
        """Bytes that this association holds back, for the budget of all unfinished handshakes."""
        return self.reader.buffered + len(self._held_data)

    @property
    def peer_max_length(self) -> int:
        """Longest P-DATA-TF variable field that the peer takes; 0: no limit."""
        user = None
        if self.role is Role.ACCEPTOR:
            user = self.request.user if self.request is not None else None
        elif self.accepted is not None:
            user = self.accepted.user
        return 16384 if user is None else user.max_length

    # Inside ------------------------------------------------------------------------------------------------

    @property
    def _progressing(self) -> bool:
        return self.message_open or self.reader.mid_pdu

    def _judge(self, item: tuple[Any, ...], rest: Callable[[], Any], data: memoryview) -> None:
        """What the reader found, unless it is a fragment of a message: that passes by (DT-2, AR-6), without the detour
        over the table."""
        kind, state, now = item[0], self.state, self._last_activity
        if state is State.STA1:
            return
        if state is State.STA3 and (kind == _P_DATA_TF or kind == PduType.RELEASE_RQ):
            self._hold([item, *iter(rest, None)], data)
        elif kind == _P_DATA_TF:
            self._step(Event.DATA_PDU, now, reason=AbortReason.UNEXPECTED_PDU, message="unexpected P-DATA-TF")
        elif kind == 0:
            self._invalid(item[1], now)
        else:
            self._pdu(PduType(kind), item[1], now)

    def _hold(self, items: list[tuple[Any, ...]], data: memoryview) -> None:
        """Keep what a peer pipelines behind its A-ASSOCIATE-RQ, no more of it than of an A-ASSOCIATE PDU."""
        if self._held and self._held[-1][0] == 0:
            return
        base = len(self._held_data)
        if base + len(data) > self.settings.associate_pdu:
            self._held.append((0, PeerProtocolError("too much data before the association was accepted")))
            return
        self._held_data += data
        for item in items:
            if item[0] == _P_DATA_TF:
                _, context_id, control, start, end, complete = item
                item = (_P_DATA_TF, context_id, control, start + base, end + base, complete)
            self._held.append(item)

    def _pdu(self, pdu_type: PduType, body: bytes, now: float) -> None:
        """A whole PDU other than P-DATA-TF."""
        settings = self.settings
        try:
            if pdu_type is PduType.ASSOCIATE_RQ and self.state is State.STA2:
                self.request = decode_request(
                    body, max_contexts=settings.presentation_contexts, max_transfer_syntaxes=settings.transfer_syntaxes
                )
            elif pdu_type is PduType.ASSOCIATE_AC and self.state is State.STA5:
                self.accepted = decode_accept(body)
        except PeerProtocolError as error:
            self._invalid(error, now)
            return
        self._step(
            _PDU_EVENTS[pdu_type],
            now,
            reject=decode_reject(body) if pdu_type is PduType.ASSOCIATE_RJ else None,
            abort=decode_abort(body) if pdu_type is PduType.ABORT else None,
            reason=AbortReason.UNEXPECTED_PDU,
            message=f"unexpected {pdu_type.name}",
        )

    def _invalid(self, error: PeerProtocolError, now: float) -> None:
        # Before a request the table has the service user abort (AA-1); saying what was wrong helps more.
        self._step(Event.INVALID_PDU, now, abort=Abort(2, error.reason), reason=error.reason, message=str(error))

    def _abort(self, now: float, message: str) -> None:
        """Our own decision, as the service provider: a timer."""
        self._events.append(Aborted(2, AbortReason.NOT_SPECIFIED, False, message))
        self._step(Event.ABORT_REQUEST, now, abort=Abort(2, AbortReason.NOT_SPECIFIED))

    def _step(
        self,
        event: Event,
        now: float,
        *,
        reject: AssociateReject | None = None,
        abort: Abort | None = None,
        reason: AbortReason = AbortReason.NOT_SPECIFIED,
        message: str = "",
    ) -> None:
        effects, after = transition(self.state, event, requestor=self.role is Role.REQUESTOR)
        if after is not self.state:
            self._phase_began = now
            self.undivert()
        self.state = after
        self._event_reader.plain = after is STA6 or after is STA7
        self.reader.associating = after is State.STA2 or after is State.STA5
        for effect in effects:
            self._carry_out(effect, reject, abort, reason, message)

    def _carry_out(
        self, effect: Effect, reject: AssociateReject | None, abort: Abort | None, reason: AbortReason, message: str
    ) -> None:
        out = self.out
        events = self._events
        if effect is Effect.SEND_RQ and self.request is not None:
            out.append(encode_request(self.request))
        elif effect is Effect.SEND_AC and self.accepted is not None:
            out.append(encode_accept(self.accepted))
        elif effect is Effect.SEND_RJ and reject is not None:
            out.append(encode_reject(reject))
        elif effect is Effect.SEND_RELEASE_RQ:
            out.append(RELEASE_RQ)
        elif effect is Effect.SEND_RELEASE_RP:
            out.append(RELEASE_RP)
        elif effect is Effect.SEND_ABORT_USER:
            self._send_abort(abort or Abort(0, 0))
        elif effect is Effect.SEND_ABORT_PROVIDER:
            self._send_abort(Abort(2, reason))
        elif effect is Effect.INDICATE_REQUEST and self.request is not None:
            events.append(AssociationRequested(self.request))
        elif effect is Effect.INDICATE_ACCEPTED and self.accepted is not None:
            events.append(AssociationAccepted(self.accepted))
        elif effect is Effect.INDICATE_REJECTED and reject is not None:
            events.append(Rejected(reject))
        elif effect is Effect.INDICATE_RELEASE:
            events.append(ReleaseRequested())
        elif effect is Effect.CONFIRM_RELEASE:
            events.append(Released())
        elif effect is Effect.INDICATE_ABORT and abort is not None:
            events.append(Aborted(abort.source, abort.reason, True, "aborted by the peer"))
        elif effect is Effect.INDICATE_PROVIDER_ABORT:
            events.append(Aborted(2, reason, False, message))
        elif effect is Effect.INDICATE_LOST:
            events.append(TransportLost())
        elif effect is Effect.CLOSE:
            self.should_close = True

    def _send_abort(self, abort: Abort) -> None:
        # Once: AA-7 would answer every further A-ASSOCIATE-RQ of a peer gone mad.
        if not self._abort_sent:
            self._abort_sent = True
            self.out.append(encode_abort(abort))

    def _drain_events(self) -> Iterator[AssociationEvent]:
        while self._events:
            yield self._events.pop(0)
