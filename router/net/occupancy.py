"""How many associations are open, all together and by who has them: of one process, or of all that share a port."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from hashlib import blake2b

_WORD = 8
_TOTAL, _USED, _SLOTS = 0, 1, 2
"""A row, in words of 64 bits: its total, how many slots have ever been used, and the slots, each a name's hash and its
count."""


class Occupancy:
    """Of this process alone."""

    def __init__(self) -> None:
        self.here = 0
        self._by_name: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.here

    def of(self, name: str) -> int:
        return self._by_name[name]

    def began(self, name: str) -> None:
        self.here += 1
        self._by_name[name] += 1

    def ended(self, name: str) -> None:
        self.here -= 1
        self._by_name[name] -= 1
        if not self._by_name[name]:
            del self._by_name[name]


class SharedOccupancy(Occupancy):
    """Of several processes: each writes to a row of its own, and reads those of all, in memory that they share.

    Nothing is locked. Two processes that admit in the same moment do not see each other yet, so a limit may be exceeded
    by as many as there are other processes.
    """

    def __init__(self, memory: OccupancyMemory, row: int) -> None:
        super().__init__()
        self._memory = memory
        self._row = memory.row(row)
        self._others = [memory.row(other) for other in range(memory.rows) if other != row]
        self._slots: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def total(self) -> int:
        return self.here + sum(row[_TOTAL] for row in self._others)

    def of(self, name: str) -> int:
        found, wanted = super().of(name), _hash(name)
        for row in self._others:
            end = _SLOTS + 2 * row[_USED]
            names = row[_SLOTS:end:2].tolist()
            if wanted in names:
                found += row[_SLOTS + 2 * names.index(wanted) + 1]
        return found

    def began(self, name: str) -> None:
        super().began(name)
        self._tell(name)

    def ended(self, name: str) -> None:
        super().ended(name)
        self._tell(name)

    def _tell(self, name: str) -> None:
        row = self._row
        row[_TOTAL] = self.here
        count, slot = super().of(name), self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = self._free.pop() if self._free else row[_USED]
            row[_SLOTS + 2 * slot] = _hash(name)
            row[_USED] = max(row[_USED], slot + 1)
        row[_SLOTS + 2 * slot + 1] = count
        if not count:
            row[_SLOTS + 2 * slot] = 0
            del self._slots[name]
            self._free.append(slot)


class OccupancyMemory:
    """The rows. The descriptor may be given to other processes, which make theirs of it.

    Args:
        rows: Processes.
        names: That one process may have associations with at once: no more than it may have associations.
        descriptor: Of one that was made before; None makes it.
    """

    def __init__(self, rows: int, names: int, descriptor: int | None = None) -> None:
        self.rows = rows
        self._words = _SLOTS + 2 * names
        size = rows * self._words * _WORD
        if descriptor is None:
            descriptor = os.memfd_create("associations")
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._view = memoryview(mmap.mmap(descriptor, size)).cast("Q")

    def row(self, number: int) -> memoryview:
        return self._view[number * self._words : (number + 1) * self._words]

    def clear(self, number: int) -> None:
        """Its process has ended, and with it its associations."""
        row = self.row(number)
        row[:] = memoryview(bytes(row.nbytes)).cast("Q")


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=_WORD).digest(), "little") or 1
