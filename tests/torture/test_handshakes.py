"""Malformed handshakes without end: memory, descriptors and places stay what they were after the first few.

A leak before authentication is the oldest fault of DICOM listeners: whoever can connect can end the process.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hostile.support import resident
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.script import ABORT, RELEASE_RQ, request
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
PARTS = 10
"""Memory is looked at after each part of the campaign; the first is the warm-up."""
NOISE = 4 << 20
"""Bytes by which resident memory moves without a leak; over a million handshakes, less than 5 bytes each."""


def kinds() -> dict[str, Callable[[random.Random], bytes]]:
    """What is sent in place of an A-ASSOCIATE-RQ; each differs from the one before it."""
    good = request()

    def titled(called: bytes, calling: bytes) -> bytes:
        return good[:10] + called.ljust(16)[:16] + calling.ljust(16)[:16] + good[42:]

    def flipped(randomness: random.Random) -> bytes:
        data = bytearray(good)
        for _ in range(randomness.randint(1, 4)):
            data[randomness.randrange(6, len(data))] = randomness.randrange(256)
        return bytes(data)

    return {
        "nothing": lambda _: b"",
        "cut": lambda r: good[: r.randrange(1, len(good))],
        "claims 4 GiB": lambda _: struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
        "no DICOM": lambda r: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if r.random() < 0.5 else r.randbytes(64),
        "wrong first PDU": lambda r: r.choice((ABORT, RELEASE_RQ, struct.pack(">BBI", 4, 0, 0))),
        "an item beyond its parent": lambda r: good[:76] + struct.pack(">H", r.randrange(300, 65536)) + good[78:],
        "other bytes": flipped,
        "another called AE": lambda r: titled(b"NOBODY%d" % r.randrange(10**6), b"SENDER"),
        "a calling AE of its own": lambda r: titled(b"ROUTER", b"S%d" % r.randrange(10**9)) + ABORT,
        "two requests": lambda _: good + good,
    }


def handshake(port: int, data: bytes, source: str) -> None:
    """Sends it, takes one answer if one comes at once, and resets: nothing stays in TIME_WAIT."""
    with socket.socket() as connection:
        connection.settimeout(0.05 if not data else 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.bind((source, 0))
        with suppress(OSError):
            connection.connect(("127.0.0.1", port))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass


@pytest.mark.timeout(14400)
def test_malformed_handshakes_leave_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    number = amount("handshakes", 2_000, 1_000_000)
    randomness = random.Random(20261123)
    malformed = list(kinds().values())
    with RouterProcess(tmp_path / "router", {}, limits="artim_timeout = 1.0") as router:
        assert router.process is not None
        pid = router.process.pid
        files, memory = [], []
        for part in range(PARTS):
            for index in range(number // PARTS):
                source = f"127.0.{part}.{1 + index % 250}"
                handshake(router.port, malformed[index % len(malformed)](randomness), source)
            wait_for(lambda: router.metric("dicom_router_associations", direction="in") == 0, 30, "the last to be gone")
            files.append(len(os.listdir(f"/proc/{pid}/fd")))
            memory.append(resident(pid))
        wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= files[0], 30, "the end of every descriptor")
        grown = memory[-1] - memory[0]
        handshakes = number - number // PARTS
        sender = WireSender(router.port, (CT, EXPLICIT))
        sender.close()
    assert grown <= NOISE, memory
    report(
        Figure(
            test="T22",
            promise="malformed handshakes of ten kinds, from 2,500 addresses",
            goal="memory does not grow with their number; no descriptor, no place left",
            found=f"{grown / handshakes:.1f} bytes of memory per handshake ({grown / 1024:,.0f} KiB in all, after the "
            f"first {number // PARTS:,}); descriptors {files[0]} and {files[-1]}; a good peer is served",
            n=number,
            command=f"make torture (tests/torture/test_handshakes.py, --amount handshakes={number})",
        ),
        keep=campaign,
    )
