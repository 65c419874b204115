"""A router under attack, and the sockets that attack it."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from itertools import count
from pathlib import Path

from router.dimse.command import parse_command
from tests.support.objects import encode, received, sha256, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.script import CT, EXPLICIT, request, store
from tests.support.wire import read_pdu

SUCCESS = 0x0000
_numbers = count()


def fresh_uid() -> str:
    return f"2.25.31{next(_numbers):06d}"


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of memory: VmRSS now, VmHWM the most since ``forget_peak``."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {field}")


def forget_peak(pid: int) -> None:
    """From now on VmHWM is the most since now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Attacker:
    """One connection to the router; everything is sent as told."""

    def __init__(self, port: int, *, associate: tuple[tuple[str, str], ...] | None = ((CT, EXPLICIT),)) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        if associate is not None:
            self.connection.sendall(request(*associate))
            answer = read_pdu(self.connection)
            assert answer is not None
            assert answer[0] == 2, "the association was not accepted"

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def press(self, data: bytes, times: int) -> int:
        """Sends until it is no longer taken; gives how many bytes were, the system's buffers included."""
        sent = 0
        with suppress(ConnectionError):
            for _ in range(times):
                self.connection.sendall(data)
                sent += len(data)
        return sent

    def answer(self) -> tuple[int, bytes] | None:
        """The next PDU as (type, body); None: closed or reset."""
        try:
            return read_pdu(self.connection)
        except ConnectionError:
            return None

    def abort_reason(self) -> tuple[int, int] | None:
        """Source and reason of the A-ABORT that comes; None: closed without one."""
        answer = self.answer()
        if answer is None:
            return None
        assert answer[0] == 7, f"A-ABORT expected, not PDU {answer[0]}"
        return answer[1][2], answer[1][3]

    def closed(self) -> bool:
        """The router closes; blocks until it does, or fails in a minute."""
        return self.answer() is None

    def store(self, sop_instance: str, data: bytes, *, context_id: int = 1, sop_class: str = CT) -> int:
        self.send(store(sop_instance, data, context_id=context_id, sop_class=sop_class))
        return self.status()

    def status(self) -> int:
        answer = self.answer()
        assert answer is not None, "no answer"
        assert answer[0] == 4, f"a response expected, not PDU {answer[0]}: {answer[1].hex()}"
        status = parse_command(answer[1][6:]).status
        assert status is not None
        return status

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Victim:
    """A router that is attacked, and what can be seen of it from outside."""

    def __init__(self, router: RouterProcess, archive: Path) -> None:
        self.router = router
        self.archive = archive

    @property
    def port(self) -> int:
        return self.router.port

    @property
    def pid(self) -> int:
        assert self.router.process is not None
        return self.router.process.pid

    def attack(self, *, associate: tuple[tuple[str, str], ...] | None = ((CT, EXPLICIT),)) -> Attacker:
        return Attacker(self.port, associate=associate)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def warm_up(self) -> None:
        """Small objects and larger ones: what a router takes once for each kind is not held against an attacker."""
        for turn in range(20):
            self.still_serves(200_000 if turn % 4 == 0 else 20_000)

    def still_serves(self, size: int = 20_000) -> None:
        """A good peer is answered 0x0000, and its object is delivered byte for byte."""
        uid = fresh_uid()
        data = encode(synthetic(size=size, sop_instance=uid))
        with self.attack() as good:
            assert good.store(uid, data) == SUCCESS
        wait_for(lambda: self.arrived(uid) == [sha256(data)], 30, "delivery of a good peer's object")

    def arrived(self, uid: str) -> list[str]:
        """SHA-256 of what is delivered under this UID."""
        return received(self.archive).get(uid, [])

    def settled(self, files: int) -> None:
        """No association is left, and no more files are open than before (a few of the spool's own may be)."""
        wait_for(
            lambda: self.router.metric("dicom_router_associations", direction="in") == 0,
            30,
            "the end of every association",
        )
        wait_for(lambda: self.open_files() <= files + 4, 30, "the end of every descriptor")
