"""Association cores on a bench: fed with bytes that a test spells out, or wired to one another; no socket, no clock.

The encoders here are written from PS3.8 §9.3 once more, so that the product's are compared with something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from router._fastpdu import DataFragment
from router.errors import PeerProtocolError
from router.ports import Buffer
from router.ul.association import (
    Aborted,
    Association,
    AssociationEvent,
    AssociationRequested,
    AssociationSettings,
    Rejected,
    Released,
    ReleaseRequested,
    Role,
)
from router.ul.negotiation import answer
from router.ul.pdus import AssociateAccept, AssociateReject, AssociateRequest, ProposedContext, UserInformation
from router.ul.state import State

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"
APPLICATION = "1.2.840.10008.3.1.1.1"

# Bytes as the standard writes them --------------------------------------------------------------------------


def item(kind: int, content: bytes) -> bytes:
    """Type, reserved, length, content (PS3.8 §9.3.2)."""
    return bytes((kind, 0)) + len(content).to_bytes(2, "big") + content


def pdu(kind: int, body: bytes) -> bytes:
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def proposal(context_id: int, abstract: str, *syntaxes: str) -> bytes:
    subs = item(0x30, abstract.encode()) + b"".join(item(0x40, uid.encode()) for uid in syntaxes)
    return item(0x20, bytes((context_id, 0, 0, 0)) + subs)


def result(context_id: int, outcome: int, syntax: bytes | None) -> bytes:
    sub = b"" if syntax is None else item(0x40, syntax)
    return item(0x21, bytes((context_id, 0, outcome, 0)) + sub)


def maximum(length: int) -> bytes:
    return item(0x51, length.to_bytes(4, "big"))


APPLICATION_ITEM = item(0x10, APPLICATION.encode())
CONTEXT_ITEM = proposal(1, CT, IMPLICIT)
USER_ITEM = item(0x50, maximum(16384) + item(0x52, b"1.2.3") + item(0x55, b"BENCH"))


def request_body(
    *items: bytes,
    version: int = 1,
    called: bytes = b"ROUTER",
    calling: bytes = b"MODALITY",
    reserved: bytes = bytes(32),
) -> bytes:
    """An A-ASSOCIATE-RQ variable field; without ``items`` one CT context in Implicit VR."""
    head = version.to_bytes(2, "big") + b"\0\0" + called.ljust(16) + calling.ljust(16) + reserved
    return head + b"".join(items or (APPLICATION_ITEM, CONTEXT_ITEM, USER_ITEM))


def request_pdu(*items: bytes, **fields: Any) -> bytes:
    return pdu(1, request_body(*items, **fields))


def accept_body(*items: bytes) -> bytes:
    """An A-ASSOCIATE-AC variable field; without ``items`` it accepts context 1 in Implicit VR."""
    return b"\0\1\0\0" + bytes(64) + b"".join(items or (APPLICATION_ITEM, result(1, 0, IMPLICIT.encode()), USER_ITEM))


def accept_pdu(*items: bytes) -> bytes:
    return pdu(2, accept_body(*items))


def reject_pdu(outcome: int, source: int, reason: int) -> bytes:
    return pdu(3, bytes((0, outcome, source, reason)))


def abort_pdu(source: int, reason: int) -> bytes:
    return pdu(7, bytes((0, 0, source, reason)))


RELEASE_RQ = pdu(5, bytes(4))
RELEASE_RP = pdu(6, bytes(4))

COMMAND, DATA, LAST = 1, 0, 2


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    """Length, presentation context id, message control header, fragment (PS3.8 §9.3.5.1)."""
    return (len(data) + 2).to_bytes(4, "big") + bytes((context_id, control)) + data


def p_data(*pdvs: bytes) -> bytes:
    return pdu(4, b"".join(pdvs))


def a_request(*contexts: ProposedContext, **user: Any) -> AssociateRequest:
    """A request of ours, as values."""
    return AssociateRequest(
        called_ae="ROUTER",
        calling_ae="MODALITY",
        contexts=contexts or (ProposedContext(1, CT, (IMPLICIT,)),),
        user=UserInformation(**user),
    )


def accept_all(request: AssociateRequest, **user: Any) -> AssociateAccept:
    return AssociateAccept(
        contexts=answer(request.contexts, supports=lambda uid: True, takes=lambda uid: True),
        user=UserInformation(**user),
        raw_header=request.raw_header,
    )


# Cores ------------------------------------------------------------------------------------------------------

Seen = tuple[Any, ...]


def seen(event: AssociationEvent) -> Seen:
    """An event as a tuple that can be compared and kept."""
    if isinstance(event, DataFragment):
        kind = "command" if event.is_command else "data"
        return kind, event.context_id, bytes(event.data), event.is_last and event.complete
    if isinstance(event, Aborted):
        return "aborted by the peer" if event.by_peer else "aborted", event.source, event.reason
    if isinstance(event, Rejected):
        return "rejected", event.reject.result, event.reject.source, event.reject.reason
    return (type(event).__name__,)


def joined(events: Iterable[Seen]) -> list[Seen]:
    """The events with fragments of one kind run together, up to the last one: what a message's reader makes of them."""
    found: list[Seen] = []
    for event in events:
        if event[0] in ("command", "data") and found and found[-1][:2] == event[:2] and not found[-1][3]:
            found[-1] = (*event[:2], found[-1][2] + event[2], event[3])
        else:
            found.append(event)
    return found


class Bench:
    """One core and the simplest user: takes every association, answers every release, remembers what it saw.

    Bytes are fed from a buffer that is overwritten afterwards, as the transport's is.
    """

    def __init__(
        self,
        role: Role = Role.ACCEPTOR,
        *,
        settings: AssociationSettings | None = None,
        request: AssociateRequest | None = None,
        decide: Callable[[AssociateRequest], AssociateAccept | AssociateReject | None] = accept_all,
        on_fragment: Callable[[DataFragment], None] | None = None,
        answers_release: bool = True,
    ) -> None:
        self.now = 1000.0
        if role is Role.REQUESTOR and request is None:
            request = a_request()
        self.core = Association(role, settings or AssociationSettings(), self.now, request)
        self.decide = decide
        self.on_fragment = on_fragment
        self.answers_release = answers_release
        self.events: list[Seen] = []

    @property
    def state(self) -> State:
        return self.core.state

    def sent(self) -> bytes:
        """Everything that the core wants written, since the last time it was asked."""
        return b"".join(bytes(buffer) for buffer in self.core.data_to_send())

    def receive(self, *pieces: bytes) -> list[Seen]:
        """Feed each piece by itself; gives the events of all of them."""
        before = len(self.events)
        for piece in pieces:
            buffer = bytearray(piece)
            self.handle(self.core.receive(memoryview(buffer), self.now))
            buffer[:] = b"\xee" * len(buffer)
        return self.events[before:]

    def resume(self) -> list[Seen]:
        before = len(self.events)
        self.handle(self.core.resume(self.now))
        return self.events[before:]

    def closed(self) -> list[Seen]:
        before = len(self.events)
        self.handle(self.core.transport_closed(self.now))
        return self.events[before:]

    def wait(self, seconds: float) -> list[Seen]:
        """Let time pass, and the timer fire whenever it is due."""
        before = len(self.events)
        until = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.handle(self.core.on_timer(self.now))
        self.now = until
        return self.events[before:]

    def handle(self, events: Iterator[AssociationEvent]) -> None:
        core = self.core
        try:
            for event in events:
                self.events.append(seen(event))
                if isinstance(event, DataFragment):
                    if self.on_fragment is not None:
                        self.on_fragment(event)
                elif isinstance(event, AssociationRequested):
                    decision = self.decide(event.request)
                    if isinstance(decision, AssociateAccept):
                        core.accept(decision, self.now)
                    elif decision is not None:
                        core.reject(decision, self.now)
                elif isinstance(event, ReleaseRequested) and self.answers_release:
                    if core.state in (State.STA8, State.STA9):
                        core.release_response(self.now)
                elif isinstance(event, Released) and core.state is State.STA12:
                    core.release_response(self.now)
        except PeerProtocolError as error:
            self.handle(core.fail(error, self.now))


def established(role: Role = Role.ACCEPTOR, **options: Any) -> Bench:
    """A core in Sta6, with nothing left to send."""
    bench = Bench(role, **options)
    if role is Role.ACCEPTOR:
        bench.receive(request_pdu())
    else:
        bench.core.connected(bench.now)
        bench.receive(accept_pdu())
    assert bench.state is State.STA6
    bench.sent()
    bench.events.clear()
    return bench


def bench_in(state: State, role: Role | None = None) -> Bench:
    """A core in a given state, reached by the shortest way, that answers nothing by itself."""
    if state in (State.STA2, State.STA3):
        bench = Bench(decide=lambda request: None)
        if state is State.STA3:
            bench.receive(request_pdu())
    elif state in (State.STA4, State.STA5):
        bench = Bench(Role.REQUESTOR)
        if state is State.STA5:
            bench.core.connected(bench.now)
    else:
        acceptor_only = state in (State.STA10, State.STA12)
        requestor_only = state in (State.STA9, State.STA11)
        assert not (role is Role.REQUESTOR and acceptor_only) and not (role is Role.ACCEPTOR and requestor_only)
        bench = established(role or (Role.REQUESTOR if requestor_only else Role.ACCEPTOR), answers_release=False)
        if state in (State.STA7, State.STA9, State.STA10, State.STA11, State.STA12):
            bench.core.release(bench.now)
        if state in (State.STA8, State.STA9, State.STA10, State.STA11, State.STA12):
            bench.receive(RELEASE_RQ)
        if state is State.STA11:
            bench.core.release_response(bench.now)
        elif state is State.STA12:
            core, now = bench.core, bench.now
            for _ in core.receive(memoryview(RELEASE_RP), now):
                pass
        elif state is State.STA13:
            bench.receive(RELEASE_RQ)
            bench.core.release_response(bench.now)
        elif state is State.STA1:
            bench.closed()
    assert bench.state is state
    bench.sent()
    bench.events.clear()
    return bench


class Wire:
    """Two cores and the transport between them, which cuts where ``cuts`` says."""

    def __init__(
        self, requestor: Bench, acceptor: Bench, cuts: Callable[[bytes], Sequence[bytes]] | None = None
    ) -> None:
        self.requestor = requestor
        self.acceptor = acceptor
        self.cuts = cuts or (lambda data: (data,))

    def open(self) -> None:
        self.requestor.core.connected(self.requestor.now)
        self.pump()

    def pump(self) -> None:
        """Carry bytes until neither side has any; who asks for it is closed, and the other side learns of it."""
        moved = True
        while moved:
            moved = False
            for source, sink in ((self.requestor, self.acceptor), (self.acceptor, self.requestor)):
                data = source.sent()
                if data and sink.state is not State.STA1:
                    sink.receive(*self.cuts(data))
                    moved = True
            for source, sink in ((self.requestor, self.acceptor), (self.acceptor, self.requestor)):
                if source.core.should_close and sink.state is not State.STA1 and not moved:
                    sink.closed()
                    moved = True


def as_bytes(buffers: Iterable[Buffer]) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)
