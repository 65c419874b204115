"""SIGTERM under load: what was begun is finished, the new is asked to come later, and nothing answered is lost.

At every stop one object is half sent, so that draining has something to wait for; two senders go on meanwhile, over
every stop and start. They never pause, so that each drain lasts its whole grace and ends with aborts under load.
"""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from router.services.storage_scu import propose
from router.ul.pdus import encode_request
from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import ABORT, WireSender, read_pdu
from tests.torture.books import Book
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle, lines

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ACCEPTED = 2
TRY_LATER = (3, bytes([0, 2, 3, 1]))
"""A-ASSOCIATE-RJ: transient, by the service provider (presentation), temporary congestion."""
GRACE = 3.0
"""``node.shutdown_grace`` here, seconds."""
PATIENCE = 30.0


def asked(port: int) -> tuple[int, bytes] | None:
    """What a new association is answered: (PDU type, body); of one that is accepted the body is left out."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(encode_request(propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="LATE")))
        answer = read_pdu(connection)
        if answer is not None and answer[0] == ACCEPTED:
            connection.sendall(ABORT)
            return ACCEPTED, b""
        return answer


class Holder:
    """A sender in the middle of an object when the router is told to stop, which it then finishes."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._count = 0

    def begin(self, port: int) -> None:
        self._count += 1
        self._uid = f"2.25.77{self._count:06d}"
        self._data = encode(synthetic(size=600_000, sop_instance=self._uid))
        self._book.intend(self._uid, self._data)
        self._wire = WireSender(port, (CT, EXPLICIT))
        self._wire.begin(self._uid, self._data)
        self._wire.send(0.5)

    def finish(self) -> int:
        """The status; an answered object is in the ledger from then on."""
        self._wire.send()
        status = self._wire.status()
        if status == 0:
            self._book.answered(self._uid)
        self._wire.close()
        return status


def refuses(port: int) -> bool:
    """Whatever is not accepted any more must be asked to come later."""
    answer = asked(port)
    assert answer in (TRY_LATER, (ACCEPTED, b"")), answer
    return answer == TRY_LATER


@pytest.mark.timeout(7200)
def test_nothing_answered_is_lost_over_shutdowns(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    shutdowns = amount("shutdowns", 2, 200)
    randomness = random.Random(20261124)
    with Oracle(tmp_path) as oracle:
        router = RouterProcess(tmp_path / "router", oracle.urls, node=f"shutdown_grace = {GRACE}")
        holder = Holder(oracle.book("holder"))
        router.start()
        try:
            oracle.send(router.port, senders=2)
            seconds = []
            for _ in range(shutdowns):
                time.sleep(randomness.uniform(0.05, 1.0))
                holder.begin(router.port)
                process = router.process
                assert process is not None
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                wait_for(lambda: refuses(router.port), 20, "a refusal of what is new")
                assert process.poll() is None, "ended within an object"
                assert holder.finish() == 0x0000
                assert process.wait(PATIENCE) == 0
                seconds.append(time.monotonic() - began)
                router.start()
            answered = len(oracle.answered())
            wait_for(lambda: len(oracle.answered()) > answered, 60, "an answer after the last start")
            oracle.stop_sending()
            wait_for(oracle.drained, 180, "delivery of everything answered")
            code = router.stop()
        finally:
            router.kill()
        verdict = oracle.judge()
    assert (verdict.wrong, code) == (0, 0), verdict
    seconds.sort()
    report(
        Figure(
            test="T2",
            promise="stopped by SIGTERM under load: the begun is finished, the new hears RJ 2/3/1, exit 0",
            goal="0 lost; ends within twice the grace",
            met=seconds[-1] <= 2 * GRACE,
            found=f"0 of {verdict.deliveries:,} deliveries lost, {verdict.duplicates:,} repeated; every half-sent "
            f"object finished; grace {GRACE:.0f} s, ended after {seconds[len(seconds) // 2]:.2f} s (median), "
            f"{seconds[-1]:.2f} s (max)",
            n=shutdowns,
            command=f"make torture (tests/torture/test_shutdown.py, --amount shutdowns={shutdowns})",
        ),
        keep=campaign,
    )


def test_an_object_that_does_not_end_within_the_grace_is_aborted_and_not_kept(tmp_path: Path) -> None:
    with Oracle(tmp_path, destinations=1) as oracle:
        router = RouterProcess(tmp_path / "router", oracle.urls, node="shutdown_grace = 1.0")
        router.start()
        try:
            wire = WireSender(router.port, (CT, EXPLICIT))
            wire.begin("2.25.78", encode(synthetic(size=600_000, sop_instance="2.25.78")))
            wire.send(0.5)
            began = time.monotonic()
            assert router.stop() == 0
            assert time.monotonic() - began >= 1.0
            assert read_pdu(wire.connection) in ((7, bytes([0, 0, 2, 0])), None)
            wire.close()
            router.start()
            later = WireSender(router.port, (CT, EXPLICIT))
            assert later.store("2.25.79", encode(synthetic(size=2_000, sop_instance="2.25.79"))) == 0x0000
            later.close()
            wait_for(lambda: lines(oracle.arrivals[0]), 30, "delivery of the one after it")
            assert router.stop() == 0
        finally:
            router.kill()
        assert [uid for uid, _ in lines(oracle.arrivals[0])] == ["2.25.79"]
