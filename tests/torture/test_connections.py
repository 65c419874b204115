"""Very many connections that do nothing, or next to nothing: little memory, and a good peer is served at once."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.dimse.command import encode_c_store_rq
from router.net.admission import BURST_PER_ADDRESS
from router.services.storage_scu import propose
from router.ul.pdus import encode_request
from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.plain_pdu import p_data
from tests.support.process_memory import resident
from tests.support.router_process import RouterProcess
from tests.support.tls_router import TlsRouter
from tests.support.wire import WireSender, read_pdu
from tests.torture.figures import Figure, report
from tests.torture.loris import Loris

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
PER_ADDRESS = 190
PACE = 0.5
"""Seconds from one byte of a slow sender to the next."""
MEMORY = 150_000_000
AT_ONCE = 1.0
"""Seconds within which a good peer has its association."""


@contextlib.contextmanager
def open_sockets(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections from as many loopback addresses as it takes."""
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            address = f"127.1.{number // PER_ADDRESS}.1"
            sockets.append(socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0)))
        yield sockets
    finally:
        for one in sockets:
            one.close()


def associates_in(port: int, address: str = "127.0.0.1") -> float:
    """Seconds that a good peer at ``address`` waits for its association."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0)) as one:
        associate([one])
        return time.monotonic() - started


def pid_of(router: RouterProcess) -> int:
    assert router.process is not None
    return router.process.pid


@pytest.mark.timeout(600)
def test_idle_sockets_take_little_memory_and_nobodys_place(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("sockets", 400, 10_000)
    limits = f"handshakes = {count + 100}\nhandshake_timeout = 300.0"
    with RouterProcess(tmp_path / "router", {}, limits=limits) as router:
        associates_in(router.port)
        before = resident(pid_of(router))
        with open_sockets(router.port, count) as sockets:
            wait_for(lambda: descriptors(router) >= count, 30, "all of them to be accepted")
            waits = [associates_in(router.port) for _ in range(20)]
            grown = resident(pid_of(router)) - before
            assert all(one.fileno() >= 0 for one in sockets)
        wait_for(lambda: descriptors(router) < 100, 30, "all of them to be forgotten")
    assert max(waits) <= AT_ONCE
    assert grown <= MEMORY * count / 10_000 + 5_000_000
    report(
        Figure(
            test="T14",
            promise="idle sockets: little memory, and a good peer associates at once",
            goal="≤ 150 MB over the baseline for 10,000; ≤ 1 s",
            found=f"{grown / 1e6:.1f} MB for {count:,} ({grown / count / 1e3:.1f} KB each); "
            f"a good peer had its association after {max(waits) * 1000:.1f} ms at most",
            n=count,
            command=f"make torture (tests/torture/test_connections.py, --amount sockets={count})",
        ),
        keep=campaign,
    )


def descriptors(router: RouterProcess) -> int:
    return len(os.listdir(f"/proc/{pid_of(router)}/fd"))


@pytest.mark.timeout(600)
def test_silent_sockets_beyond_the_limit_are_closed_and_a_good_peer_gets_in(
    tmp_path: Path, amount: Callable[[str, int, int], int]
) -> None:
    """However many are silent, from however many addresses; 256 handshakes at once, as the product has it."""
    count = amount("sockets", 400, 10_000)
    with RouterProcess(tmp_path / "router", {}) as router, open_sockets(router.port, count):
        wait_for(lambda: descriptors(router) <= 350, 30, "those over the limits to be closed")
        waits = [first_association(router.port) for _ in range(20)]
        assert max(waits) <= AT_ONCE + 0.5, "a second of patience with who came before"


SILENT = {"one socket": 1, "12 sockets": 12, "300 sockets": 300}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("silent", SILENT)
def test_silent_sockets_of_one_address_keep_nobody_waiting_with_the_limits_as_they_come(
    silent: str, tmp_path: Path, campaign: bool
) -> None:
    """What made others wait for half a minute, or took the places of all: 8 handshakes per address and 20 associations
    per peer, as the product has it; also for who comes from the same address as the silent."""
    count = SILENT[silent]
    with RouterProcess(tmp_path / "router", {}, defaults=True) as router:
        associates_in(router.port)
        waits = []
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                one = socket.create_connection(("127.0.0.1", router.port), timeout=20, source_address=("127.2.0.1", 0))
                stack.enter_context(one)
            opened = time.monotonic()
            for _ in range(5):
                waits.append(associates_in(router.port))
                if count < 100:  # more take the burst's places of their address, too
                    waits.append(associates_in(router.port, "127.2.0.1"))
            data = encode(synthetic(size=20_000, sop_instance="2.25.14"))
            sender = WireSender(router.port, (CT, EXPLICIT))
            assert sender.store("2.25.14", data) == 0
            sender.close()
            served_after = time.monotonic() - opened
            refused = router.metric("dicom_router_associations_rejected_total", reason="handshakes_per_address")
            assert refused == max(0, count - 8 - BURST_PER_ADDRESS)
        assert router.metric("dicom_router_associations_rejected_total", reason="associations") == 0
    # Less than any deadline of the silent: nobody was waited for.
    assert max(waits) <= (0.5 if campaign else 5 * AT_ONCE)
    report(
        Figure(
            test="T14",
            promise=f"{silent} silent, from one address, with the product's own limits: a good peer gets in at once",
            goal="≤ 0.5 s; an object stored meanwhile",
            found=f"{len(waits)} associations, each after {max(waits) * 1000:.1f} ms at most; an object stored within "
            f"{served_after * 1000:.0f} ms of the last silent one",
            n=count,
            command="make torture (tests/torture/test_connections.py)",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(300)
def test_the_product_s_own_limits_hold_for_one_peer_and_not_for_the_next(tmp_path: Path) -> None:
    """20 associations of a peer; the next is told to come later (2, 3, 2), another peer is not."""
    with RouterProcess(tmp_path / "router", {}, defaults=True) as router, contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(contextlib.closing(WireSender(router.port, (CT, EXPLICIT))))
        with socket.create_connection(("127.0.0.1", router.port), timeout=20) as one:
            one.sendall(REQUEST)
            assert read_pdu(one) == (3, bytes((0, 2, 3, 2)))
        with socket.create_connection(("127.0.0.1", router.port), timeout=20, source_address=("127.2.0.2", 0)) as other:
            associate([other])


def first_association(port: int) -> float:
    """Seconds until a good peer that tries again has its association."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(OSError, AssertionError):
            associates_in(port)
            return time.monotonic() - started
        time.sleep(0.05)


def client_hello() -> bytes:
    """What a TLS client says first."""
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="router").do_handshake()
    return out.read()


def associate(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.sendall(REQUEST)
    for one in sockets:
        answer = read_pdu(one)
        assert answer is not None
        assert answer[0] == 2, "the association was not accepted"


REQUEST = encode_request(propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="LORIS"))
COMMAND = p_data(1, 3, encode_c_store_rq(1, CT, "2.25.1"))
SLOW = {
    "A-ASSOCIATE-RQ": (False, False, REQUEST),
    "P-DATA-TF": (False, True, COMMAND),
    "TLS ClientHello": (True, False, client_hello()),
}
"""What is said a byte at a time: on a TLS port, with an association open, the message."""


def rate(port: int, seconds: float) -> float:
    """Objects a second that one good peer gets stored."""
    sender = WireSender(port, (CT, EXPLICIT))
    data = encode(synthetic(size=16384, sop_instance="1" * 60))
    stored, started = 0, time.monotonic()
    while (now := time.monotonic()) - started < seconds:
        uid = f"2.25.{stored:050d}{int(now) % 10**5:05d}"
        assert sender.store(uid, data.replace(b"1" * 60, uid.encode())) == 0
        stored += 1
    sender.close()
    return stored / (time.monotonic() - started)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("within", SLOW)
def test_slow_senders_are_closed_by_the_deadline_and_cost_good_ones_nothing(
    within: str, tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("loris", 100, 1000)
    rounds = amount("loris_rounds", 1, 5)
    deadline, measured = (10.0, 5.0) if campaign else (2.5, 0.7)
    encrypted, associated, message = SLOW[within]
    limits = (
        f"handshakes = {count + 100}\nhandshake_timeout = {deadline}\nrate_window = {deadline}\n"
        f"associations = {count + 100}"
    )
    tls = TlsRouter(tmp_path / "tls")
    ratios = []
    with RouterProcess(tmp_path / "router", {}, limits=limits, extra=tls.listener()) as router:
        rate(router.port, 0.5)
        for _ in range(rounds):
            alone = rate(router.port, measured)
            with open_sockets(tls.port if encrypted else router.port, count) as sockets:
                if associated:
                    associate(sockets)
                opened = time.monotonic()
                loris = Loris(sockets, message, PACE)
                try:
                    assert loris.left >= count * 0.9
                    beside = rate(router.port, measured)
                    ratios.append(beside / alone)
                    assert loris.left >= count * 0.9, "they were there all the while"
                    wait_for(loris.all_closed, deadline + 5 - (time.monotonic() - opened), "the deadline's close")
                finally:
                    loris.close()
            wait_for(lambda: descriptors(router) < 100, 10, "all of them to be forgotten")
    ratio = statistics.median(ratios)
    assert ratio >= (0.5 if campaign else 0.05), "a shared machine may take much of it away for a second"
    report(
        Figure(
            test="T14",
            promise=f"slow senders, a byte at a time within {within}: closed by the deadline; a good peer goes on",
            goal="≥ 95 % of the throughput without them",
            found=f"{ratio:.0%} (median of {rounds}; {count:,} slow ones, a byte each {PACE} s); all of them closed",
            met=ratio >= 0.95,
            n=count * rounds,
            command=f"make torture (tests/torture/test_connections.py, --amount loris={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(300)
def test_idle_associations_take_little_memory(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("idle_associations", 200, 5_000)
    limits = f"handshakes = {count + 100}\nassociations = {count + 100}\nidle_timeout = 300.0"
    with RouterProcess(tmp_path / "router", {}, limits=limits) as router:
        associates_in(router.port)
        before = resident(pid_of(router))
        with open_sockets(router.port, count) as sockets:
            associate(sockets)
            assert router.metric("dicom_router_associations") >= count
            waits = [associates_in(router.port) for _ in range(20)]
            grown = resident(pid_of(router)) - before
        wait_for(lambda: router.metric("dicom_router_associations") == 0, 30, "all of them to be forgotten")
    assert max(waits) <= AT_ONCE
    report(
        Figure(
            test="T14",
            promise="idle associations: little memory, and a good peer associates at once",
            goal="≤ 1 s",
            found=f"{grown / 1e6:.1f} MB for {count:,} ({grown / count / 1e3:.1f} KB each); "
            f"a good peer had its association after {max(waits) * 1000:.1f} ms at most",
            n=count,
            command=f"make torture (tests/torture/test_connections.py, --amount idle_associations={count})",
        ),
        keep=campaign,
    )
