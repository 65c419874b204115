"""Large objects on their way to idle destinations while they still arrive: when that begins, and what it hangs on.

The decision is made when Pixel Data begins, by what the rules can see by then, and is the decision of the object. What
is sent early is given up unless, at the end, the record is durable and the ledger has leased the delivery to the same
lane: duplicates, older versions that are still owed, refusals and failures need no case of their own here.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.delivery.early import EarlyTransfer
from router.delivery.lane import Lane
from router.delivery.memory import Budget
from router.model import Decision, InstanceInfo, Verdict
from router.ports import Buffer
from router.spool import Spool, SpoolStream
from router.spool.growing import GrowingData

CUT_THROUGH = 4 << 20
"""Bytes of an object that must have come. Below, the way over the disk takes no longer than an association."""
KEEP = 4 << 20
"""Bytes of what came last that stay in memory, so that destinations which keep up need not read the disk."""


class CutThrough:
    """One object that is sent on while it arrives."""

    __slots__ = ("_data", "decision", "transfers")

    def __init__(self, decision: Decision, data: GrowingData, transfers: Mapping[str, EarlyTransfer]) -> None:
        self.decision = decision
        self.transfers = transfers
        """By the name of the destination."""
        self._data = data

    @classmethod
    def begin(
        cls,
        info: InstanceInfo,
        decision: Decision,
        stream: SpoolStream,
        *,
        recent: list[Buffer] | None,
        spool: Spool,
        lanes: Mapping[str, Lane],
        budget: Budget,
    ) -> CutThrough:
        """Towards every destination of the decision whose lane has nothing else to do.

        Args:
            info: As far as it is known.
            recent: The last of what the stream has been given, if ``KEEP`` bytes of the budget have been taken for it;
            None: nothing is kept.
        """
        kept = recent is not None

        def released() -> None:
            if kept:
                budget.give_back(KEEP)

        data = spool.growing(
            stream, recent=recent or [], size=stream.taken, keep=KEEP if kept else 0, released=released
        )
        transfers: dict[str, EarlyTransfer] = {}
        if decision.verdict is Verdict.ROUTE:
            for name in decision.destinations:
                early = lanes[name].early(info, data)
                if early is not None:
                    transfers[name] = early
        if not transfers:
            data.left()
        return cls(decision, data, transfers)

    def append(self, *chunks: Buffer) -> None:
        """The next bytes of the data set, which the stream has been given too."""
        self._data.append(*chunks)

    def give_up(self) -> None:
        """The object will not be stored, or otherwise than was thought."""
        for early in self.transfers.values():
            early.give_up()
