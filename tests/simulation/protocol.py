"""Two association cores and a network between them, in virtual time: one seed says where bytes are cut, how long they
take, when the transport is lost or swallows everything, who aborts, who ends first, who never answers.

The requestor sends messages as a storage SCU does, some at once, and releases when all are answered; the acceptor
answers each message with the checksum of what it got. Bytes are framed by the bench's encoders and judged as bytes.

``python -m tests.simulation.protocol SEED`` runs one again and tells what happened.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from router._fastpdu import DataFragment
from router.errors import LocalProtocolError, PeerProtocolError
from router.ul.association import (
    Aborted,
    Association,
    AssociationAccepted,
    AssociationEvent,
    AssociationRequested,
    AssociationSettings,
    Rejected,
    Released,
    ReleaseRequested,
    Role,
    TransportLost,
)
from router.ul.pdus import AssociateReject, AssociateRequest
from router.ul.state import State
from tests.ul.bench import COMMAND, DATA, LAST, a_request, accept_all, p_data, pdv

LIMIT = 3600.0
"""Virtual seconds within which every association has ended, whatever happened to it."""
STUCK = 300.0
"""Seconds after which a stuck user decides and answers."""
RESPONSE_TIMEOUT = 120.0
"""Of the requestor's user; seconds."""
ENDINGS = (Aborted, Rejected, Released, TransportLost)
ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = 3, 4, 5, 6, 7
HAS_NO_USER = (State.STA1, State.STA2, State.STA13)
CAN_RESPOND = (State.STA8, State.STA9, State.STA12)


@dataclass(frozen=True)
class Course:
    """What a seed did, and everything that is wrong with it."""

    seed: int
    seconds: float
    calm: bool
    messages: int
    answered: int
    endings: tuple[str, ...]
    """How it ended for each side's user; empty for one that was told of nothing."""
    timers: tuple[str, ...]
    """Which ran out: the state, and whose."""
    states: tuple[str, ...]
    """All that were passed through."""
    wrong: tuple[str, ...]


class Network:
    """The time, and what happens when."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.wrong: list[str] = []
        self.cut = False
        """The transport is gone."""
        self.swallows = False
        """It is there, and nothing arrives any more."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.slow = self.chance.random() < 0.2
        """Now and then something takes so long that a timer runs out."""
        self.calm = not self.slow
        """Nothing befalls it, and nobody aborts."""

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), work))

    def run(self) -> None:
        while self._heap:
            moment, _, work = heapq.heappop(self._heap)
            if moment > 1000.0 + LIMIT:
                break
            self.now = moment
            work()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """As the network cuts it: whole, byte by byte, or anywhere."""
        chance = self.chance
        most = chance.choice((1, 7, 100, 5000, 1 << 20))
        at = 0
        while at < len(data):
            size = chance.randint(1, most) if most < 1 << 20 else most
            if at == 0 and most == 1:
                size = max(1, len(data) - 40)  # only the last bytes one by one: there are many
            yield data[at : at + size]
            at += size

    def delay(self) -> float:
        chance = self.chance
        if self.slow and chance.random() < 0.05:
            return chance.uniform(1.0, 100.0)
        return chance.choice((0.0, 0.0001, 0.01, 0.3))


@dataclass
class Message:
    number: int
    data: bytes

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.data)


class Side:
    """A core, its transport and its user. One that is ``stuck`` decides and answers when nobody waits any more; one
    that is ``tired`` does so with releases."""

    def __init__(self, network: Network, role: Role, request: AssociateRequest | None = None) -> None:
        chance = network.chance
        self.network = network
        self.name = role.value
        settings = AssociationSettings(
            handshake_timeout=chance.uniform(1, 10), acse_timeout=chance.uniform(1, 30),
            artim_timeout=chance.uniform(1, 10), release_timeout=chance.uniform(1, 10),
            idle_timeout=chance.uniform(5, 60) if role is Role.ACCEPTOR or chance.random() < 0.5 else None,
            rate_window=chance.uniform(2, 30),
        )  # fmt: skip
        self.core = Association(role, settings, network.now, request)
        self.peer: Side
        self.stuck = chance.random() < 0.05
        self.tired = chance.random() < 0.1
        self.sent = Seen()
        self.events: list[AssociationEvent] = []
        self.states: list[State] = [self.core.state]
        self.timers: list[str] = []
        self.ended = False
        self.closed = False
        self._received = Seen()
        self._arrives_at = 0.0
        self._armed = itertools.count()
        self._newest = -1

    # The transport -------------------------------------------------------------------------------------------

    def step(self, work: Callable[[], Iterator[AssociationEvent] | None]) -> None:
        """Anything that is done with the core, and what follows from it."""
        if self.closed:
            return
        try:
            events = work()
            if events is not None:
                for event in events:
                    self._note()
                    self.handle(event)
        except PeerProtocolError as error:
            for event in self.core.fail(error, self.network.now):
                self.handle(event)
        except Exception as error:
            self.network.wrong.append(f"{self.name} in {self.core.state.name}: {error!r}")
            self._close()
            return
        self._note()
        self._flush()

    def handle(self, event: AssociationEvent) -> None:
        if self.ended:
            self.network.wrong.append(f"{self.name} is told {type(event).__name__} after the end")
        # In Sta12 its own release is confirmed, and the peer's waits for an answer.
        self.ended = isinstance(event, ENDINGS) and self.core.state is not State.STA12
        if not isinstance(event, DataFragment):
            self.events.append(event)
        self.on_event(event)

    def on_event(self, event: AssociationEvent) -> None:
        raise NotImplementedError

    def _note(self) -> None:
        if self.core.state is not self.states[-1]:
            self.states.append(self.core.state)

    def _flush(self) -> None:
        network = self.network
        data = b"".join(bytes(buffer) for buffer in self.core.data_to_send())
        self.sent.feed(data)
        for piece in network.pieces(data):
            self._arrives_at = max(self._arrives_at, network.now + network.delay())
            network.later(self._arrives_at - network.now, lambda piece=piece: self.peer.arrive(piece))  # type: ignore[misc]
        if self.core.should_close:
            self._close()
            return
        self._newest = armed = next(self._armed)
        deadline = self.core.next_deadline()
        if deadline is not None:
            network.later(max(0.0, deadline - network.now), lambda: self._timer(armed, deadline))

    def _timer(self, armed: int, deadline: float) -> None:
        if armed != self._newest or self.closed:
            return
        core, before, now = self.core, self.core.state, self.network.now
        now = max(now, deadline)
        self.step(lambda: core.on_timer(now))
        after = None if self.closed else core.next_deadline()
        if after is not None and after <= now:
            self.network.wrong.append(f"{self.name}: the timer of {before.name} ran out, and nothing came of it")
            self._close()
        self.timers.append(f"{before.name} {self.name}")

    def arrive(self, piece: bytes) -> None:
        if self.closed or self.network.cut or self.network.swallows:
            return
        open_before = self.core.state not in HAS_NO_USER
        buffer = bytearray(piece)
        self.step(lambda: self.core.receive(memoryview(buffer), self.network.now))
        buffer[:] = b"\xee" * len(buffer)
        self._received.feed(piece)
        if open_before and ABORT in self._received.kinds:
            last = self.events[-1] if self.events else None
            if not (isinstance(last, Aborted) and last.by_peer):
                self.network.wrong.append(f"{self.name} is not told of the peer's abort")
            if ABORT in self.sent.kinds:
                self.network.wrong.append(f"{self.name} answers an abort with an abort")

    def lose(self) -> None:
        """The transport is gone."""
        open_before = not self.closed and self.core.state not in HAS_NO_USER
        self.step(lambda: self.core.transport_closed(self.network.now))
        if open_before and not self.ended:
            self.network.wrong.append(f"{self.name} is not told that the transport is lost")
        self._close()

    def _close(self) -> None:
        """Ours: the peer learns of it behind everything that was sent."""
        if self.closed:
            return
        self.closed = True
        network = self.network
        try:
            for _ in self.core.transport_closed(network.now):
                network.wrong.append(f"{self.name} closed by itself, and is told that it was lost")
        except LocalProtocolError as error:
            network.wrong.append(f"{self.name} after it closed: {error}")
        self._note()
        network.later(max(self._arrives_at - network.now, 0.0) + network.delay(), self._told_peer)

    def _told_peer(self) -> None:
        if not self.network.swallows:
            self.peer.lose()

    # What the user does at some moment -----------------------------------------------------------------------

    def abort(self) -> None:
        self.step(lambda: self.core.abort(self.network.now))

    def release(self) -> None:
        if self.core.state is State.STA6:
            self.step(lambda: self.core.release(self.network.now))

    def respond_soon(self) -> None:
        if self.tired:
            self.network.later(STUCK, self.respond)
        else:
            self.soon(self.respond)

    def respond(self) -> None:
        if self.core.state in CAN_RESPOND:
            self.step(lambda: self.core.release_response(self.network.now))

    def soon(self, work: Callable[[], None]) -> None:
        """In this moment, or a little later."""
        delay = self.network.delay() if self.network.chance.random() < 0.5 else 0.0
        self.network.later(delay + (STUCK if self.stuck else 0.0), work)

    # What it sent, as bytes ----------------------------------------------------------------------------------

    def judge(self) -> None:
        kinds = self.sent.kinds
        wrong = self.network.wrong.append
        for last in (ABORT, ASSOCIATE_RJ, RELEASE_RP):
            if last in kinds:
                behind = kinds[kinds.index(last) + 1 :]
                if set(behind) - ({ABORT} if last != ABORT else set()):
                    wrong(f"{self.name} sent {behind} after PDU type {last}")
        if RELEASE_RQ in kinds and P_DATA_TF in kinds[kinds.index(RELEASE_RQ) :]:
            wrong(f"{self.name} sent data after its A-RELEASE-RQ")
        if self.core.state is not State.STA1:
            wrong(f"{self.name} never came out of {self.core.state.name}")

    @property
    def ending(self) -> str:
        return next((type(event).__name__ for event in self.events if isinstance(event, ENDINGS)), "")


class Seen:
    """The types of the whole PDUs in a stream, in order."""

    def __init__(self) -> None:
        self.kinds: list[int] = []
        self._rest = bytearray()

    def feed(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        while len(rest) >= 6 and (end := 6 + int.from_bytes(rest[2:6], "big")) <= len(rest):
            self.kinds.append(rest[0])
            del rest[:end]


class Requestor(Side):
    def __init__(self, network: Network) -> None:
        super().__init__(network, Role.REQUESTOR, a_request())
        chance = network.chance
        self.messages = [
            Message(number, chance.randbytes(chance.choice((2, 50, 1000, 20_000))))
            for number in range(chance.choice((0, 1, 3, 10)))
        ]
        self.window = chance.choice((1, 1, 4))
        self.answers: dict[int, int] = {}
        self.begun = 0
        self._got = bytearray()

    def connect(self) -> None:
        self.step(lambda: self.core.connected(self.network.now))

    def on_event(self, event: AssociationEvent) -> None:
        if isinstance(event, AssociationAccepted):
            self.soon(self.go_on)
        elif isinstance(event, ReleaseRequested | Released):
            self.respond_soon()
        elif isinstance(event, DataFragment):
            self._got += event.data
            self.core.message_open = not (event.is_last and event.complete)
            if not self.core.message_open:
                number, checksum = int.from_bytes(self._got[:4], "big"), int.from_bytes(self._got[4:8], "big")
                self._got.clear()
                if number in self.answers or number >= self.begun:
                    self.network.wrong.append(f"message {number} is answered, {self.begun} were begun")
                elif checksum != self.messages[number].checksum:
                    self.network.wrong.append(f"message {number} is answered, and was not whole")
                self.answers[number] = checksum
                self.soon(self.go_on)

    def go_on(self) -> None:
        """Send as many messages as may be under way; release when all are answered."""
        if self.core.state not in (State.STA6, State.STA8) or self.closed:
            return
        while self.begun < len(self.messages) and self.begun - len(self.answers) < self.window:
            message = self.messages[self.begun]
            self.begun += 1
            data = encode(message, self.network.chance)
            self.step(lambda data=data: self.core.send_pdata([data], self.network.now))  # type: ignore[misc]
            self.network.later(RESPONSE_TIMEOUT, lambda number=message.number: self._too_late(number))  # type: ignore[misc]
        if len(self.answers) == len(self.messages):
            self.release()

    def _too_late(self, number: int) -> None:
        if number not in self.answers:
            self.abort()


class Acceptor(Side):
    def __init__(self, network: Network) -> None:
        super().__init__(network, Role.ACCEPTOR)
        self.whole: list[int] = []
        self.owed = 0
        self._command = bytearray()
        self._data = bytearray()

    def on_event(self, event: AssociationEvent) -> None:
        if isinstance(event, AssociationRequested):
            if not self.stuck and self.network.chance.random() < 0.5:
                self.decide(event.request)  # within the event
            else:
                self.soon(lambda: self._decide_late(event.request))
        elif isinstance(event, ReleaseRequested | Released):
            self.respond_soon()
        elif isinstance(event, DataFragment):
            (self._command if event.is_command else self._data).extend(event.data)
            last = event.is_last and event.complete
            self.core.message_open = event.is_command or not last
            if last and not event.is_command:
                self._answer_soon(int.from_bytes(self._command, "big"), zlib.crc32(self._data))
                self._command.clear()
                self._data.clear()

    def decide(self, request: AssociateRequest) -> None:
        if self.core.state is not State.STA3:
            return
        drawn, now = self.network.chance.random(), self.network.now
        if drawn < 0.06:
            self.core.reject(AssociateReject(2, 3, 1), now)
        elif drawn < 0.1:
            self.network.calm = False
            self.core.abort(now)
        else:
            self.core.accept(accept_all(request), now)

    def _decide_late(self, request: AssociateRequest) -> None:
        self.step(lambda: self.decide(request))
        self.step(lambda: self.core.resume(self.network.now))

    def _answer_soon(self, number: int, checksum: int) -> None:
        self.whole.append(number)
        self.owed += 1
        self.core.our_turn = True

        def answer() -> None:
            if self.core.state not in (State.STA6, State.STA8) or self.closed:
                return
            content = number.to_bytes(4, "big") + checksum.to_bytes(4, "big")
            self.step(lambda: self.core.send_pdata([p_data(pdv(1, COMMAND | LAST, content))], self.network.now))
            self.owed -= 1
            if not self.owed:
                self.step(lambda: self.core.peer_turn(self.network.now))

        self.soon(answer)


def encode(message: Message, chance: random.Random) -> bytes:
    """A command and a data set, in fragments, some of which share a PDU."""
    size = chance.choice((10, 500, 4000, 16_000))
    at = range(0, len(message.data), size)
    found = [pdv(1, COMMAND | LAST, message.number.to_bytes(4, "big"))]
    found += [pdv(1, DATA | (LAST if one == at[-1] else 0), message.data[one : one + size]) for one in at]
    pdus, taken = [], 0
    while taken < len(found):
        count = chance.randint(1, 3)
        pdus.append(p_data(*found[taken : taken + count]))
        taken += count
    return b"".join(pdus)


def plan_faults(network: Network, requestor: Requestor, acceptor: Acceptor) -> None:
    """What befalls the association from outside, each at a moment of its own."""
    chance = network.chance

    def lose() -> None:
        network.cut = True
        requestor.lose()
        acceptor.lose()

    def swallow() -> None:
        network.swallows = True

    for work in (lose, swallow, requestor.abort, acceptor.abort):
        if chance.random() < 0.1:
            network.calm = False
            network.later(chance.choice((chance.uniform(0, 0.1), chance.uniform(0, 5))), work)
    for work in (requestor.release, acceptor.release):
        if chance.random() < 0.2:
            network.later(chance.choice((chance.uniform(0, 0.1), chance.uniform(0, 5))), work)
    if chance.random() < 0.15:  # both in the same moment: they collide
        moment = chance.uniform(0, 2)
        network.later(moment, requestor.release)
        network.later(moment, acceptor.release)


def simulate(seed: int) -> Course:
    """Run one seed to its end. Deterministic."""
    network = Network(seed)
    requestor = Requestor(network)
    network.now += network.delay()  # until the transport is open
    acceptor = Acceptor(network)
    requestor.peer, acceptor.peer = acceptor, requestor
    acceptor.step(lambda: None)
    drawn = network.chance.random()
    network.calm &= drawn >= 0.04 and not any(side.stuck or side.tired for side in (requestor, acceptor))
    if drawn < 0.02:
        requestor.abort()  # before it hears that it is
    elif drawn < 0.04:
        requestor.lose()
    else:
        requestor.connect()
    plan_faults(network, requestor, acceptor)
    network.run()
    for side in (requestor, acceptor):
        side.judge()
    if requestor.ending == "Released" and acceptor.ending not in ("", "Released", "TransportLost"):
        network.wrong.append(f"released for the requestor, {acceptor.ending} for the acceptor")
    if requestor.ending == "Released" and acceptor.whole != list(range(requestor.begun)):
        network.wrong.append(f"released in order, and {acceptor.whole} of {requestor.begun} messages arrived")
    if network.calm:
        for side in (requestor, acceptor):
            if side.timers or side.ending in ("Aborted", "TransportLost"):
                network.wrong.append(
                    f"nothing befell it, and it ended for the {side.name}: {side.ending}, {side.timers}"
                )
    if set(requestor.answers) - set(acceptor.whole):
        network.wrong.append("answered what never arrived")
    return Course(
        seed=seed,
        seconds=network.now - 1000.0,
        calm=network.calm,
        messages=requestor.begun,
        answered=len(requestor.answers),
        endings=(requestor.ending, acceptor.ending),
        timers=tuple(requestor.timers + acceptor.timers),
        states=tuple(dict.fromkeys(one.name for side in (requestor, acceptor) for one in side.states)),
        wrong=tuple(network.wrong),
    )


def main() -> int:
    course = simulate(int(sys.argv[1]))
    print(course)
    return bool(course.wrong)


if __name__ == "__main__":
    sys.exit(main())
