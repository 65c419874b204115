"""One association of a lane: opened for what waits, kept busy, released when there is nothing more.

No task per object: a response that arrives sends the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from router.delivery.classify import judge_error
from router.delivery.early import COMPLETED, GIVEN_UP, EarlyTransfer
from router.delivery.sender import Sender, StoreAnswer
from router.errors import AssociationAborted, SpoolError
from router.model import Delivery, InstanceInfo

if TYPE_CHECKING:
    from router.delivery.lane import Lane

MOST_INSTANCES = 10_000
"""Objects on one association, and its age in seconds: some archives act on a study only when it is released."""
MOST_SECONDS = 600.0
BEHIND = 32
"""Objects that wait beyond those in flight, from which on the lane is behind."""


class LaneAssociation:
    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._loop = lane.loop
        self._sender: Sender | None = None
        self._in_flight: dict[int, Delivery] = {}
        self._early: EarlyTransfer | None = None
        """What is sent here although it has not arrived whole; then nothing else is."""
        self._head: int | None = None
        """What the peer should have answered next when the association died."""
        self._delivered = 0
        self._opened_at = 0.0
        self._retiring = False
        self._pumping = False
        self._behind = False
        """The sender is in a hurry."""
        self._alone = False
        """It is for one object, on which others have ended."""
        self._ours = False
        """It ends for want of bytes of ours: neither the destination nor what else is in flight is to blame."""
        self._releasing = False
        self._release_task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._task: asyncio.Task[None] | None = None
        self.over: asyncio.Future[None] = lane.loop.create_future()

    @property
    def holds(self) -> Mapping[int, Delivery]:
        """The deliveries in flight here, by id."""
        return self._in_flight

    @property
    def working(self) -> bool:
        """Open and delivering."""
        return self._sender is not None and self._sender.alive and not self._retiring

    @property
    def soon(self) -> int:
        """Objects that it will take without another association: one while it is being opened, else none once it is
        full."""
        if self._retiring or self.early is not None:
            return 0
        return 1 if self._sender is None else max(0, self._sender.room)

    @property
    def early(self) -> EarlyTransfer | None:
        """The early transfer that holds it, if one does."""
        early = self._early
        return None if early is None or early.over else early

    def free_for(self, info: InstanceInfo) -> bool:
        """An early transfer of this instance can begin here at once."""
        sender = self._sender
        return (
            sender is not None
            and self.working
            and not self._in_flight
            and self._early is None
            and sender.room > 0
            and sender.accepts(info)
        )

    def begin(self, early: EarlyTransfer) -> None:
        """Send what there is of it, and what comes; as soon as this is open."""
        self._early = early
        sender = self._sender
        if sender is None:
            return
        if early.over or not sender.accepts(early.info):
            early.end(GIVEN_UP)
            self._early = None
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        early.association = self
        sender.store(early.info, early.source).add_done_callback(partial(self._early_over, early))

    def adopted(self, delivery: Delivery) -> None:
        """What is sent early is a delivery from now on."""
        self._in_flight[delivery.id] = delivery

    def _early_over(self, early: EarlyTransfer, future: StoreAnswer) -> None:
        self._early = None
        delivery, whole = early.delivery, early.source.ended
        error = None if future.cancelled() else future.exception()
        answered = error is None and not future.cancelled()
        early.end(COMPLETED if answered and whole and delivery is not None else GIVEN_UP)
        if delivery is not None and (isinstance(error, AssociationAborted) or (answered and whole)):
            self._answered(delivery, future)
            return
        # Answered before its end, or what was read is not what was stored: the ordinary way will tell. If the
        # destination ended the association, ``_closed`` judges it.
        if delivery is not None:
            self._in_flight.pop(delivery.id, None)
            self._lane.put_back(delivery)
        if not isinstance(error, AssociationAborted):
            self.abort()

    def start(self) -> None:
        self._task = self._loop.create_task(self._open())
        self._task.add_done_callback(self._opening_ended)

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        # Here and not in what the task does: one that is cancelled before its first step does nothing at all.
        if task.cancelled():
            self._finish()

    async def _open(self) -> None:
        lane = self._lane
        pairs = lane.pairs()
        try:
            sender = await lane.open_sender(pairs)
        except Exception as error:
            # Whatever opening it raised is judged like any other answer of the destination.
            self._finish(kick=False)
            lane.association_refused(self, error)
            return
        self._sender = sender
        self._opened_at = self._loop.time()
        lane.metrics.association_opened()
        sender.closed.add_done_callback(self._closed)
        lane.contexts_answered(
            [pair for pair in pairs if not sender.accepts_pair(pair)],
            [pair for pair in pairs if sender.accepts_pair(pair)],
        )
        if self._retiring:
            self._release_if_idle()
            return
        if self._early is not None:
            self.begin(self._early)
        self.pump()

    def pump(self) -> None:
        """Send as long as there is something to send and room for it."""
        sender, lane = self._sender, self._lane
        if sender is None or self._pumping:
            return
        stock, in_flight, answered = lane.stock, self._in_flight, self._answered
        self._pumping = True
        try:
            while stock and not self._retiring and sender.room > 0:
                delivery = lane.take(not in_flight)
                if delivery is None:
                    break
                alone = lane.suspects.leaves_alone(delivery)
                if alone and self._delivered:
                    lane.put_off(delivery)
                    self.retire()  # it gets an association of its own
                    break
                info = delivery.instance
                if not sender.accepts(info):
                    if not sender.proposed(info):
                        lane.put_back(delivery)
                        self.retire()  # a new one is negotiated for what waits now
                    elif lane.no_context(delivery):
                        self.retire()
                    continue
                in_flight[delivery.id] = delivery
                sender.store(info, lane.spool.source(delivery)).add_done_callback(partial(answered, delivery))
                if alone:
                    self._alone = self._retiring = True
                    break
                if self._delivered >= MOST_INSTANCES or self._loop.time() - self._opened_at > MOST_SECONDS:
                    self._retiring = True
        finally:
            self._pumping = False
        if (behind := len(stock.waiting) > BEHIND) is not self._behind:
            self._behind = behind
            sender.hurry(behind)
        if not in_flight:
            self._release_if_idle()

    def _answered(self, delivery: Delivery, future: StoreAnswer) -> None:
        in_flight, lane = self._in_flight, self._lane
        if future.cancelled():
            in_flight.pop(delivery.id, None)
            lane.put_back(delivery)
        elif (error := future.exception()) is None:
            in_flight.pop(delivery.id, None)
            self._delivered += 1
            lane.answered(delivery, future.result().status)
        elif isinstance(error, AssociationAborted):
            if self._head is None:
                self._head = next(iter(in_flight), None)
            in_flight.pop(delivery.id, None)
            lane.unanswered(delivery, error, first=self._head == delivery.id and not self._ours)
            return  # nothing more goes this way, and the next in line is not to blame
        else:
            in_flight.pop(delivery.id, None)
            if isinstance(error, SpoolError):
                self._ours = self._retiring = True
            lane.failed(delivery, error)
        self._head = None
        self.pump()
        if lane.stock or lane.has_backlog:
            lane.kick()

    def _release_if_idle(self) -> None:
        sender = self._sender
        if sender is None or self._in_flight or self._early is not None or self._releasing or not sender.alive:
            return
        if self._retiring:
            self._release()
        else:
            # Between any two objects, perhaps: the timer is left as it is, and looks when it fires.
            self._idle_since = self._loop.time()
            if self._idle is None:
                self._wait_idle()

    def _wait_idle(self) -> None:
        self._idle = self._loop.call_at(self._idle_since + self._lane.destination.idle_timeout, self._on_idle)

    def _on_idle(self) -> None:
        self._idle = None
        if self._in_flight or self._early is not None:
            return
        if self._loop.time() < self._idle_since + self._lane.destination.idle_timeout:
            self._wait_idle()
            return
        self._retiring = True
        self._release()

    def _release(self) -> None:
        sender = self._sender
        if sender is not None and not self._releasing:
            self._releasing = True
            self._release_task = self._loop.create_task(sender.release())

    def retire(self) -> None:
        """No more objects; released as soon as nothing is in flight."""
        self._retiring = True
        if self._early is not None:
            self._early.give_up()
        if self._sender is None:
            if self._task is not None:
                self._task.cancel()
            return
        if not self._pumping:
            self._loop.call_soon(self._release_if_idle)

    def abort(self) -> None:
        self._retiring = True
        if self._sender is not None:
            self._sender.abort()
        elif self._task is not None:
            self._task.cancel()

    def _closed(self, closed: asyncio.Future[Exception | None]) -> None:
        lane = self._lane
        lane.metrics.association_closed()
        error = closed.result()
        died = error is not None and not self._delivered and not self._ours and (not self._retiring or self._alone)
        self._sender = None
        # Futures of what was in flight have their errors already and are handled in this turn of the loop; then it is
        # over.
        self._loop.call_soon(self._after_close, judge_error(error) if died and error is not None else None)

    def _after_close(self, judgement) -> None:  # type: ignore[no-untyped-def]
        if judgement is not None:
            self._lane.association_died(judgement, self._head)
        self._finish()

    def _finish(self, *, kick: bool = True) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._early is not None:
            self._early.end(GIVEN_UP)  # it never began
            self._early = None
        if not self.over.done():
            self.over.set_result(None)
            if kick:
                self._lane.gone(self)
            else:
                self._lane.drop(self)
