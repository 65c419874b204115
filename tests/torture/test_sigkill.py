"""kill -9 under load: nothing that was answered 0x0000 is lost, and every destination has it, byte-identical.

Four senders and three destinations are processes of their own, built on pynetdicom; each writes a synced ledger. The
router is killed at random moments and started again; of one with several workers, any process is. When it has drained,
the senders' ledgers are compared with every destination's. Duplicates (an answer that the kill swallowed)
are legal and are counted.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess

SENDERS = 4
DESTINATIONS = 3


def spawn(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def lines(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    return [tuple(line.split()) for line in path.read_text().splitlines()]  # type: ignore[misc]


def processes_of(router: RouterProcess) -> list[int]:
    """The router's process and its workers."""
    if router.process is None:
        return []
    pid = router.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def kill_one(router: RouterProcess, randomness: random.Random) -> None:
    """Any process of the router; of the whole if it was the parent, which is then started again."""
    pid = randomness.choice(processes_of(router))
    if router.process is not None and pid == router.process.pid:
        router.kill()
        router.start()
    else:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_answered_is_lost_over_kills(tmp_path: Path, torture_kills: int, workers: int) -> None:
    randomness = random.Random(20261123)
    children: list[subprocess.Popen[bytes]] = []
    try:
        ports, ledgers = [], []
        for index in range(DESTINATIONS):
            port_file, ledger = tmp_path / f"port{index}", tmp_path / f"destination{index}"
            children.append(spawn("tests.torture.recorder", str(port_file), str(ledger)))
            wait_for(port_file.exists, 30, "recorder")
            ports.append(int(port_file.read_text()))
            ledgers.append(ledger)
        router = RouterProcess(
            tmp_path / "router",
            {f"d{i}": f"dicom://RECORDER@127.0.0.1:{port}" for i, port in enumerate(ports)},
            workers=workers,
        )
        router.start()
        sent = [tmp_path / f"sender{index}" for index in range(SENDERS)]
        senders = [
            spawn("tests.torture.sender", str(router.port), f"S{index}", str(path), str(100 + index))
            for index, path in enumerate(sent)
        ]
        children += senders
        restarts = []
        for _ in range(torture_kills):
            time.sleep(randomness.uniform(0.05, 1.0))
            started = time.monotonic()
            if workers == 1:
                router.kill()
                router.start()
            else:
                kill_one(router, randomness)
            restarts.append(time.monotonic() - started)
        time.sleep(1)
        for sender in senders:
            sender.stdin.close()  # type: ignore[union-attr]
        for sender in senders:
            sender.wait(60)
        answered = [pair for path in sent for pair in lines(path)]
        assert answered, "nothing was answered: the test proves nothing"

        def drained() -> bool:
            return all(set(answered) <= set(lines(ledger)) for ledger in ledgers)

        try:
            wait_for(drained, 180, "delivery of everything answered")
        except TimeoutError:
            print(router.log.read_text()[-5000:])
        code = router.stop()
        expected = dict(answered)
        duplicates = 0
        for index, ledger in enumerate(ledgers):
            got = lines(ledger)
            missing = set(answered) - set(got)
            assert not missing, f"destination {index} lacks {len(missing)} of {len(answered)} answered objects"
            assert all(expected.get(uid, digest) == digest for uid, digest in got), "an object arrived changed"
            duplicates += sum(count - 1 for count in Counter(got).values())
        restarts.sort()
        print(
            f"\nworkers {workers}  kills {torture_kills}  answered {len(answered)}  "
            f"lost 0 of {len(answered) * DESTINATIONS} deliveries  duplicates {duplicates}  "
            f"restart median {restarts[len(restarts) // 2]:.2f} s  max {restarts[-1]:.2f} s"
        )
        assert code == 0
    finally:
        for child in children:
            if child.stdin is not None and not child.stdin.closed:
                child.stdin.close()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)
