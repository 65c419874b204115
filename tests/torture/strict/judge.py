"""What the production code makes of a disk after a power cut, against what was answered before it.

Everything answered must be at each destination already, or be owed to it, with the bytes that were sent. What the
ledger and the spool say is read as a start and its lanes read it: ``reconcile``, leases, verified reads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.app.recovery import reconcile
from router.errors import RouterError
from router.ledger import SqliteLedger
from router.model import SpoolSettings
from router.spool import Spool
from router.spool.source import read_whole
from tests.torture.strict.disk import Event, What

SETTINGS = SpoolSettings(segment_size=4 << 20, reserve_associations=0, reserve_objects=0)
MANY = 1_000_000


@dataclass
class Books:
    """What senders and destinations had written down at one moment: UID to SHA-256, by file name."""

    lines: dict[str, dict[str, str]] = field(default_factory=dict)
    wanted: dict[str, frozenset[str]] = field(default_factory=dict)
    """UID of what was answered to its destinations."""
    _rest: dict[str, bytes] = field(default_factory=dict)

    def feed(self, event: Event) -> bool:
        """Whether something was written down."""
        folder, _, name = event.path.rpartition("/")
        if event.what is not What.WRITE or folder != "books" or not name.startswith(("sender", "destination")):
            return False
        *whole, self._rest[name] = (self._rest.get(name, b"") + event.data).split(b"\n")
        page = self.lines.setdefault(name, {})
        for line in whole:
            uid, digest, rest = line.decode().split()
            page[uid] = digest
            if name.startswith("sender"):
                self.wanted[uid] = frozenset(rest.split(","))
        return name.startswith("sender")

    @property
    def answered(self) -> dict[str, str]:
        return {
            uid: digest
            for name, page in self.lines.items()
            if name.startswith("sender")
            for uid, digest in page.items()
        }

    def arrived(self, destination: int) -> Mapping[str, str]:
        return self.lines.get(f"destination{destination}", {})


class _Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def debug(self, event: str, **values: Any) -> None: ...

    def info(self, event: str, **values: Any) -> None: ...

    def warning(self, event: str, **values: Any) -> None: ...

    def error(self, event: str, **values: Any) -> None:
        self.errors.append(f"{event} {values}")


@dataclass
class Finding:
    """Counts of deliveries; ``alarms``: what a person would be told of a disk on which nothing was damaged."""

    answered: int = 0
    owed: int = 0
    lost: int = 0
    astray: int = 0
    """Owed to a destination for which it is not."""
    damaged: int = 0
    refused: str = ""
    alarms: list[str] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return self.lost + self.astray + self.damaged + bool(self.refused)


def judge(data: Path, books: Books, destinations: int) -> Finding:
    """Recover the data folder with the production code, and compare."""
    found, log = Finding(), _Log()
    try:
        spool = Spool.open(data / "spool", SETTINGS, log=log)
        try:
            ledger = SqliteLedger.open(data / "ledger.db", node="test", log=log)
            try:
                reconcile(spool, ledger, log, "version")
                _compare(spool, ledger, books, destinations, found)
            finally:
                ledger.close_files()
        finally:
            spool.close_files()
    except (RouterError, OSError) as error:
        found.refused = repr(error)
    found.alarms = log.errors
    return found


def _compare(spool: Spool, ledger: SqliteLedger, books: Books, destinations: int, found: Finding) -> None:
    digests: dict[int, str] = {}
    store = ledger._store
    store.begin()
    for number in range(destinations):
        owed: dict[str, set[str]] = {}
        for delivery in store.lease(f"d{number}", MANY, time.time() + 1e6):
            info = delivery.instance
            if info.id not in digests:
                try:
                    data = read_whole(spool._pool, info, delivery.location)
                except RouterError:
                    digests[info.id] = ""
                    found.damaged += 1
                else:
                    digests[info.id] = hashlib.sha256(b"".join(data)).hexdigest()
            owed.setdefault(info.sop_instance, set()).add(digests[info.id])
        arrived = books.arrived(number)
        name = f"d{number}"
        answered = {uid: digest for uid, digest in books.answered.items() if name in books.wanted[uid]}
        found.owed += len(owed)
        found.astray += sum(name not in books.wanted.get(uid, {name}) for uid in owed)
        found.answered += len(answered)
        found.lost += sum(
            arrived.get(uid) != digest and digest not in owed.get(uid, ()) for uid, digest in answered.items()
        )
    ledger._rollback()
