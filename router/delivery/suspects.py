"""Objects on which associations died: when each is tried again, and whether it alone is to blame.

One death may have any reason; the object is tried again as soon as nothing else waits. What associations die on again
and again is tried alone, on an association of its own, so that it costs no other more than its place for that time.
Knows nothing of associations, ledger or destinations; the time comes as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from router.model import Delivery

STRIKES = 3
"""Associations that may die on an object before that is an attempt of its own."""
WAIT = 30.0
"""Seconds after which one is tried although others wait."""
REST = 5.0
"""Seconds before one on which two have died is tried again."""
REMEMBERED = 256


class Suspects:
    """Of one lane.

    Args:
        waiting: (since when, delivery), counted by the lane's stock.
    """

    __slots__ = ("_blamed", "_killers", "_strikes", "_waiting")

    def __init__(self, waiting: deque[tuple[float, Delivery]]) -> None:
        self._waiting = waiting
        self._strikes: dict[int, int] = {}
        self._killers: dict[int, None] = {}
        """Those that have had their strikes: they are suspects also when they are tried again much later."""
        self._blamed: int | None = None
        """On which the last association died that had delivered nothing; None: something was delivered since."""

    def __iter__(self) -> Iterator[Delivery]:
        return (delivery for _, delivery in self._waiting)

    def strike(self, delivery: Delivery) -> bool:
        """An association died on it. True: it has had its strikes."""
        number = delivery.id
        strikes = self._strikes[number] = self._strikes.get(number, 0) + 1
        if strikes < STRIKES and number not in self._killers:
            return False
        self._killers[number] = None
        if len(self._killers) > REMEMBERED:
            del self._killers[next(iter(self._killers))]
        return True

    def killed_before(self, delivery: Delivery) -> bool:
        return delivery.id in self._killers

    def leaves_alone(self, delivery: Delivery) -> bool:
        """It gets an association of its own."""
        return delivery.id in self._strikes or delivery.id in self._killers

    def add(self, delivery: Delivery, now: float) -> float:
        """It waits; gives after how many seconds it may be due, however little else there is to do."""
        self._waiting.append((now, delivery))
        return REST if self._strikes.get(delivery.id, 0) > 1 else 0.0

    def put_off(self, delivery: Delivery, now: float) -> None:
        """Taken, and not sent: it is the next."""
        self._waiting.appendleft((now - WAIT, delivery))

    def due(self, now: float, *, others: bool, up: bool) -> int | None:
        """Where the first one stands whose turn it is: when nothing else waits, or it has for long. Never to find out
        whether the destination is back, while there is another to ask with."""
        if others and not up:
            return None
        for index, (since, delivery) in enumerate(self._waiting):
            waited = now - since
            if waited >= WAIT if others else waited >= REST or self._strikes.get(delivery.id, 0) <= 1:
                return index
        return None

    def take(self, index: int) -> Delivery:
        _, delivery = self._waiting[index]
        del self._waiting[index]
        return delivery

    def settled(self, delivery: Delivery) -> None:
        """This attempt is over."""
        if self._strikes:
            self._strikes.pop(delivery.id, None)

    def delivered(self, delivery: Delivery) -> None:
        """The destination has taken it."""
        self._blamed = None
        if self._killers:
            self._killers.pop(delivery.id, None)

    def is_to_blame(self, head: int | None) -> bool:
        """An association died that had delivered nothing: whether it may be for this object alone. A second one in
        the same way speaks against the destination.

        Args:
            head: The delivery that the destination should have answered, if there was one.
        """
        blamed, self._blamed = self._blamed, head
        if head is None:
            return False
        return blamed in (None, head) or head in self._killers or self._strikes.get(head, 0) > 1
