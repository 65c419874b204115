"""Malformed handshakes without end: each is judged as its kind asks for, and memory, descriptors, tasks and places stay
what they were after the first few.

A leak before authentication is the oldest fault of DICOM listeners: whoever can connect can end the process. A listener
that closed whatever comes would leak nothing either, so each answer is looked at, and the router's own count
of refusals must be that of the answers.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
import uvloop

from router.app.router import Router
from router.observe.logs import configure_logging
from tests.hostile.support import resident
from tests.support.peers import wait_for
from tests.support.plain_pdu import p_data
from tests.support.router_process import RouterProcess
from tests.support.script import ABORT, RELEASE_RQ, request
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report
from tests.torture.test_aborts import nothing_held, open_files, start, until

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PARTS = 10
"""Memory is looked at after each part of the campaign; the first is the warm-up."""
NOISE = 4 << 20
"""Bytes by which resident memory moves without a leak; over a million handshakes, less than 5 bytes each."""

Said = tuple[tuple[int, ...], ...]
"""What the router says until it closes: of each PDU the type, and of A-ASSOCIATE-RJ and A-ABORT the three bytes that
say why."""
ACCEPTED = (2,)
NO_REQUEST, NO_PDU, UNEXPECTED, MALFORMED = (7, 0, 0, 0), (7, 0, 2, 1), (7, 0, 2, 2), (7, 0, 2, 6)
NOT_THE_CONTEXT, NOT_THE_CALLED, NOT_THE_VERSION = (3, 1, 1, 2), (3, 1, 1, 7), (3, 1, 2, 2)
COUNTED = {
    NO_REQUEST: "malformed",
    MALFORMED: "malformed",
    NO_PDU: "not_dicom",
    NOT_THE_CALLED: "called_ae",
    NOT_THE_CONTEXT: "application_context",
    NOT_THE_VERSION: "protocol_version",
}
"""First answers, and the reason under which the router counts them."""


@dataclass(frozen=True)
class Kind:
    make: Callable[[random.Random], bytes]
    """What is sent in place of an A-ASSOCIATE-RQ; each differs from the one before it."""
    answers: frozenset[Said]
    """All of them come, and no other."""


def kinds() -> dict[str, Kind]:
    good = request()

    def titled(called: bytes, calling: bytes) -> bytes:
        return good[:10] + called.ljust(16)[:16] + calling.ljust(16)[:16] + good[42:]

    def flipped(randomness: random.Random) -> bytes:
        data = bytearray(good)
        for _ in range(randomness.randint(1, 4)):
            data[randomness.randrange(6, len(data))] = randomness.randrange(256)
        return bytes(data)

    def foreign(randomness: random.Random) -> bytes:
        # 22 would begin TLS, and be counted as that.
        noise = bytes([randomness.randrange(23, 256)]) + randomness.randbytes(63)
        return randomness.choice((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", noise))

    def kind(make: Callable[[random.Random], bytes], *answers: Said) -> Kind:
        return Kind(make, frozenset(answers))

    return {
        "nothing": kind(lambda _: b"", ()),
        "cut": kind(lambda r: good[: r.randrange(1, len(good))], ()),
        "claims 4 GiB": kind(lambda _: struct.pack(">BBI", 1, 0, 0xFFFFFFFF), (MALFORMED,)),
        "no DICOM": kind(foreign, (NO_PDU,)),
        "wrong first PDU": kind(lambda r: r.choice((RELEASE_RQ, p_data(1, 3, b"\0\0"))), (NO_REQUEST,)),
        "an item beyond its parent": kind(
            lambda r: good[:76] + struct.pack(">H", r.randrange(300, 65536)) + good[78:], (MALFORMED,)
        ),
        "other bytes": kind(
            flipped, (ACCEPTED,), (MALFORMED,), (NOT_THE_CALLED,), (NOT_THE_CONTEXT,), (NOT_THE_VERSION,)
        ),
        "another called AE": kind(lambda r: titled(b"NOBODY%d" % r.randrange(10**6), b"SENDER"), (NOT_THE_CALLED,)),
        "a calling AE of its own": kind(lambda r: titled(b"ROUTER", b"S%d" % r.randrange(10**9)) + ABORT, (ACCEPTED,)),
        "two requests": kind(lambda _: good + good, (ACCEPTED, UNEXPECTED)),
    }


def handshake(port: int, data: bytes, source: str) -> Said:
    """Sends it and no more, hears the router out, and resets: nothing stays in TIME_WAIT."""
    heard = b""
    with socket.socket() as connection:
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", port))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(4096):
            heard += piece
    said: list[tuple[int, ...]] = []
    while heard:
        end = 6 + int.from_bytes(heard[2:6], "big")
        assert len(heard) >= end, "half a PDU"
        said.append(ACCEPTED if heard[0] == 2 else (heard[0], *heard[7:10]))
        heard = heard[end:]
    return tuple(said)


class Judged:
    """What was sent and how it was answered."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._kinds = list(kinds().items())
        self.sent = 0
        self.answers: dict[str, Counter[Said]] = {name: Counter() for name in kinds()}

    def one(self) -> None:
        name, kind = self._kinds[self.sent % len(self._kinds)]
        source = f"127.0.{self.sent // 250 % 10}.{1 + self.sent % 250}"
        self.sent += 1
        data = kind.make(self._random)
        said = handshake(self._port, data, source)
        assert said in kind.answers, f"{name}: {said} to {data.hex()}"
        self.answers[name][said] += 1

    def counted(self) -> Counter[str]:
        """Refusals by reason, as the answers have them."""
        found: Counter[str] = Counter()
        for said in self.answers.values():
            for answer, number in said.items():
                if answer and answer[0] in COUNTED:
                    found[COUNTED[answer[0]]] += number
        return found

    def all_kinds_were_answered_in_all_ways(self) -> None:
        for name, kind in self._kinds:
            missing = kind.answers - self.answers[name].keys()
            # The version of the protocol is 2 bytes of some 200: a short share may not meet it.
            assert not missing or (missing == {(NOT_THE_VERSION,)} and self.sent < 100_000), (name, missing)


def refusals(router: RouterProcess) -> Counter[str]:
    reasons = sorted({*COUNTED.values(), "handshakes", "handshakes_per_address", "handshake_timeout", "address"})
    counts = {
        reason: int(router.metric("dicom_router_associations_rejected_total", reason=reason)) for reason in reasons
    }
    assert sum(counts.values()) == router.metric("dicom_router_associations_rejected_total"), "of other reasons, too"
    return Counter({reason: count for reason, count in counts.items() if count})


@pytest.mark.timeout(14400)
def test_malformed_handshakes_are_judged_and_leave_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    number = amount("handshakes", 2_000, 1_000_000)
    quiet = {"DICOM_ROUTER__LOG__LEVEL": "error"}
    with RouterProcess(tmp_path / "router", {}, limits="artim_timeout = 1.0", environment=quiet) as router:
        assert router.process is not None
        pid = router.process.pid
        files, memory = [], []
        judged = Judged(router.port, 20261123)
        for _ in range(PARTS):
            for _ in range(number // PARTS):
                judged.one()
            wait_for(lambda: router.metric("dicom_router_associations", direction="in") == 0, 30, "the last to be gone")
            files.append(len(os.listdir(f"/proc/{pid}/fd")))
            memory.append(resident(pid))
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= files[0], 30, "the end of every descriptor")
        grown = memory[-1] - memory[0]
        handshakes = number - number // PARTS
        counted = refusals(router)
        sender = WireSender(router.port, (CT, EXPLICIT))
        sender.close()
    judged.all_kinds_were_answered_in_all_ways()
    assert counted == judged.counted()
    assert router.log.read_text() == "", "an error of ours"
    assert grown <= NOISE, memory
    report(
        Figure(
            test="T22",
            promise="malformed handshakes of ten kinds, from 2,500 addresses",
            goal="each judged and counted; memory does not grow with their number; no descriptor, no place left",
            found="every answer that of its kind, every refusal counted with its reason ("
            + ", ".join(f"{count:,} {reason}" for reason, count in sorted(counted.items()))
            + f"); {grown / handshakes:.1f} bytes of memory per handshake ({grown / 1024:,.0f} KiB in all, after the "
            f"first {number // PARTS:,}); descriptors {files[0]} and {files[-1]}; a good peer is served",
            n=judged.sent,
            command=f"make torture (tests/torture/test_handshakes.py, --amount handshakes={number})",
        ),
        keep=campaign,
    )


async def counted_in_process(folder: Path, number: int) -> tuple[Judged, int, int]:
    """Against a router in this process; gives what was judged, and tasks and descriptors more than before."""
    router = await start(folder)
    try:
        judged = Judged(router.listeners[0].port, 20261124)

        async def some(count: int) -> None:
            for _ in range(count):
                await asyncio.to_thread(judged.one)

        await some(len(kinds()))  # what the first of each kind opens stays open
        await until(lambda: nothing_held(router), "the first to be gone")
        tasks, files = len(asyncio.all_tasks()), open_files()
        await some(number)
        await until(lambda: nothing_held(router), "the last to be gone")
        await until(lambda: len(asyncio.all_tasks()) <= tasks, "the end of every task")
        await until(lambda: open_files() <= files, "the end of every descriptor")
        assert rejections(router) == judged.counted()
        return judged, len(asyncio.all_tasks()) - tasks, open_files() - files
    finally:
        await router.close(grace=1)


def rejections(router: Router) -> Counter[str]:
    return Counter(router.metrics.listener(router.listeners[0].listener.name).rejections)


@pytest.mark.timeout(7200)
def test_malformed_handshakes_leave_no_task(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    number = amount("handshakes_in_process", 500, 50_000)
    configure_logging("json", level="error")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            judged, tasks, files = runner.run(counted_in_process(tmp_path, number))
    finally:
        structlog.reset_defaults()
    report(
        Figure(
            test="T22",
            promise="malformed handshakes of ten kinds: tasks, places and memory of handshakes, counted within",
            goal="0 left",
            found=f"{max(tasks, 0)} tasks, {max(files, 0)} descriptors, 0 places and 0 bytes of handshakes left; "
            f"{sum(judged.counted().values()):,} refusals, each counted with its reason",
            n=judged.sent,
            command=f"make torture (tests/torture/test_handshakes.py, --amount handshakes_in_process={number})",
        ),
        keep=campaign,
    )
