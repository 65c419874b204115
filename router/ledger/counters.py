"""What people watch of the ledger, in numbers."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from router.model import LOG_SEGMENTS


@dataclass(slots=True)
class Counters:
    """What people watch, kept beside the tables so that looking costs nothing; changed only after a commit."""

    open: dict[str, list[int]] = field(default_factory=dict)
    """Destination to [deliveries, bytes] that are open."""
    dead: int = 0
    held: int = 0
    kept: dict[int, int] = field(default_factory=dict)
    """Log to the bytes of its fully settled records that still lie in the spool."""

    @property
    def kept_bytes(self) -> int:
        return sum(self.kept.values())

    def add_open(self, destination: str, count: int, size: int) -> None:
        entry = self.open.setdefault(destination, [0, 0])
        entry[0] += count
        entry[1] += size

    def strangers(self, destinations: Container[str]) -> list[str]:
        """What something is owed to and is none of these ``destinations``."""
        return [name for name, (count, _) in list(self.open.items()) if count and name not in destinations]

    def keep(self, segment: int, size: int) -> None:
        """A record of ``size`` bytes is settled; it is unsettled or gone if negative."""
        log = segment // LOG_SEGMENTS
        self.kept[log] = self.kept.get(log, 0) + size

    def apply(self, other: Counters) -> None:
        for destination, (count, size) in other.open.items():
            self.add_open(destination, count, size)
        self.dead += other.dead
        self.held += other.held
        for log, size in other.kept.items():
            self.kept[log] = self.kept.get(log, 0) + size

    def rows(self) -> list[tuple[str, int, int]]:
        """As they stand in the table ``counter``."""
        rows = [(f"open:{name}", count, size) for name, (count, size) in self.open.items()]
        rows += [(f"kept:{log}", 0, size) for log, size in self.kept.items()]
        rows += [("dead", self.dead, 0), ("held", self.held, 0)]
        return [row for row in rows if row[1] or row[2]]

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[str, int, int]]) -> Counters:
        counters = cls()
        for name, number, size in rows:
            kind, _, detail = name.partition(":")
            if kind == "open":
                counters.open[detail] = [number, size]
            elif kind == "kept":
                counters.kept[int(detail)] = size
            elif kind == "dead":
                counters.dead = number
            elif kind == "held":
                counters.held = number
        return counters
