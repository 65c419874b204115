"""Instance ids: 63 bits, rising in order of arrival, unique in this installation."""

from __future__ import annotations

from collections.abc import Callable

_EPOCH = 1_577_836_800.0
"""2020-01-01T00:00:00Z; 41 bits of milliseconds from there last until 2089."""
_SEQUENCE_BITS = 14
_WORKER_BITS = 8


class IdSource:
    """Milliseconds, worker, sequence. A clock that steps back does not bring ids back: the last one only rises.

    Args:
        worker: 0 to 255, different for processes that share a ledger.
        last: The highest id known to the ledger or the spool; the first new id is above it.
        clock: Epoch seconds.
    """

    __slots__ = ("_clock", "_last", "_step", "_worker")

    def __init__(self, *, worker: int, last: int, clock: Callable[[], float]) -> None:
        self._worker = worker << _SEQUENCE_BITS
        self._step = 1 << (_SEQUENCE_BITS + _WORKER_BITS)
        self._last = last
        self._clock = clock

    def next(self) -> int:
        millisecond = int((self._clock() - _EPOCH) * 1000)
        candidate = millisecond * self._step + self._worker
        last = self._last
        if candidate <= last:
            # Same millisecond, or the clock went back: count on from the last one, in this worker's lane of numbers.
            candidate = last + 1
            if candidate & (self._step - 1) >= self._worker + (1 << _SEQUENCE_BITS) or (
                candidate & (self._step - 1) < self._worker
            ):
                candidate = (last // self._step + 1) * self._step + self._worker
        self._last = candidate
        return candidate
