"""A destination that was down is back: its backlog drains, and live traffic does not wait for it.

Destination and router are joined by a link of so many bytes a second, which all connections together share in the
order in which their bytes come, as the line to an archive does. It is far below what the machine can do: what is seen
is whose turn it is, not who has the processor. The live sender keeps one pace all the time, a fifth of the link, and
each round compares what its objects saw while a backlog drained with what they saw just before, when nothing waited.

What such a link allows: what is in flight cannot be overtaken, and each association has one object in flight. A live
one waits until the first association is free, at most for as long as the link needs for one object, and shares the link
with the others then. With n associations it is late by up to n objects, wherever they queue; with one, by the one that
is on its way. The campaign tries both: as many as a destination has unless told, which fill the link, and one.

How late a live object is, is also counted in objects of the backlog that arrive between its answer and its arrival: a
busy machine makes everything later, but whose turn it is stays the same.

    python -m tests.torture.test_drain UPSTREAM_PORT RATE

is the link. Prints ``ready PORT``. ``down`` on its standard input: what is open and what comes is reset, until ``up``;
both are answered by ``ok``. Ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.flow import share
from router.model import Destination
from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.told import Told
from tests.support.wire import WireSender
from tests.torture.books import Page
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle, Verdict, left_nothing
from tests.torture.strict.scratch import scratch

DEFAULT = Destination(name="", kind="dicom").max_associations
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SIZE = 192 * 1024
RATE = 20_000_000
ALONE = SIZE / RATE
"""Seconds that the link needs for one object."""
PAUSE = 5 * ALONE
"""Between two live objects, on average."""
PIECE = 16384
AHEAD = 8
"""Pieces of a connection that have their time on the link and wait for it."""


# The link, in a process of its own --------------------------------------------------------------------------


class Wire:
    """What the upstream gets has to pass one after the other; answers are not limited."""

    def __init__(self, upstream: int, rate: float) -> None:
        self._upstream = upstream
        self._rate = rate
        self._free = 0.0
        """When everything that has its time has passed."""
        self._down = False
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]

    async def accept(self) -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(self._listening)
            if self._down:
                _linger_not(near)
                near.close()
                continue
            task = asyncio.create_task(self._serve(near))
            self._open[task] = near
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step does nothing at all.
        self._open.pop(task).close()

    async def turn(self, *, down: bool) -> None:
        self._down = down
        if down:
            ending = dict(self._open)
            for task, near in ending.items():
                _linger_not(near)
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, near: socket.socket) -> None:
        far = socket.socket()
        far.setblocking(False)
        try:
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self._upstream))
            async with asyncio.TaskGroup() as group:
                for source, target, limited in ((near, far, True), (far, near, False)):
                    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)
                    group.create_task(self._read(source, pieces, limited=limited))
                    group.create_task(self._write(target, pieces))
        except* (OSError, asyncio.CancelledError):
            for end in (near, far):
                _linger_not(end)
        finally:
            far.close()

    async def _read(self, source: socket.socket, pieces: asyncio.Queue[tuple[float, bytes]], *, limited: bool) -> None:
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            data = await loop.sock_recv(source, PIECE)
            if limited:
                self._free = max(self._free, loop.time()) + len(data) / self._rate
            await pieces.put((self._free if limited else 0.0, data))

    async def _write(self, target: socket.socket, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await pieces.get()
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(target, data)


def _linger_not(end: socket.socket) -> None:
    """Closing it sends RST."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def serve(upstream: int, rate: float) -> None:
    wire = Wire(upstream, rate)
    accepting = asyncio.create_task(wire.accept())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(f"ready {wire.port}", flush=True)
    while line := await commands.readline():
        await wire.turn(down=line == b"down\n")
        print("ok", flush=True)
    accepting.cancel()
    await wire.turn(down=True)


class Link(Told):
    """A running link to ``upstream``; leave the ``with`` block and it has ended."""

    def __init__(self, upstream: int, rate: float = RATE) -> None:
        super().__init__("tests.torture.test_drain", upstream, rate)
        self.port = self.ready()


# The measurement --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    uid: str
    began: float
    answered: float


@dataclass
class Seen:
    """Of each live object: seconds from its first byte sent, and how many of the backlog came in before it."""

    answered: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)


@dataclass
class Compared:
    """What live objects saw when nothing waited, and while backlogs drained; how full the link was then."""

    normal: Seen = field(default_factory=Seen)
    drain: Seen = field(default_factory=Seen)
    rates: list[float] = field(default_factory=list)

    @property
    def response(self) -> tuple[float, float]:
        return share(self.normal.answered, 0.99), share(self.drain.answered, 0.99)

    @property
    def delivery(self) -> tuple[float, float]:
        return share(self.normal.arrived, 0.99), share(self.drain.arrived, 0.99)

    @property
    def rate(self) -> float:
        return min(self.rates)

    def __str__(self) -> str:
        parts = [
            f"{share(self.drain.arrived, part) * 1e3:.1f} ms to the arrival of {part:.0%} "
            f"(normally {share(self.normal.arrived, part) * 1e3:.1f}), "
            f"{share(self.drain.answered, part) * 1e3:.1f} ms to the answer "
            f"(normally {share(self.normal.answered, part) * 1e3:.1f}), "
            f"behind {share(self.drain.before, part):.0f} of the backlog"
            for part in (0.5, 0.99)
        ]
        return "; ".join([*parts, f"link {self.rate:.0%} full"])


class Bench:
    """A router with one destination at the end of a link, and a modality."""

    def __init__(self, folder: Path, oracle: Oracle, link: Link, associations: int) -> None:
        self.oracle = oracle
        self.link = link
        url = f"dicom://RECORDER@127.0.0.1:{link.port}"
        self.router = RouterProcess(folder, {"d0": url}, extra=f"max_associations = {associations}\n")
        self._arrivals: dict[str, float] = {}
        self._page = Page(oracle.arrivals[0])
        self._chance = random.Random(associations)
        self._data = encode(synthetic(size=SIZE, sop_instance="1" * 60, study="1" * 60))
        self._number = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        with contextlib.ExitStack() as stack:
            self._book = stack.enter_context(contextlib.closing(self.oracle.book("modality")))
            stack.enter_context(self.router)
            self._modality = stack.enter_context(contextlib.closing(WireSender(self.router.port, (CT, EXPLICIT))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def store(self, count: int) -> list[Sent]:
        return [self._store() for _ in range(count)]

    def _store(self) -> Sent:
        self._number += 1
        uid = f"2.25.9{self._number:054d}"
        data = self._data.replace(b"1" * 60, uid.encode())
        self._book.intend(uid, data)
        began = time.monotonic()
        status = self._modality.store(uid, data)
        answered = time.monotonic()
        assert status == 0
        self._book.answered(uid)
        return Sent(uid, began, answered)

    def live(self, enough: Callable[[list[Sent]], bool], seconds: float = 300) -> list[Sent]:
        """Objects at the live pace, not in step with anything."""
        sent: list[Sent] = []
        due = time.monotonic()
        deadline = due + seconds
        while not enough(sent):
            assert time.monotonic() < deadline, f"not enough within {seconds} s"
            due += PAUSE * self._chance.uniform(0.5, 1.5)
            time.sleep(max(0.0, due - time.monotonic()))
            sent.append(self._store())
        return sent

    def have_arrived(self, sent: list[Sent]) -> bool:
        for uid, _, at in self._page.turn():
            self._arrivals.setdefault(uid, float(at))
        return all(one.uid in self._arrivals for one in reversed(sent))

    def settle(self) -> None:
        """Wait until the router has heard an answer to everything: what it has not, it sends again after an outage."""
        labels = {"destination": "d0", "outcome": "delivered"}
        wait_for(
            lambda: self.router.metric("dicom_router_deliveries_total", **labels) >= self._number, 300, "all deliveries"
        )
        self.have_arrived([])

    def outage(self, objects: int, *, tried_since: bool) -> list[Sent]:
        """What is answered while the destination is down; then it is back, and the router's rest has ended.

        Args:
            tried_since: The router has tried in vain once more after the last of them had come.
        """
        before = self._rested()
        self.link.tell("down")
        backlog = self.store(1)
        self._wait_for_rest(before + 1)
        for _ in range(2):  # the rest is long enough then for all that comes
            self._try_in_vain()
        backlog += self.store(objects - 1)
        if tried_since:
            self._try_in_vain()
        assert not self.have_arrived(backlog[:1])
        self.link.tell("up")
        self._try()
        return backlog

    def _try(self) -> None:
        """As at the end of a rest."""
        self.router.post("/api/v1/destinations/d0/resume")

    def _try_in_vain(self) -> None:
        before = self._rested()
        self._try()
        self._wait_for_rest(before + 1)

    def _wait_for_rest(self, number: int) -> None:
        wait_for(lambda: self._rested() >= number, 30, "a rest")

    def _rested(self) -> int:
        return self.router.log.read_text().count("destination rests")

    def compare(self, compared: Compared, *, live: int, objects: int, tried_since: bool) -> None:
        normal = self.live(lambda sent: len(sent) >= live)
        self.settle()
        backlog = self.outage(objects, tried_since=tried_since)
        during = self.live(lambda _: self.have_arrived(backlog))
        self.settle()
        moments = [self._arrivals[one.uid] for one in backlog]
        first, last = min(moments), max(moments)
        passed = sum(first < at <= last for at in self._arrivals.values()) * len(self._data)
        compared.rates.append(passed / (last - first) / RATE)
        self._add(compared.normal, normal, moments)
        self._add(compared.drain, [one for one in during if first < one.began < last], moments)

    def _add(self, seen: Seen, sent: list[Sent], moments: list[float]) -> None:
        for one in sent:
            arrived = self._arrivals[one.uid]
            seen.answered.append(one.answered - one.began)
            seen.arrived.append(arrived - one.began)
            seen.before.append(sum(one.answered < at < arrived for at in moments))


def pump(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as near:
        near.sendall(bytes(size))


def test_connections_share_the_rate_of_the_link_and_are_reset_with_it() -> None:
    size = RATE // 8
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Link(server.getsockname()[1]) as link,
        ThreadPoolExecutor(4) as threads,
    ):
        server.settimeout(20)
        started = time.monotonic()
        sending = [threads.submit(pump, link.port, size) for _ in range(2)]
        reading = [threads.submit(count, server.accept()[0]) for _ in sending]
        assert [one.result(30) for one in reading] == [size, size]
        assert 0.24 <= time.monotonic() - started < 5
        with socket.create_connection(("127.0.0.1", link.port), timeout=20) as near:
            link.tell("down")
            with pytest.raises(ConnectionResetError):
                near.recv(1)
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", link.port), timeout=20) as near,
        ):
            near.recv(1)


def count(end: socket.socket) -> int:
    with end:
        end.settimeout(20)
        return sum(len(data) for data in iter(lambda: end.recv(1 << 20), b""))


# ------------------------------------------------------------------------------------------------------------


def ratio(pair: tuple[float, float]) -> float:
    normal, drain = pair
    return drain / normal


def times(pair: tuple[float, float]) -> str:
    normal, drain = pair
    return f"{drain / normal:.2f} × ({drain * 1e3:.1f} ms, normally {normal * 1e3:.1f} ms)"


@pytest.mark.timeout(1800)
def test_a_backlog_drains_and_live_traffic_goes_on(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    rounds = amount("drain_rounds", 1, 2)
    objects = amount("drain_backlog", 60, 600)
    live = amount("drain_live", 20, 150)
    for associations in (DEFAULT, 1) if campaign else (DEFAULT,):
        seen = {True: Compared(), False: Compared()}
        with (
            scratch() as folder,  # the destination has a disk of its own
            Oracle(folder, destinations=1) as oracle,
            Link(oracle.ports[0]) as link,
            Bench(tmp_path / f"router{associations}", oracle, link, associations) as bench,
        ):
            bench.store(20)  # warms up
            bench.settle()
            for _ in range(rounds):
                for tried_since, compared in seen.items():
                    bench.compare(compared, live=live, objects=objects, tried_since=tried_since)
            left_nothing(bench.router)
            assert oracle.drained()
            verdict = oracle.judge()
        assert (verdict.wrong, verdict.unexplained, verdict.duplicates) == (0, 0, 0)
        judge(associations, seen, verdict, rounds, objects, campaign=campaign)


def judge(
    associations: int, seen: dict[bool, Compared], verdict: Verdict, rounds: int, objects: int, *, campaign: bool
) -> None:
    rate = min(one.rate for one in seen.values())
    response = max((one.response for one in seen.values()), key=ratio)
    command = (
        f"make torture (tests/torture/test_drain.py, --amount drain_rounds={rounds} --amount drain_backlog={objects})"
    )
    where = f"a destination that was down is back, {associations} association{'s'[: associations > 1]} to it"
    for tried_since, one in seen.items():
        print(f"\n{where}, {'tried in vain since the last had come' if tried_since else 'not tried since'}: {one}")
    for tried_since, one in seen.items():
        assert one.drain.arrived, "nothing was seen"
        assert share(one.drain.before, 0.5) <= 2 * (associations + 1), (
            f"live objects wait for the backlog, tried since: {tried_since}"
        )
    if campaign and associations == DEFAULT:
        assert rate >= 0.7
    report(
        Figure(
            test="T9",
            promise=f"{where}: its backlog drains, and live senders are answered as ever",
            goal="≥ 70 % of the link; response p99 ≤ 2 × normal; 0 lost or repeated",
            found=f"{rate:.1%} of {RATE / 1e6:.0f} MB/s at worst; response p99 {times(response)}; "
            f"{verdict.wrong} of {verdict.deliveries:,} lost, changed or astray, {verdict.repeated}",
            n=verdict.deliveries,
            command=command,
            met=rate >= 0.7 and ratio(response) <= 2,
        ),
        keep=campaign,
    )
    report(
        Figure(
            test="T9",
            promise=f"{where}: live objects pass its backlog",
            goal="delivery p99 ≤ 2 × normal",
            found="; ".join(
                f"{times(one.delivery)}, behind {share(one.drain.before, 0.99):.0f} of the backlog, if it was "
                f"{'tried in vain after the last of it had come' if tried_since else 'not tried since that came'}"
                for tried_since, one in seen.items()
            ),
            n=sum(len(one.drain.arrived) for one in seen.values()),
            command=command,
            met=all(ratio(one.delivery) <= 2 for one in seen.values()),
        ),
        keep=campaign,
    )


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
