"""Full load where there is little memory: slower, and nothing is killed, nothing lost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle
from tests.torture.test_large_object import CT, JPEG, MIB, UID, encapsulated

LIMIT = 300 * MIB
CONTROLLER = Path("/sys/fs/cgroup/memory")


def unable() -> str:
    if not (CONTROLLER / "memory.limit_in_bytes").exists():
        return "no memory controller (cgroup v1) here"
    return "" if os.access(CONTROLLER, os.W_OK) else "no control groups may be made here"


@contextlib.contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """A control group of its own; empty when it ends."""
    group = CONTROLLER / f"dicom-router-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 30, "its processes to end")
        group.rmdir()


def killed(group: Path) -> int:
    state = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    return int(state.get("oom_kill", 0))


class LargeObjects(threading.Thread):
    """A sender of streamed objects, one after the other."""

    def __init__(self, port: int, size: int, number: int) -> None:
        super().__init__(daemon=True)
        self._port, self._size, self._number = port, size, number
        self.stopped = threading.Event()
        self.stored = 0
        self.refused: list[int] = []

    def run(self) -> None:
        sender = WireSender(self._port, (CT, JPEG))
        while not self.stopped.is_set():
            uid = f"{UID[:-4]}{self._number}{self.stored:03d}"
            pieces = (piece.replace(UID.encode(), uid.encode()) for piece in encapsulated(self._size))
            status = sender.stream(uid, pieces)
            if status:
                self.refused.append(status)
                return
            self.stored += 1
        sender.close()


@pytest.mark.timeout(1800)
def test_full_load_in_little_memory_is_slower_and_loses_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    if reason := unable():
        pytest.skip(reason)
    seconds = amount("memory_seconds", 5, 300)
    with little_memory(LIMIT) as group, Oracle(tmp_path, destinations=2) as oracle:
        program = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        router = RouterProcess(
            tmp_path / "router",
            oracle.urls,
            program=(*program, sys.executable, "-m", "router.app.cli"),
            extra='[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\n',
        )
        router.start()
        try:
            assert router.process is not None
            assert (group / "cgroup.procs").read_text().split() == [str(router.process.pid)]
            oracle.stall(0)  # all of it waits for one of them, half of the time
            oracle.send(router.port, senders=4)
            large = [LargeObjects(router.port, 64 * MIB, number) for number in range(1, 5)]
            for sender in large:
                sender.start()
            time.sleep(seconds / 2)
            oracle.stall(None)
            time.sleep(seconds / 2)
            for sender in large:
                sender.stopped.set()
            for sender in large:
                sender.join(120)
            oracle.stop_sending()
            wait_for(oracle.drained, 300, "delivery of everything answered")
            highest = int((group / "memory.max_usage_in_bytes").read_text())
            assert killed(group) == 0
            assert router.process.poll() is None
            assert not any(sender.refused for sender in large)
            stored = sum(sender.stored for sender in large)
            assert router.stop() == 0
        finally:
            router.kill()
        verdict = oracle.judge()
    assert (verdict.lost, verdict.changed) == (0, 0)
    report(
        Figure(
            test="T16",
            promise="full load in 300 MB (control group): nothing is killed, nothing lost",
            goal="0 kills, 0 lost",
            found=f"0 kills, {highest / 1e6:.0f} MB at most; 0 of {verdict.deliveries:,} deliveries lost, "
            f"beside {stored} objects of 64 MiB",
            n=verdict.answered,
            command=f"make torture (tests/torture/test_memory.py, --amount memory_seconds={seconds})",
        ),
        keep=campaign,
    )
