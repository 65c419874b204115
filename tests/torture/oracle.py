"""What the router is judged by: senders and destinations in processes of their own, each with a synced ledger.

A sender's line says "this was answered 0x0000", and where the rules want it; a destination's line, written before it
answers, says "this arrived". What a sender is about to send it writes down before, so that an object that arrives
without an answer is known to the byte too. ``books`` has the form of the lines.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.torture.books import INTENDED, Book, Page, files

Line = tuple[str, str]

FORGOTTEN = 2.0
"""Seconds before the end of a process of which it may not remember deliveries. The ledger follows by 25 ms and a
commit; the rest is for the destination that writes its line before it answers, on a machine with other work to do."""
LATE = 0.5
"""Seconds after the end of a process in which a destination may still write down what it had got whole before."""


@dataclass(frozen=True)
class Verdict:
    """What was found when everything had drained; counts of objects and of deliveries (objects × destinations)."""

    answered: int
    deliveries: int
    lost: int
    changed: int
    """Arrived with other bytes than were to be sent, answered or not; and what nobody wanted to send."""
    astray: int
    """Arrived where no rule wants it."""
    duplicates: int
    resent: int
    """Of the duplicates: not by a kill, and no more than its sender has sent it again, not having heard an answer. The
    router need not know any more what was delivered and settled before."""
    unexplained: int
    """Of the duplicates: neither that, nor had they arrived just before a process of the router was killed."""
    forgotten: float
    """Seconds, at most, from the arrival of what came twice to the kill that made it so."""
    unasked: int
    """Arrived without an answer that was seen: the answer was lost with the crash. Legal, and counted."""

    @property
    def wrong(self) -> int:
        return self.lost + self.changed + self.astray

    @property
    def repeated(self) -> str:
        """For a figure; ``unexplained`` must be 0."""
        if not self.duplicates:
            return "0 repeated"
        again = f", but for {self.resent:,} that were sent again" if self.resent else ""
        return (
            f"{self.duplicates:,} repeated, had arrived {max(0.0, self.forgotten):.2f} s before a kill at most "
            f"(bound {FORGOTTEN:.0f} s){again}"
        )


def lines(path: Path) -> list[Line]:
    """UID and SHA-256 of the whole lines of a ledger."""
    return [(uid, digest) for uid, digest, *_ in Page(path).turn()]


class Oracle:
    """Recording destinations and remembering senders; leave the ``with`` block and all of them have ended.

    Args:
        routed: Whether the router gets ``rules``, by which it depends on the sender where an object goes; else all of
            them go to every destination.
        files: A folder destination beside them, which gets everything. What is in it counts when all is over.
    """

    def __init__(self, folder: Path, *, destinations: int = 3, routed: bool = False, files: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.count = destinations
        self.routed = routed and destinations > 1
        self.files = files
        self.names = [f"d{index}" for index in range(destinations)] + ["files"] * (files is not None)
        self.ports: list[int] = []
        self.arrivals = [folder / f"destination{index}" for index in range(destinations)]
        self.sent: list[Path] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._senders: list[subprocess.Popen[bytes]] = []
        self._pages: dict[Path, Page] = {}
        self._answered: list[Line] = []
        self._wanted: dict[Line, frozenset[int]] = {}
        """Of each answered object: the destinations."""
        self._owed: list[set[Line]] = [set() for _ in self.names]
        """Answered and, as far as was read, not there."""
        self._arrived: list[dict[Line, list[float]]] = [{} for _ in self.names]
        self._kills: list[float] = []

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
        """Destinations ``d0`` ... (and ``files``) as a router's configuration names them."""
        urls = {f"d{index}": f"dicom://RECORDER@127.0.0.1:{port}" for index, port in enumerate(self.ports)}
        return urls if self.files is None else urls | {"files": f"file://{self.files}"}

    @property
    def rules(self) -> str:
        """Each destination gets what comes from anybody but the callers of one kind."""
        if not self.routed:
            return f'[[rule]]\nname = "everything"\nto = {json.dumps(list(self.urls))}\n'
        return "\n".join(
            f'[[rule]]\nname = "to {name}"\nnot = {{ CallingAET = "S{index + 1}-*" }}\nto = ["{name}"]\n'
            for index, name in enumerate(self.names)
        )

    def calling(self, sender: int) -> str:
        """The AE title of the n-th sender: by turns of every kind that the rules know."""
        return f"S{sender % (self.count + 1) if self.routed else 0}-{sender}"

    def wanted(self, calling: str) -> list[str]:
        """The destinations of what comes from there."""
        return [name for index, name in enumerate(self.names) if not calling.startswith(f"S{index + 1}-")]

    def book(self, name: str, calling: str = "") -> Book:
        """For a sender within the test itself; one that calls itself otherwise than ours do goes everywhere."""
        path = self.folder / name
        self.sent.append(path)
        return Book(path, self.wanted(calling))

    def send(self, port: int, *, senders: int = 4, seed: int = 100) -> None:
        """Starts senders, which go on over every restart of the router until ``stop_sending``.

        Args:
            seed: Below 10 ** 6.
        """
        for index in range(len(self.sent), len(self.sent) + senders):
            path, calling = self.folder / f"sender{index}", self.calling(index)
            self.sent.append(path)
            where = ",".join(self.wanted(calling))
            process = self._spawn("tests.torture.sender", str(port), calling, str(path), str(seed + index), where)
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

    def killed(self) -> None:
        """A process of the router is gone since this moment; what it did just before may be repeated."""
        self._kills.append(time.monotonic())

    def _read(self) -> None:
        for index, path in enumerate(self.arrivals):
            for uid, digest, seconds in self._page(path).turn():
                self._arrived[index].setdefault((uid, digest), []).append(float(seconds))
                self._owed[index].discard((uid, digest))
        for path in self.sent:
            for uid, digest, where in self._page(path).turn():
                line = uid, digest
                self._answered.append(line)
                self._wanted[line] = self._indices(where)
                for index in self._wanted[line]:
                    if line not in self._arrived[index]:
                        self._owed[index].add(line)

    def _read_files(self) -> None:
        if self.files is None:
            return
        arrived: dict[Line, list[float]] = {}
        for uid, digests in files(self.files).items():
            for digest in digests:
                arrived.setdefault((uid, digest), []).append(0.0)
        self._arrived[-1] = arrived
        last = len(self.names) - 1
        self._owed[-1] = {line for line, where in self._wanted.items() if last in where and line not in arrived}

    def _indices(self, where: str) -> frozenset[int]:
        return frozenset(map(self.names.index, where.split(",")))

    def _page(self, path: Path) -> Page:
        return self._pages.setdefault(path, Page(path))

    def answered(self) -> list[Line]:
        """Every object that was answered 0x0000 so far."""
        self._read()
        return list(self._answered)

    def lacking(self, uids: Iterable[str] = ()) -> set[str]:
        """UIDs of what was answered and is not yet everywhere where it belongs, but for these."""
        self._read()
        return {uid for owed in self._owed[: self.count] for uid, _ in owed} - set(uids)

    def drained(self) -> bool:
        """Everything answered is at every destination where it belongs, but for the folder."""
        self._read()
        return not any(self._owed[: self.count])

    def complete(self) -> bool:
        """``drained``, and the folder has everything too. Reads all of it."""
        if not self.drained():
            return False
        self._read_files()
        return not any(self._owed)

    def deliveries(self, uids: Iterable[str]) -> int:
        """That these answered objects are to have."""
        self._read()
        wanted = set(uids)
        return sum(len(where) for (uid, _), where in self._wanted.items() if uid in wanted)

    def judge(self) -> Verdict:
        self._read()
        self._read_files()
        intended: dict[str, tuple[str, frozenset[int]]] = {}
        attempts: Counter[str] = Counter()
        for path in self.sent:
            for uid, digest, where in Page(path.with_name(INTENDED + path.name)).turn():
                intended[uid] = digest, self._indices(where)
                attempts[uid] += 1
        for (uid, digest), where in self._wanted.items():
            assert intended.get(uid) == (digest, where), f"{uid} was answered and never meant to be sent"
        answered = {uid for uid, _ in self._wanted}
        changed = astray = duplicates = unasked = resent = unexplained = 0
        forgotten = 0.0
        for index, arrived in enumerate(self._arrived):
            for (uid, digest), moments in arrived.items():
                meant, where = intended.get(uid, ("", frozenset((index,))))
                changed += digest != meant
                astray += index not in where
                unasked += uid not in answered
                duplicates += len(moments) - 1
                ages = [self._age(*pair) for pair in pairwise(moments)]
                forgotten = max([forgotten, *(age for age in ages if age <= FORGOTTEN)])
                others = sum(age > FORGOTTEN for age in ages)
                resent += min(others, attempts[uid] - 1)
                unexplained += max(0, others - (attempts[uid] - 1))
        return Verdict(
            answered=len(self._answered),
            deliveries=sum(map(len, self._wanted.values())),
            lost=sum(map(len, self._owed)),
            changed=changed,
            astray=astray,
            duplicates=duplicates,
            resent=resent,
            unexplained=unexplained,
            forgotten=forgotten,
            unasked=unasked,
        )

    def _age(self, first: float, again: float) -> float:
        """Seconds from an arrival to the kill after which it was repeated: the earliest between the two."""
        return min((at - first for at in self._kills if first - LATE <= at <= again), default=float("inf"))

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


OWED = ("queue_depth", "held_instances", "dead_letters", "quarantined_records")


def owes_nothing(router: RouterProcess) -> bool:
    """By its own account: nothing waits, nothing was held, given up or set aside."""
    return all(router.metric(f"dicom_router_{name}") == 0 for name in OWED)


def unfinished(folder: Path) -> list[str]:
    """Files of a data folder that a router should not leave behind when it has ended, whatever happened before."""
    kept = ("*.seg", "lock", "ledger.db", "ledger.db-*", "*.ballast", "*.lock", "log.key", "audit-*.log")
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not any(path.match(pattern) for pattern in kept)
    )


def left_nothing(router: RouterProcess, more: Sequence[Path] = ()) -> None:
    """A router that has delivered everything says so itself, ends with exit code 0, and leaves nothing half done.

    Args:
        more: Folders that it delivers to.
    """
    wait_for(lambda: owes_nothing(router), 30, "a router that owes nothing")
    code = router.stop()
    assert code == 0, f"exit code {code}"
    left = unfinished(router.folder / "data")
    left += [str(path) for folder in more for path in folder.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert not left, f"left behind: {left}"
