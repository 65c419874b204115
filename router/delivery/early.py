"""A large object on its way to one destination before it has arrived whole (cut-through).

::

    begun ─▶ command and fragments leave as they come ─┬─ adopted: stored and owed, the last one may leave ─▶ answered
                                                       └─ given up: the association is aborted, nothing counts

Until it is adopted nobody owes the object to the destination, so whatever goes wrong is no attempt, and charged to
nothing: the delivery comes into being like any other, and goes the ordinary way. Once adopted it is an ordinary
delivery in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from router.model import Delivery, InstanceInfo
from router.ports import GrowingSource

if TYPE_CHECKING:
    from router.delivery.association import LaneAssociation

PATIENCE = 2.0
"""Seconds between two looks at early transfers that hold every association while ordinary deliveries wait."""
LEAST = 1 << 20
"""Bytes that its sender must have brought from one look to the next."""

COMPLETED = "completed"
GIVEN_UP = "given_up"


class EarlyTransfer:
    """Made by ``Lane.early``. Ends once, in one of two ways; told to ``ended``.

    Args:
        info: Of the instance as far as it is known: neither id, size nor checksum.
    """

    def __init__(self, info: InstanceInfo, source: GrowingSource, ended: Callable[[str], None]) -> None:
        self.info = info
        self.source = source
        self.delivery: Delivery | None = None
        """Set by ``adopt``."""
        self.association: LaneAssociation | None = None
        """Set when the command has been sent on it."""
        self._ended: Callable[[str], None] | None = ended
        self._seen = 0

    @property
    def over(self) -> bool:
        return self._ended is None

    def adopt(self, delivery: Delivery) -> bool:
        """It is stored, and owed to this destination: True if this transfer is the attempt to deliver it."""
        if self.over:
            return False
        if self.association is None:
            # The association is still being opened. The delivery can as well wait for it like any other.
            self.end(GIVEN_UP)
            return False
        self.delivery = delivery
        self.association.adopted(delivery)
        self.source.complete(delivery.instance)
        return True

    def give_up(self) -> None:
        """Nothing of it counts. Of no effect once it is over or adopted."""
        if self.over or self.delivery is not None:
            return
        self.end(GIVEN_UP)
        if self.association is not None:
            self.association.abort()

    def end(self, outcome: str) -> None:
        """Let go of its data."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self.source.close()
            ended(outcome)

    def look(self) -> bool:
        """Whether its sender has brought next to nothing since the last look, and it waits for more."""
        before, self._seen = self._seen, self.source.given
        return self.delivery is None and self.source.starved and self.source.given - before < LEAST
