"""What waits in a lane: what has just come and what is late, of each priority.

Both are in order by themselves and take turns: a backlog that drains keeps nothing new from leaving, and what is new
does not keep the backlog from draining. Knows nothing of associations, memory or time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator

from router.model import Delivery, Priority


class Waiting:
    __slots__ = ("_all", "_fresh", "_late", "_late_next")

    def __init__(self) -> None:
        self._late: tuple[deque[Delivery], ...] = tuple(deque() for _ in Priority)
        self._fresh: tuple[deque[Delivery], ...] = tuple(deque() for _ in Priority)
        self._all = tuple(queue for pair in zip(self._late, self._fresh, strict=True) for queue in pair)
        self._late_next = True

    def __len__(self) -> int:
        return sum(map(len, self._all))

    def __iter__(self) -> Iterator[Delivery]:
        """By priority, what is late first; roughly as they will leave."""
        for queue in self._all:
            yield from queue

    @property
    def late(self) -> int:
        return sum(map(len, self._late))

    @property
    def fresh(self) -> int:
        return sum(map(len, self._fresh))

    def _queue_of(self, delivery: Delivery) -> deque[Delivery]:
        return (self._late if delivery.late else self._fresh)[delivery.priority]

    def put(self, delivery: Delivery) -> None:
        """Behind its like."""
        self._queue_of(delivery).append(delivery)

    def put_back(self, delivery: Delivery) -> None:
        """Before its like."""
        self._queue_of(delivery).appendleft(delivery)

    def next(self, not_yet: Container[int]) -> Delivery | None:
        """Whose turn it is; it stays until ``take``. None: nothing waits, or what may leave next is among ``not_yet``
        (ids)."""
        for late, fresh in zip(self._late, self._fresh, strict=True):
            if late or fresh:
                for queue in (late, fresh) if self._late_next else (fresh, late):
                    if queue and queue[0].id not in not_yet:
                        return queue[0]
                return None
        return None

    def take(self, delivery: Delivery) -> None:
        """What ``next`` gave leaves."""
        self._queue_of(delivery).popleft()
        self._late_next = not delivery.late

    def remove(self, delivery: Delivery) -> bool:
        """From wherever it stands; False: it is not here."""
        queue = self._queue_of(delivery)
        if delivery not in queue:
            return False
        queue.remove(delivery)
        return True

    def age(self) -> None:
        """All that waits is late from now on, behind what was before."""
        for late, fresh in zip(self._late, self._fresh, strict=True):
            for delivery in fresh:
                delivery.late = True
            late.extend(fresh)
            fresh.clear()
