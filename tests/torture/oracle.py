"""What the router is judged by: senders and destinations in processes of their own, each with a synced ledger.

A sender's line says "this was answered 0x0000"; a destination's line, written before it answers, says "this arrived".
Both are ``UID SHA-256``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.peers import wait_for

Line = tuple[str, str]


@dataclass(frozen=True)
class Verdict:
    """What was found when everything had drained; counts of objects and of deliveries (objects × destinations)."""

    answered: int
    deliveries: int
    lost: int
    changed: int
    duplicates: int
    unasked: int
    """Arrived without an answer that was seen: the answer was lost with the crash. Legal, and counted."""


def lines(path: Path) -> list[Line]:
    """The whole lines of a ledger; the last may be torn if its writer was killed."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [(uid, digest) for uid, digest in (line.split() for line in whole.splitlines())]


class Oracle:
    """Recording destinations and remembering senders; leave the ``with`` block and all of them have ended."""

    def __init__(self, folder: Path, *, destinations: int = 3) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.count = destinations
        self.ports: list[int] = []
        self.arrivals = [folder / f"destination{index}" for index in range(destinations)]
        self.sent: list[Path] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._senders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Oracle:
        try:
            for index, ledger in enumerate(self.arrivals):
                port_file = self.folder / f"port{index}"
                self._spawn("tests.torture.recorder", str(port_file), str(ledger))
                wait_for(port_file.exists, 30, "recorder")
                self.ports.append(int(port_file.read_text()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def urls(self) -> dict[str, str]:
        """Destinations ``d0`` ... as a router's configuration names them."""
        return {f"d{index}": f"dicom://RECORDER@127.0.0.1:{port}" for index, port in enumerate(self.ports)}

    def send(self, port: int, *, senders: int = 4, seed: int = 100) -> None:
        """Starts senders, which go on over every restart of the router until ``stop_sending``.

        Args:
            seed: Below 10 ** 6.
        """
        for index in range(len(self.sent), len(self.sent) + senders):
            path = self.folder / f"sender{index}"
            self.sent.append(path)
            process = self._spawn("tests.torture.sender", str(port), f"S{index}", str(path), str(seed + index))
            self._senders.append(process)

    def stall(self, destination: int | None) -> None:
        """This destination neither answers nor ends; any other does its work. None: all do."""
        for index, child in enumerate(self._children[: self.count]):
            child.send_signal(signal.SIGSTOP if index == destination else signal.SIGCONT)

    def stop_sending(self, seconds: float = 60) -> None:
        for sender in self._senders:
            sender.stdin.close()  # type: ignore[union-attr]
        for sender in self._senders:
            sender.wait(seconds)
        self._senders.clear()

    def answered(self) -> list[Line]:
        """Every object that was answered 0x0000 so far."""
        return [line for path in self.sent for line in lines(path)]

    def drained(self) -> bool:
        """Everything answered is everywhere."""
        answered = set(self.answered())
        return all(answered <= set(lines(ledger)) for ledger in self.arrivals)

    def judge(self) -> Verdict:
        answered = self.answered()
        expected = dict(answered)
        lost = changed = duplicates = unasked = 0
        for ledger in self.arrivals:
            arrived = Counter(lines(ledger))
            lost += len(set(answered) - set(arrived))
            changed += sum(expected.get(uid, digest) != digest for uid, digest in arrived)
            duplicates += sum(arrived.values()) - len(arrived)
            unasked += sum(uid not in expected for uid, _ in arrived)
        return Verdict(len(answered), len(answered) * self.count, lost, changed, duplicates, unasked)

    def close(self) -> None:
        self.stall(None)
        for child in self._children:
            if child.stdin is not None and not child.stdin.closed:
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)
        self._children.clear()

    def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._children.append(process)
        return process
