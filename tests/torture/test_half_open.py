"""Connections that are open at one end only: a cable that was pulled, a firewall that forgot.

Packets to and from one port of loopback are dropped both ways while an object is on its way, at every stage of it; or
the connection is killed from outside. Nobody is told, so only deadlines can notice. Nothing may be left of it, nothing
answered 0x0000 may be lost, and nobody else may wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from router.dimse.command import encode_c_store_rq
from router.model import SpoolSettings
from tests.support.firewall import cut_off, kill_connections
from tests.support.objects import encode, sha256, synthetic
from tests.support.peers import cannot, wait_for
from tests.support.plain_pdu import fragments, p_data
from tests.support.router_process import RouterProcess
from tests.support.wire import MAX, WireSender, WireSink
from tests.torture.figures import Figure, report

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SILENCE = 1.0
"""Seconds that the router here waits for a peer."""
SHORT = (
    "".join(f"{name} = {SILENCE}\n" for name in ("rate_window", "idle_timeout", "handshake_timeout", "artim_timeout"))
    + "object_memory = 65536\n"
)
OWN_DEADLINES = 75.0
"""Seconds after which a place is free again with the product's own deadlines: a sender is too slow after the second
window of 30 s, as the first was not empty; a connection is lost when nothing was acknowledged for 60 s."""
DEADLINES = f"response_timeout = {SILENCE}\nconnect_timeout = {SILENCE}\nacse_timeout = {SILENCE}\n"
EVERYTHING = '[[rule]]\nname = "everything"\nto = ["vanishing", "steady"]\n'


def messages(uid: str, size: int) -> bytes:
    """A whole C-STORE-RQ as it goes over the wire."""
    data = encode(synthetic(size=size, sop_instance=uid))
    pieces = fragments(data, MAX)
    parts = [p_data(1, 3, encode_c_store_rq(1, CT, uid))]
    parts += [p_data(1, 2 if number == len(pieces) else 0, piece) for number, piece in enumerate(pieces, 1)]
    return b"".join(parts)


def descriptors(router: RouterProcess) -> int:
    assert router.process is not None
    return len(os.listdir(f"/proc/{router.process.pid}/fd"))


def segments(router: RouterProcess) -> int:
    return len(list((router.folder / "data" / "spool").glob("*.seg")))


def associated(router: RouterProcess) -> float:
    return router.metric("dicom_router_associations", direction="in")


def stages(count: int, length: int) -> list[int]:
    """After how many bytes of the message the cable is pulled: in the command, the data set, before the last byte."""
    return sorted({0, 5, 90, length - 1, *(length * step // count for step in range(1, count))})


def send_parts(router: RouterProcess, stack: ExitStack, whole: bytes, ends: list[int]) -> None:
    """So much of a message each, on associations that stay open."""
    senders = [stack.enter_context(closing(WireSender(router.port, (CT, EXPLICIT)))) for _ in ends]
    wait_for(lambda: associated(router) == len(ends), 20, "all to be associated")
    for sender, end in zip(senders, ends, strict=True):
        sender.connection.sendall(whole[:end])


def left_no_part(router: RouterProcess) -> None:
    wait_for(lambda: segments(router) <= SpoolSettings().spare_segments, 10, "only spare segments to be left")
    assert router.metric("dicom_router_instances_received_total") == 0


@pytest.mark.timeout(900)
def test_a_sender_that_vanishes_within_an_object_leaves_nothing_and_keeps_nobody_waiting(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("half_open", 3, 60)
    whole = messages("2.25.1", 200_000)
    ends = stages(count, len(whole))
    with WireSink(keep=False) as sink, ExitStack() as stack:
        router = RouterProcess(tmp_path / "router", {"archive": f"dicom://SINK@127.0.0.1:{sink.port}"}, limits=SHORT)
        with router:
            wait_for(lambda: associated(router) == 0, 20, "quiet")
            WireSender(router.port, (CT, EXPLICIT)).close()
            wait_for(lambda: associated(router) == 0, 20, "the first to be gone")
            before = descriptors(router)
            send_parts(router, stack, whole, ends)
            with cut_off(router.port):
                began = time.monotonic()
                wait_for(lambda: associated(router) == 0, 30, "the deadlines")
                wait_for(lambda: descriptors(router) <= before, 30, "all descriptors to be given back")
                took = time.monotonic() - began
            left_no_part(router)
            data = encode(synthetic(size=200_000, sop_instance="2.25.2"))
            with closing(WireSender(router.port, (CT, EXPLICIT))) as good:
                assert good.store("2.25.2", data) == 0
            wait_for(lambda: sink.digests == [sha256(data)], 30, "the object of who comes after")
    report(
        Figure(
            test="T18",
            promise="half-open: senders that vanish within an object (packets dropped both ways)",
            goal="0 associations, descriptors or partial objects left",
            found=f"0 left after {took:.1f} s, with deadlines of {SILENCE:.0f} s",
            n=len(ends),
            command=f"make torture (tests/torture/test_half_open.py, --amount half_open={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(900)
def test_a_vanished_sender_is_noticed_by_the_products_own_deadlines(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("half_open_by_default", 0, 8)
    if not count:
        pytest.skip("only in a campaign")
    whole = messages("2.25.1", 200_000)
    ends = stages(count, len(whole))
    with WireSink(keep=False) as sink, ExitStack() as stack:
        router = RouterProcess(tmp_path / "router", {"archive": f"dicom://SINK@127.0.0.1:{sink.port}"})
        with router:
            wait_for(lambda: associated(router) == 0, 20, "quiet")
            before = descriptors(router)
            send_parts(router, stack, whole, ends)
            with cut_off(router.port):
                took = free_again(router, "in")
                wait_for(lambda: descriptors(router) <= before, 30, "all descriptors to be given back")
            left_no_part(router)
            data = encode(synthetic(size=200_000, sop_instance="2.25.1"))
            with closing(WireSender(router.port, (CT, EXPLICIT))) as returned:
                assert returned.store("2.25.1", data) == 0
            wait_for(lambda: sink.digests == [sha256(data)], 30, "the object, once it is sent whole")
    report(
        Figure(
            test="T18",
            promise="half-open, no deadline configured: senders that vanish within an object",
            goal=f"places free ≤ {OWN_DEADLINES:.0f} s after it; 0 descriptors or partial objects left",
            found=f"free after {took:.1f} s; 0 left; the object arrived when it was sent again",
            n=len(ends),
            command=f"make torture (tests/torture/test_half_open.py, --amount half_open_by_default={count})",
        ),
        keep=campaign,
    )


def free_again(router: RouterProcess, direction: str) -> float:
    """Seconds from now until no association of this direction is left."""
    began = time.monotonic()
    open_ = partial(router.metric, "dicom_router_associations", direction=direction)
    wait_for(lambda: open_() == 0, OWN_DEADLINES, f"the end of every association ({direction})")
    return time.monotonic() - began


def arrives(sink: WireSink, data: bytes, seconds: float) -> None:
    digest = sha256(data)
    wait_for(lambda: digest in sink.digests, seconds, "an object to arrive")


def is_down(router: RouterProcess, destination: str) -> bool:
    return router.metric("dicom_router_destination_up", destination=destination) == 0


class PulledCable(WireSink):
    """A destination that reads up to a byte of an object, and then waits until somebody has pulled the cable."""

    def __init__(self) -> None:
        self.pull_at: int | None = None
        self.reached = threading.Event()
        self.pulled = threading.Event()
        super().__init__(self._look, keep=False)

    def arm(self, at: int) -> None:
        """The next object, at this byte of its data set."""
        self.reached.clear()
        self.pulled.clear()
        self.pull_at = self.arriving + at

    def _look(self, arriving: int) -> None:
        if self.pull_at is not None and arriving + MAX > self.pull_at:
            self.pull_at = None
            self.reached.set()
            self.pulled.wait(60)


@pytest.mark.timeout(900)
def test_a_destination_that_vanishes_within_an_object_gets_it_later_and_the_others_at_once(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("vanished", 1, 20)
    size = 400_000
    late = []
    with PulledCable() as vanishing, WireSink(keep=False) as steady:
        destinations = "".join(
            f'[destinations.{name}]\nurl = "dicom://SINK@127.0.0.1:{sink.port}"\n{DEADLINES}'
            for name, sink in (("vanishing", vanishing), ("steady", steady))
        )
        with RouterProcess(tmp_path / "router", {}, rules=EVERYTHING, extra=destinations) as router:
            down = partial(is_down, router, "vanishing")
            for number in range(count):
                uid = f"2.25.{1000 + number}"
                data = encode(synthetic(size=size, sop_instance=uid))
                vanishing.arm(len(data) * (2 * number + 1) // (2 * count))
                with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
                    assert sender.store(uid, data) == 0
                assert vanishing.reached.wait(30)
                with cut_off(vanishing.port):
                    vanishing.pulled.set()
                    arrives(steady, data, 10)
                    wait_for(down, 20, "the router to know that it is down")
                healed = time.monotonic()
                arrives(vanishing, data, 60)
                late.append(time.monotonic() - healed)
            wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 30, "an empty queue")
            assert router.metric("dicom_router_dead_letters") == 0
        assert len(steady.digests) == count
    report(
        Figure(
            test="T18",
            promise="half-open: destinations that vanish within an object (packets dropped both ways)",
            goal="0 lost; the others are served meanwhile",
            found=f"0 lost, 0 dead letters; delivered {max(late):.1f} s after the return at most",
            n=count,
            command=f"make torture (tests/torture/test_half_open.py, --amount vanished={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(900)
def test_a_vanished_destination_is_noticed_by_the_products_own_deadlines(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """Each of several at another byte of one object; the last has all of it but the end of the last fragment."""
    count = amount("vanished_by_default", 0, 6)
    if not count:
        pytest.skip("only in a campaign")
    data = encode(synthetic(size=4_000_000, sop_instance="2.25.1"))
    digest = sha256(data)
    with ExitStack() as stack:
        sinks = [PulledCable() for _ in range(count)]
        for number, sink in enumerate(sinks, 1):
            stack.callback(sink.close)
            sink.arm(len(data) * number // count - 1)
        urls = {f"d{number}": f"dicom://SINK@127.0.0.1:{sink.port}" for number, sink in enumerate(sinks)}
        router = stack.enter_context(RouterProcess(tmp_path / "router", urls))
        with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
            assert sender.store("2.25.1", data) == 0
        for sink in sinks:
            assert sink.reached.wait(30)
        wait_for(
            lambda: router.metric("dicom_router_associations", direction="out") == count, 10, "all to be under way"
        )
        with ExitStack() as cables:
            for sink in sinks:
                cables.enter_context(cut_off(sink.port))
            for sink in sinks:
                sink.pulled.set()
            took = free_again(router, "out")
            had = [sink.digests.count(digest) for sink in sinks]  # without an answer that came through
            assert router.metric("dicom_router_deliveries_total", outcome="delivered") == 0
        healed = time.monotonic()
        wait_for(
            lambda: all(sink.digests.count(digest) > before for sink, before in zip(sinks, had, strict=True)),
            60,
            "the object at each of them",
        )
        late = time.monotonic() - healed
        wait_for(lambda: router.metric("dicom_router_queue_depth") == 0, 30, "an empty queue")
        assert router.metric("dicom_router_deliveries_total", outcome="delivered") == count
        assert router.metric("dicom_router_dead_letters") == 0
        assert router.stop() == 0
    report(
        Figure(
            test="T18",
            promise="half-open, no deadline configured: destinations that vanish within an object",
            goal=f"associations free ≤ {OWN_DEADLINES:.0f} s after it; the object delivered after the return",
            found=f"free after {took:.1f} s; delivered {late:.1f} s after the return; 0 dead letters",
            n=count,
            command=f"make torture (tests/torture/test_half_open.py, --amount vanished_by_default={count})",
        ),
        keep=campaign,
    )


def kill(port: int) -> bool:
    """Gives whether there was one to kill."""
    killed = kill_connections(port)
    if killed is None:
        cannot("this system lets nobody kill a connection")
    return killed


@pytest.mark.timeout(300)
def test_connections_killed_from_outside_lose_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """At both ends at once, while objects go in and out (``ss -K``)."""
    count = amount("killed_connections", 6, 200)
    with (
        WireSink(keep=False) as sink,
        RouterProcess(tmp_path / "router", {"archive": f"dicom://SINK@127.0.0.1:{sink.port}"}) as router,
    ):
        owed = set()
        killed = 0
        for number in range(count):
            uid = f"2.25.{1000 + number}"
            data = encode(synthetic(size=300_000, sop_instance=uid))
            with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
                sender.begin(uid, data)
                sender.send(0.5)
                if number % 2 == 0:
                    killed += kill(sink.port)
                    sender.send()
                    assert sender.status() == 0
                    owed.add(sha256(data))
                    continue
                killed += kill(router.port)
                with pytest.raises((OSError, AssertionError)):
                    sender.send()
                    sender.status()
            with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
                assert sender.store(uid, data) == 0
                owed.add(sha256(data))
        wait_for(lambda: owed <= set(sink.digests), 60, "everything that was answered 0x0000")
        wait_for(lambda: associated(router) == 0, 30, "no association left")
    assert len(owed) == count
    assert set(sink.digests) == owed, "nothing partial arrived"
    report(
        Figure(
            test="T18",
            promise="connections killed from outside, on the way in and out: lost, or partial",
            goal="0",
            found=f"0 of {count:,} objects; {killed:,} kills",
            n=killed,
            command=f"make torture (tests/torture/test_half_open.py, --amount killed_connections={count})",
        ),
        keep=campaign,
    )
