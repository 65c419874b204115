"""Full load where there is little memory: slower, and nothing is killed, nothing lost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle
from tests.torture.test_large_object import CT, JPEG, MIB, UID, encapsulated

LIMIT = 300 * MIB
STALLED = 30.0
"""Seconds at most for which one destination takes nothing: all of it lies on the disk then, some 300 MB a second."""


@dataclass(frozen=True)
class Controller:
    """How the kernel's memory controller is spoken to; it has two versions."""

    root: Path
    limit: str
    highest: str
    events: str

    def killed(self, group: Path) -> int:
        state = dict(line.split() for line in (group / self.events).read_text().splitlines())
        return int(state["oom_kill"])


def controller() -> Controller:
    """The one that this machine has, ready for groups of ours; ends the test where there is none."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory" / "memory.limit_in_bytes").exists():
        found = Controller(root / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
    else:
        unified = root if (root / "cgroup.controllers").exists() else root / "unified"
        try:
            if "memory" not in (unified / "cgroup.controllers").read_text().split():
                cannot("no memory controller here")
            if "memory" not in (unified / "cgroup.subtree_control").read_text().split():
                (unified / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            cannot(f"the memory controller cannot be given to a group here: {error}")
        found = Controller(unified, "memory.max", "memory.peak", "memory.events")
    if not os.access(found.root, os.W_OK):
        cannot("no control groups may be made here")
    return found


@contextlib.contextmanager
def little_memory(controller: Controller, limit: int) -> Iterator[Path]:
    """A control group of its own; empty when it ends."""
    group = controller.root / f"dicom-router-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / controller.limit).write_text(str(limit))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 30, "its processes to end")
        group.rmdir()


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
    memory = controller()
    # The destinations are slower than the senders: five minutes would need more than 60 GB of disk.
    seconds = amount("memory_seconds", 5, 60)
    with little_memory(memory, LIMIT) as group, Oracle(tmp_path, destinations=2) as oracle:
        program = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        router = RouterProcess(
            tmp_path / "router",
            oracle.urls,
            program=(*program, sys.executable, "-m", "router.app.cli"),
            extra='[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\nkeep_delivered = 0.1\n',
        )
        router.start()
        try:
            assert router.process is not None
            assert (group / "cgroup.procs").read_text().split() == [str(router.process.pid)]
            oracle.stall(0)  # all of it waits for one of them
            oracle.send(router.port, senders=4)
            large = [LargeObjects(router.port, 64 * MIB, number) for number in range(1, 5)]
            for sender in large:
                sender.start()
            stalled = min(seconds / 2, STALLED)
            time.sleep(stalled)
            oracle.stall(None)
            time.sleep(seconds - stalled)
            for sender in large:
                sender.stopped.set()
            for sender in large:
                sender.join(120)
            oracle.stop_sending()
            rate = len(oracle.answered()) / seconds
            wait_for(oracle.drained, 300, "delivery of everything answered")
            highest = int((group / memory.highest).read_text())
            assert memory.killed(group) == 0
            assert router.process.poll() is None
            assert not any(sender.refused for sender in large)
            stored = sum(sender.stored for sender in large)
            assert router.stop() == 0
        finally:
            router.kill()
        verdict = oracle.judge()
    large_rate = stored * 64 * MIB / seconds / 1e6
    assert (verdict.wrong, verdict.duplicates) == (0, 0), verdict
    report(
        Figure(
            test="T16",
            promise="full load in 300 MB (control group): nothing is killed, nothing lost",
            goal="0 kills, 0 lost",
            found=f"0 kills, {highest / 1e6:.0f} MB at most; 0 of {verdict.deliveries:,} deliveries lost, "
            f"beside {stored} objects of 64 MiB; {rate:,.0f} small ones and {large_rate:,.0f} MB of those a second",
            n=verdict.answered,
            command=f"make torture (tests/torture/test_memory.py, --amount memory_seconds={seconds})",
        ),
        keep=campaign,
    )
