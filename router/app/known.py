"""Which SOP Instance UIDs may be known to the ledger already: asked of every object, answered without the ledger.

A Bloom filter: what was never added is nearly always called new, what was added never is. An object that is surely new
has no older version anywhere that must go before it, so it can be sent as soon as it is durable.
"""

from __future__ import annotations

from collections.abc import Iterable

LEAST = 1 << 17
"""UIDs that the smallest filter is made for."""
BITS = 32
"""Per UID that it is made for: with two probes, one in 250 that are new is not called so when it is full."""


class _Filter:
    def __init__(self, capacity: int) -> None:
        size = BITS * max(capacity, LEAST)
        self._mask = (1 << (size - 1).bit_length()) - 1
        self._bits = bytearray((self._mask + 1) // 8)
        self.capacity = (self._mask + 1) // BITS
        self.added = 0

    def add(self, name: str) -> bool:
        """True if it was not there."""
        bits, mask = self._bits, self._mask
        # Python's own hash: 64 evenly spread bits, and nobody outside knows which names have the same.
        number = hash(name)
        one, other = number & mask, number >> 32 & mask
        if bits[one >> 3] >> (one & 7) & bits[other >> 3] >> (other & 7) & 1:
            return False
        bits[one >> 3] |= 1 << (one & 7)
        bits[other >> 3] |= 1 << (other & 7)
        self.added += 1
        return True


class KnownInstances:
    """Lives on the event loop.

    Args:
        names: The UIDs that the ledger has.
        count: About how many they are.
    """

    def __init__(self, names: Iterable[str] = (), count: int = 0) -> None:
        self._filter = _Filter(2 * count)
        self._next: _Filter | None = None
        for name in names:
            self._filter.add(name)

    def add(self, name: str) -> bool:
        """From now on it is known; True if it surely was not before."""
        if self._next is not None:
            self._next.add(name)
        return self._filter.add(name)

    @property
    def full(self) -> bool:
        """More and more of what is new is not called so: it is time to begin again with what the ledger still has."""
        return self._filter.added > self._filter.capacity and self._next is None

    def begin_again(self, count: int) -> None:
        """What is added from here on is in the next filter too; ``also`` adds what the ledger has."""
        self._next = _Filter(2 * count)

    def also(self, names: Iterable[str]) -> None:
        """The ledger has these."""
        if self._next is not None:
            for name in names:
                self._next.add(name)

    def stay(self) -> None:
        """The next filter cannot be completed; it is begun again later."""
        self._next = None

    def go_over(self) -> None:
        """The next filter has everything."""
        if self._next is not None:
            self._filter, self._next = self._next, None
