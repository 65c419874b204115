"""One object that its destination cannot take: it blocks nobody, and it is not forgotten.

One router and five destinations that all get the same. Four of them fail at one object among many, each in a manner of
its own, and take the rest. The fifth takes everything: when it gets an object is when the others should have got it,
in the same moment of the same machine, so what is compared is each object with itself.

The next object is sent when that destination has the one before it. So there are always others that could be blocked,
until the poisoned one has been tried often enough; in a campaign for longer than a minute, which is how long it waits
after three associations died on it. In one case nothing else is sent so long: what comes then must not wait either.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from router.dimse.command import encode_response, parse_command
from router.ul.pdus import AssociateAccept, ContextResult, UserInformation, decode_request, encode_accept
from tests.support.objects import encode, sha256, synthetic
from tests.support.peers import wait_for
from tests.support.plain_pdu import p_data
from tests.support.router_process import EVERYTHING, RouterProcess
from tests.support.script import ABORT, CT, EXPLICIT
from tests.support.wire import WireSender, WireSink, read_pdu
from tests.torture.figures import Figure, report

SEND_TIMEOUT = 2.0
"""Seconds that the router here waits for a response."""
NOISE = 1.0
"""Seconds by which two deliveries of one object may differ on a machine with other work to do."""
STRIKES = 3
"""Associations in a row that may die on an object; from then on it is sent alone."""
SIZE = 40_000
PDU = 16_384
"""Bytes, at most, that a destination takes at once: an object is several."""
BEHIND = 20
"""Objects behind the poisoned one, where their number is not left to the time that it takes."""
RELEASE_RP = bytes.fromhex("06000000000400000000")


class Manner(StrEnum):
    TAKES = "takes it"
    RESETS = "resets the connection within it"
    ABORTS = "answers it with A-ABORT"
    REFUSES = "answers it with 0xC000"
    SILENT = "never answers it"

    @property
    def destination(self) -> str:
        return self.name.lower()


KILLERS = (Manner.RESETS, Manner.ABORTS, Manner.SILENT)
POISONED = (*KILLERS, Manner.REFUSES)


@dataclass(eq=False)
class Association:
    """As its destination saw it."""

    uids: list[str] = field(default_factory=list)
    """Of every object that was begun on it, in order."""
    dropped: bool = False
    """The destination ended it, or fell silent for good."""


@dataclass(frozen=True)
class Arrival:
    digest: str
    at: float
    association: Association


class Destination(WireSink):
    """Takes everything, but for one object.

    Args:
        poison: SOP Instance UID.
        window: Operations that may be outstanding on an association.
    """

    def __init__(self, manner: Manner, poison: str, window: int) -> None:
        self.manner = manner
        self.arrived: dict[str, list[Arrival]] = {}
        """What was stored, by SOP Instance UID."""
        self.attempts: list[Association] = []
        """Those on which the poisoned object was begun."""
        self._poison = poison
        self._window = window
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        association = Association()
        with suppress(OSError), connection:
            while (pdu := read_pdu(connection)) is not None:
                kind, body = pdu
                if kind == 1:
                    connection.sendall(self._accepted(body))
                elif kind == 5:
                    connection.sendall(RELEASE_RP)
                    return
                elif kind != 4 or not self._store(connection, association, body):
                    return

    def _accepted(self, body: bytes) -> bytes:
        asked = decode_request(body)
        results = tuple(ContextResult(item.id, 0, item.transfer_syntaxes[0]) for item in asked.contexts)
        user = UserInformation(
            max_length=PDU,
            implementation_class_uid="2.25.1",
            async_window=(self._window, 1) if self._window > 1 else None,
        )
        return encode_accept(AssociateAccept(contexts=results, user=user, raw_header=asked.raw_header))

    def _store(self, connection: socket.socket, association: Association, body: bytes) -> bool:
        """One object, of which the command is there already. False: it is the end of the association."""
        command = parse_command(body[6:])
        uid = command.sop_instance
        assert uid is not None
        manner = self.manner if uid == self._poison else Manner.TAKES
        association.uids.append(uid)
        if uid == self._poison:
            self.attempts.append(association)
        digest = hashlib.sha256()
        while True:
            pdu = read_pdu(connection)
            if pdu is None or pdu[0] != 4:
                return False
            if manner is Manner.RESETS:
                association.dropped = True
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            context, control = pdu[1][4:6]
            digest.update(pdu[1][6:])
            if control & 2:
                break
        if manner in (Manner.ABORTS, Manner.SILENT):
            association.dropped = True
            connection.sendall(ABORT if manner is Manner.ABORTS else b"")
            while (pdu := read_pdu(connection)) is not None and pdu[0] == 4:
                pass  # until the router ends it
            return False
        if manner is Manner.TAKES:
            arrival = Arrival(digest.hexdigest(), time.monotonic(), association)
            self.arrived.setdefault(uid, []).append(arrival)
        connection.sendall(p_data(context, 3, encode_response(command, 0xC000 if manner is Manner.REFUSES else 0)))
        return True


@dataclass(frozen=True)
class Case:
    """Where the poisoned object stands, and what it could take along."""

    before: int
    """Objects before it; 0: it is the first that the router ever sends."""
    window: int = 1
    """Operations that the destinations allow at once."""
    waiting: bool = False
    """Everything up to some objects behind it waits when the destinations come back; else each is sent at once."""
    quiet: bool = False
    """Nothing else is sent until it has been tried often enough."""


CASES = (
    Case(before=20),
    Case(before=0),
    Case(before=20, window=8),
    Case(before=0, waiting=True),
    Case(before=20, window=8, waiting=True),
    Case(before=0, quiet=True),
)


@dataclass
class Seen:
    """Of one case, or of several."""

    others: int = 0
    """Deliveries of other objects to destinations that fail at one."""
    repeated: int = 0
    later: float = 0.0
    """Seconds, at most, after the arrival where nothing fails."""
    owed: int = 0
    """Deliveries of the poisoned object."""

    def add(self, one: Seen) -> None:
        self.others += one.others
        self.repeated += one.repeated
        self.later = max(self.later, one.later)
        self.owed += one.owed


class Bench:
    """A router with its destinations, and a sender."""

    def __init__(self, folder: Path, case: Case, number: int, stack: ExitStack) -> None:
        self.case = case
        self._root = 1_000_000 * (number + 1)
        self.poison = f"2.25.{self._root}"
        self.sinks = {manner: Destination(manner, self.poison, case.window) for manner in Manner}
        for sink in self.sinks.values():
            stack.callback(sink.close)
        destinations = "".join(
            f'[destinations.{manner.destination}]\nurl = "dicom://SINK@127.0.0.1:{sink.port}"\n'
            f"response_timeout = {SEND_TIMEOUT}\n"
            for manner, sink in self.sinks.items()
        )
        rules = EVERYTHING.format(names=json.dumps([manner.destination for manner in Manner]))
        self.router = stack.enter_context(RouterProcess(folder, {}, rules=rules, extra=destinations))
        self.sent: dict[str, str] = {}
        """SHA-256 of every object that was answered 0x0000."""
        self.late = 0.0
        """Seconds, at most, from the answer to the arrival where nothing fails, of what does not wait there."""
        self._stack = stack
        self._associate()

    def _associate(self) -> None:
        self._sender = self._stack.enter_context(closing(WireSender(self.router.port, (CT, EXPLICIT))))

    def send(self, uid: str = "", *, arrives: bool = True) -> None:
        """One object; comes back when it has arrived where nothing fails."""
        uid = uid or f"2.25.{self._root + len(self.sent) + 1}"
        data = encode(synthetic(size=SIZE, sop_instance=uid))
        assert self._sender.store(uid, data) == 0
        answered = time.monotonic()
        self.sent[uid] = sha256(data)
        if arrives:
            arrived = self.sinks[Manner.TAKES].arrived
            wait_for(lambda: uid in arrived, 30, "delivery where nothing fails")
            self.late = max(self.late, arrived[uid][0].at - answered)

    def send_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, {m.name: len(self.sinks[m].attempts) for m in POISONED}
            self.send()

    def tell(self, what: str) -> None:
        for manner in Manner:
            self.router.post(f"/api/v1/destinations/{manner.destination}/{what}")

    def tried(self, deaths: int) -> bool:
        return bool(self.sinks[Manner.REFUSES].attempts) and all(
            len(self.sinks[manner].attempts) >= deaths for manner in KILLERS
        )

    def have_others(self) -> bool:
        return all(self.sent.keys() - {self.poison} <= self.sinks[manner].arrived.keys() for manner in POISONED)

    def run(self, deaths: int) -> None:
        """Until so many associations of each destination that drops them have died on it."""
        waiting = self.case.waiting
        if waiting:
            self.tell("pause")
        for _ in range(self.case.before):
            self.send(arrives=not waiting)
        self.send(self.poison, arrives=not waiting)
        if waiting:
            for _ in range(BEHIND):
                self.send(arrives=False)
            self.tell("resume")
        tried, seconds = partial(self.tried, deaths), 40 + 100 * max(0, deaths - STRIKES)
        if self.case.quiet:
            wait_for(tried, seconds, "as many attempts")
            self._associate()  # the router has ended an association that was idle for so long
            for _ in range(BEHIND):
                self.send()
        else:
            self.send_until(tried, seconds)
        wait_for(self.have_others, 60, "delivery of everything else")

    # What was seen -----------------------------------------------------------------------------------------

    def later(self, manner: Manner) -> float:
        """Seconds, at most, by which another object arrived here after it had where nothing fails."""
        here, there = self.sinks[manner].arrived, self.sinks[Manner.TAKES].arrived
        return max(here[uid][0].at - there[uid][0].at for uid in self.sent if uid != self.poison)

    def repeats(self, manner: Manner) -> list[Arrival]:
        """Arrivals that were followed by another one of the same object."""
        return [one for arrivals in self.sinks[manner].arrived.values() for one in arrivals[:-1]]

    def ask(self, path: str, key: str, **query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.router.get(f"/api/v1/{path}?{urlencode(query)}"))[key]
        return rows

    def states(self) -> dict[str, str]:
        """Of the deliveries of the poisoned object, by destination."""
        [story] = self.ask("trace", "instances", selector=self.poison)
        return {delivery["destination"]: delivery["state"] for delivery in story["deliveries"]}

    def owes_only_the_poisoned(self) -> bool:
        """By its own account: whatever waits, is on its way or was given up."""
        for manner in Manner:
            asked = {"destination": manner.destination, "limit": "500"}
            rows = self.ask("queue", "deliveries", **asked) + self.ask("dead-letters", "dead_letters", **asked)
            if [row["sop_instance"] for row in rows] != [self.poison] * (manner in POISONED):
                return False
        return True

    def judge(self) -> Seen:
        """All that a poisoned object must not do, at each destination."""
        seen = Seen()
        later = {manner: self.later(manner) for manner in POISONED}
        print(f"\n{self.case}, {len(self.sent)} objects, {self.late:.2f} s on their way at most where nothing fails:")
        for manner in POISONED:
            tried = len(self.sinks[manner].attempts)
            print(f"  {manner}: tried {tried} ×, others up to {later[manner]:.2f} s later")
        for manner, sink in self.sinks.items():
            good = {uid: digest for uid, digest in self.sent.items() if uid != self.poison or manner is Manner.TAKES}
            assert sink.arrived.keys() == good.keys(), manner
            for uid, arrivals in sink.arrived.items():
                assert {arrival.digest for arrival in arrivals} == {good[uid]}, (manner, uid)
            again = self.repeats(manner)
            assert all(one.association.dropped for one in again), f"repeated where nothing was dropped: {manner}"
            seen.repeated += len(again)
        for manner in KILLERS:
            for number, association in enumerate(self.sinks[manner].attempts[STRIKES:], STRIKES + 1):
                assert association.uids == [self.poison], f"attempt {number} was not alone: {manner}"
        wait_for(self.owes_only_the_poisoned, 30, "nothing to be owed but the poisoned object")
        states = self.states()
        assert states.pop(Manner.TAKES.destination) == "done"
        assert states.keys() == {manner.destination for manner in POISONED}
        assert set(states.values()) <= {"ready", "leased", "dead"}, states
        assert self.late <= SEND_TIMEOUT
        assert all(seconds <= SEND_TIMEOUT + NOISE for seconds in later.values()), later
        seen.others = (len(self.sent) - 1) * len(POISONED)
        seen.later = max(later.values())
        seen.owed = len(states)
        return seen


@pytest.mark.timeout(1800)
def test_a_poisoned_object_never_blocks_its_queue(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("poisoned", 1, len(CASES))
    deaths = amount("poisoned_deaths", STRIKES, STRIKES + 1)
    seen = Seen()
    for number, case in enumerate(CASES[:count]):
        with ExitStack() as stack:
            bench = Bench(tmp_path / f"case{number}", case, number, stack)
            bench.run(deaths)
            seen.add(bench.judge())
            assert bench.router.stop() == 0
    report(
        Figure(
            test="T9",
            promise="a poisoned object, at which its destination resets, aborts, refuses or is silent, blocks no other",
            goal=f"0 others lost; none later by more than one send timeout, {SEND_TIMEOUT:.0f} s, and {NOISE:.0f} s of "
            f"noise; {f'sent alone after {STRIKES} dead associations; ' * (deaths > STRIKES)}still owed",
            found=f"0 of {seen.others:,} other deliveries lost or changed, {seen.repeated:,} repeated, each after a "
            f"dropped association; {max(0.0, seen.later):.2f} s later at most; {seen.owed} of {seen.owed} still owed",
            n=seen.others,
            command=f"make torture (tests/torture/test_poisoned.py, --amount poisoned={count} "
            f"--amount poisoned_deaths={deaths})",
        ),
        keep=campaign,
    )
