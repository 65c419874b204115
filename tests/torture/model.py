"""What must have arrived where: the reference that a router is compared with, after whatever was done to it.

Knows what was sent, what was answered, and where the rules in force sent it; nothing of how a router does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Line = tuple[str, str]
"""UID and SHA-256, as a destination writes them when an object arrives."""


@dataclass(frozen=True)
class Sent:
    """One C-STORE-RQ that was sent whole."""

    digest: str
    destinations: frozenset[str]
    """That the rules in force implied."""
    answered: bool
    """0x0000; else no answer was seen, and it may have been stored or not."""


@dataclass
class Model:
    sent: dict[str, list[Sent]] = field(default_factory=dict)
    """By SOP Instance UID, in the order of sending."""
    faults: set[str] = field(default_factory=set)
    """What has happened after which a delivery may rightly be repeated."""

    def record(self, uid: str, digest: str, destinations: Iterable[str], *, answered: bool) -> None:
        self.sent.setdefault(uid, []).append(Sent(digest, frozenset(destinations), answered))
        if not answered:
            self.faults.add("a send whose answer never came")

    def owed(self, uid: str, destination: str) -> list[str]:
        """What was answered and is for this destination, in order; a repeat of the newest version is owed only where
        that was not."""
        found: list[str] = []
        newest = ""
        has_newest: set[str] = set()
        for one in self.sent[uid]:
            if not one.answered:
                continue
            if one.digest != newest:
                newest, has_newest = one.digest, set()
            if destination in one.destinations - has_newest:
                found.append(one.digest)
            has_newest |= one.destinations
        return found

    def drained(self, arrived: Mapping[str, Sequence[Line]]) -> bool:
        """Everything owed has arrived, in whatever order."""
        return not any(
            (uid, digest) not in lines
            for destination, lines in ((name, set(lines)) for name, lines in arrived.items())
            for uid in self.sent
            for digest in self.owed(uid, destination)
        )

    def problems(self, arrived: Mapping[str, Sequence[Line]]) -> list[str]:
        """What is wrong with the arrivals at each destination once nothing is on its way any more."""
        found = []
        for destination, lines in arrived.items():
            by_uid: dict[str, list[str]] = {}
            for uid, digest in lines:
                by_uid.setdefault(uid, []).append(digest)
            found += [f"{destination}: {uid} was never sent whole" for uid in by_uid.keys() - self.sent.keys()]
            for uid, sends in self.sent.items():
                for what in self._wrong(self.owed(uid, destination), by_uid.get(uid, []), sends, destination):
                    found.append(f"{destination}: {uid} {what}")
        return found

    def _wrong(self, owed: list[str], got: list[str], sends: list[Sent], destination: str) -> Iterable[str]:
        theirs = [one for one in sends if destination in one.destinations]
        if lost := [digest for digest in owed if digest not in got]:
            yield f"lost {len(lost)} of {len(owed)} versions"
        if set(got) - {one.digest for one in theirs}:
            yield "arrived with bytes that were not sent for this destination"
        if not owed:
            return
        last = max(index for index, one in enumerate(theirs) if one.answered)
        if got and got[-1] not in {one.digest for one in theirs[last:]}:
            yield "arrived last in a version that is not the newest"
        if not self.faults and got != owed:
            yield f"arrived as {len(got)} versions instead of {len(owed)}, or in another order, and there was no fault"
