"""One lane per destination: its own window of deliveries, associations, rest and reason. Lanes share nothing but a
memory budget, of which each has a part that the others cannot use up.

::

    offer (just committed) ─┐
                            ├─▶ window ─▶ associations ─▶ settle ─▶ ledger
    lease (backlog) ────────┘      ▲            │
                                   └─ again ────┘

Invariants:

1. Every delivery in the window is leased in the ledger by this process. It leaves the window settled, or given back.
2. ``reserved + asked for + waiting + in flight`` never exceeds the window, however long the backlog is.
3. A delivery is *delivered* only by a success or warning status that answers it.
4. A failure of the destination is charged to no object, and a failure of one object does not stop the others.
5. Timers are monotonic. Wall clock time is only written to the ledger.
6. What is sent before it has arrived whole (``early``) is no delivery until ``offer`` makes one of it.
7. What has just come and what is late have half of the window each, and take turns (``waiting``).
8. Bytes in memory belong to what waits, and can then be let go, or to what is in flight. Of the latter there are no
   more than the lane's part of the budget, but for one object of each association (``stock``).

States: *up*; *resting* after the destination failed, until a timer; *probing* with one object; *paused* by an operator.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from router.delivery.association import LaneAssociation
from router.delivery.backoff import rest_seconds
from router.delivery.classify import Judgement, Meaning, judge_error, judge_status, retry_after
from router.delivery.concurrency import Concurrency
from router.delivery.early import PATIENCE, EarlyTransfer
from router.delivery.memory import Budget
from router.delivery.sender import OpenSender, Pair
from router.delivery.stock import Stock
from router.delivery.suspects import Suspects
from router.errors import LedgerError
from router.model import Delivery, Destination, InstanceInfo, Limits, Location, Outcome, OutcomeKind, Status
from router.ports import GrowingObject, LaneMetrics, Ledger, Log, SpoolReader

LEASE_BATCH = 256
PREFETCH = 32
"""Small objects read ahead from the spool."""
MISCONFIGURED_FIRST = 60.0
LOCAL_WAIT = 60.0
"""Seconds after which an object is tried again that could not be read from the spool, for reasons of ours."""
LEASE_AGAIN = 2.0
"""Seconds after which the ledger is asked again that could not answer."""
PAIRS_REMEMBERED = 64
NO_CONTEXT_AGREE = 3
NO_CONTEXT_MEMORY = 60.0
"""Seconds for which a pair that three associations refused is not asked for again."""


_DONE = {Meaning.DELIVERED: OutcomeKind.DELIVERED, Meaning.WARNING: OutcomeKind.WARNING}
"""How a delivery ends that the destination has taken."""
_SUCCESS, _DELIVERED = Status.SUCCESS, OutcomeKind.DELIVERED
"""Found once: to look a member of an enumeration up is a call."""


class LedgerForLane(Ledger, Protocol):
    async def next_ready_in(self, destination: str) -> float | None:
        """Seconds until the earliest waiting delivery may be tried; None when none waits."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    state: str
    """``up``, ``resting``, ``probing``, ``paused``."""
    reason: str
    since: float
    """Epoch seconds."""
    next_attempt_in: float | None
    window: int
    """Deliveries in memory."""
    in_flight: int
    associations: int
    concurrency: int


class Lane:
    """See the module's text. Everything is called on the loop.

    Args:
        damaged: Told of an instance whose stored bytes do not read back.
        random: 0 to 1; spreads the rests.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        ledger: LedgerForLane,
        spool: SpoolReader,
        open_sender: OpenSender,
        metrics: LaneMetrics,
        log: Log,
        limits: Limits,
        budget: Budget,
        random: Callable[[], float],
        damaged: Callable[[InstanceInfo, Location, str], None],
    ) -> None:
        self.destination = destination
        self.name = destination.name
        self.spool = spool
        self.open_sender = open_sender
        self.metrics = metrics
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.concurrency = Concurrency(destination.max_associations)
        self.state = "up"
        self.reason = ""
        self.since = time.time()
        self._ledger = ledger
        self._limits = limits
        self.stock = Stock(budget)
        self._random = random
        self._damaged = damaged
        self._waiting = self.stock.waiting
        self.suspects = Suspects(self.stock.suspects)
        self._reserved = 0
        """Places of what is on its way here from the spool, ..."""
        self._asked = 0
        """... and from the ledger."""
        self._loading: set[int] = set()
        self._associations: dict[LaneAssociation, None] = {}
        """In the order in which they were opened."""
        self._pairs: dict[Pair, None] = {}
        self._last_pair: Pair | None = None
        self._no_context: dict[Pair, tuple[int, float]] = {}
        self.has_backlog = True
        self._leasing = False
        self._failures = 0
        self._rest_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._early_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        metrics.up(True)
        metrics.paused(False)

    # What the intake and the operators call ------------------------------------------------------------------

    def reserve(self) -> bool:
        """Whether a just received object may be born leased and come here after its commit. Counts a place if so."""
        if self._closing or self.state == "paused" or (self.has_backlog and self.state != "up"):
            return False
        most, reserved = self._limits.window, self._reserved
        if reserved + self._waiting.fresh >= (most + 1) // 2 or self.window >= most:
            return False
        self._reserved = reserved + 1
        return True

    def cancel_reservation(self) -> None:
        self._reserved -= 1

    def early(self, info: InstanceInfo, data: GrowingObject) -> EarlyTransfer | None:
        """Begin to send an object that still arrives; None if there is anything else to do here, or no place.

        Args:
            info: As far as it is known: neither id, size nor checksum.
        """
        destination, pair = self.destination, (info.sop_class, info.transfer_syntax)
        allowed = destination.transfer_syntaxes
        if (
            not destination.cut_through
            or destination.kind != "dicom"
            or self._closing
            or self.state != "up"
            or self.has_backlog
            or self._leasing
            or self.waiting
            or (allowed is not None and info.transfer_syntax not in allowed)
            or self._pair_is_refused(pair)
        ):
            return None
        association = next((one for one in self._associations if one.free_for(info)), None)
        if association is None and len(self._associations) >= self.concurrency.allowed:
            return None
        early = EarlyTransfer(info, data.source(), self.metrics.cut_through)
        self._remember(pair)
        if association is not None:
            association.begin(early)
        else:
            association = LaneAssociation(self)
            association.begin(early)
            self._associations[association] = None
            association.start()
        return early

    def offer(self, delivery: Delivery, early: EarlyTransfer | None = None) -> None:
        """The committed object takes its reserved place; ``kick`` once for all that are offered together.

        Args:
            early: What has been sent of it before, which now may be sent to its end.
        """
        self._reserved -= 1
        if early is not None and early.adopt(delivery):
            self.stock.adopted()
            return
        self.stock.afford(delivery)
        self._enqueue(delivery)

    def backlog(self) -> None:
        """There are ready rows in the ledger."""
        self.has_backlog = True
        self.kick()

    def start(self) -> None:
        self.kick()

    def pause(self, reason: str) -> None:
        """Nothing is sent until ``resume``; what is in flight finishes."""
        self._set_state("paused", reason)
        self.metrics.paused(True)
        self._cancel_timer()
        for association in list(self._associations):
            association.retire()

    def resume(self) -> None:
        """Lift a pause and end a rest: the next attempt is made now."""
        self.metrics.paused(False)
        self._cancel_timer()
        if self._failures:
            self._probe()
        else:
            self._set_state("up", "")
            self.metrics.up(True)  # what was in flight when it began to rest may have been taken since
            self.concurrency.probe()
        self.has_backlog = True
        self.kick()

    def holds(self) -> set[int]:
        """The deliveries that are here, wherever on their way."""
        held = {delivery.id for delivery in self._waiting}
        held.update(delivery.id for delivery in self.suspects)
        return held.union(*(association.holds for association in self._associations))

    def count_anew(self) -> None:
        """After a fault of ours on the way of a delivery: what it left counted must not keep others from leaving."""
        loading = [delivery for delivery in self._waiting if delivery.id in self._loading and delivery.chunks is None]
        self.stock.count_anew(
            [delivery for association in self._associations for delivery in association.holds.values()],
            sum(delivery.instance.size for delivery in loading),
        )
        self.backlog()

    def status(self) -> LaneStatus:
        resting = self.state == "resting"
        return LaneStatus(
            state=self.state,
            reason=self.reason,
            since=self.since,
            next_attempt_in=max(0.0, self._rest_until - self.loop.time()) if resting else None,
            window=self.window,
            in_flight=self.stock.in_flight,
            associations=len(self._associations),
            concurrency=self.concurrency.allowed,
        )

    async def close(self, grace: float) -> None:
        """Finish what is in flight for ``grace`` seconds, end the associations, give the leases back."""
        self._closing = True
        self._cancel_timer()
        for timer in (self._lease_timer, self._early_timer):
            if timer is not None:
                timer.cancel()
        deadline = self.loop.time() + grace
        for association in list(self._associations):
            association.retire()
        while self._associations and self.loop.time() < deadline:
            await asyncio.wait([association.over for association in self._associations], timeout=0.2)
        for association in list(self._associations):
            association.abort()
        if self._associations:
            await asyncio.wait([association.over for association in self._associations], timeout=2)
        for task in list(self._tasks):
            task.cancel()
        left = [*self._waiting, *self.suspects]
        if left:
            try:
                await self._ledger.release(left)
            except LedgerError as error:
                # The next start takes these leases over anyway.
                self.log.warning("leases not given back", destination=self.name, reason=str(error))

    @property
    def window(self) -> int:
        """Deliveries in memory, reserved ones too."""
        return self._reserved + self._asked + len(self.stock) + self.stock.in_flight

    @property
    def waiting(self) -> int:
        return len(self.stock)

    # Work ------------------------------------------------------------------------------------------------------

    @property
    def may_send(self) -> bool:
        return not self._closing and self.state in ("up", "probing")

    def kick(self) -> None:
        """Look for something to do: lease, read ahead, send, associate."""
        stock = self.stock
        if self._closing:
            return
        if self.has_backlog:
            self._lease_more()
        if not self.may_send:
            return
        if stock.unread:
            self._prefetch()
        if not stock:
            return
        for association in list(self._associations):
            association.pump()
            if not stock:
                return
        # The new one only if those that are open do not take what is ready.
        while (
            self.may_send
            and len(self._associations) < self.concurrency.allowed
            and len(self._waiting) + (self._due_suspect() is not None)
            > sum(association.soon for association in self._associations)
        ):
            association = LaneAssociation(self)
            self._associations[association] = None
            association.start()
        if self._early_timer is None and stock and self._held_by_early():
            for association in self._associations:
                if association.early is not None:
                    association.early.look()
            self._early_timer = self.loop.call_later(PATIENCE, self._end_lingering)

    def _held_by_early(self) -> bool:
        """No association is left for what waits."""
        return len(self._associations) >= self.concurrency.allowed and all(
            association.early is not None for association in self._associations
        )

    def _end_lingering(self) -> None:
        """What waits for a sender must not keep what is there from leaving."""
        self._early_timer = None
        if self.waiting and self._held_by_early():
            for association in list(self._associations):
                if association.early is not None and association.early.look():
                    association.early.give_up()
            self.kick()

    def take(self, alone: bool) -> Delivery | None:
        """The next object to send, or None. ``alone``: the association has nothing else in flight."""
        stock = self.stock
        if self._closing or (self.state != "up" and (self.state != "probing" or stock.in_flight)):
            return None
        if alone and stock.suspects and (index := self._due_suspect()) is not None:
            delivery = self.suspects.take(index)
            stock.take_off(delivery)
            return delivery
        return stock.next(alone, self._loading)  # whoever reads what is loading kicks

    def _due_suspect(self) -> int | None:
        return self.suspects.due(self.loop.time(), others=len(self._waiting) > 0, up=self.state == "up")

    def put_off(self, delivery: Delivery) -> None:
        """Taken, and not sent here: it is the next for another association."""
        self.stock.land(delivery)
        self.suspects.put_off(delivery, self.loop.time())
        self.stock.keep_next(delivery)

    def _suspect(self, delivery: Delivery) -> None:
        rest = self.suspects.add(delivery, self.loop.time())
        if rest:
            self.loop.call_later(rest, self.kick)

    def put_back(self, delivery: Delivery) -> None:
        """Not sent, through no fault of its own: it is the next again."""
        self.stock.put_back(delivery)

    def pairs(self) -> list[Pair]:
        """What an association should be negotiated for: what waits, then what was seen before; at most 128."""
        found: dict[Pair, None] = {}
        for delivery in self._waiting:
            found[(delivery.instance.sop_class, delivery.instance.transfer_syntax)] = None
            if len(found) >= 128:
                return list(found)
        for delivery in self.suspects:
            found[(delivery.instance.sop_class, delivery.instance.transfer_syntax)] = None
        for pair in reversed(self._pairs):
            if len(found) >= 128:
                break
            found[pair] = None
        return list(found)[:128]

    def _enqueue(self, delivery: Delivery) -> None:
        info = delivery.instance
        allowed = self.destination.transfer_syntaxes
        if allowed is not None and info.transfer_syntax not in allowed:
            self.stock.take_off(delivery)
            self._give_up(delivery, Judgement(Meaning.NO_CONTEXT, "the destination does not take this transfer syntax"))
            return
        pair = (info.sop_class, info.transfer_syntax)
        if pair != self._last_pair:
            self._remember(pair)
        if self.suspects.killed_before(delivery):
            self._suspect(delivery)
        else:
            self.stock.put(delivery)

    def _remember(self, pair: Pair) -> None:
        self._last_pair = pair
        self._pairs.pop(pair, None)
        self._pairs[pair] = None
        if len(self._pairs) > PAIRS_REMEMBERED:
            del self._pairs[next(iter(self._pairs))]

    # The backlog -------------------------------------------------------------------------------------------

    def _lease_more(self) -> None:
        if self._leasing or (self.state != "up" and self.state != "probing"):
            return
        late, most = self._waiting.late, self._limits.window
        # What is in flight takes of the part of what is late, as far as something is left of it.
        room = min(most - self.window, (most + 1) // 2 - late - min(self.stock.in_flight, most // 4))
        if room <= 0 or late > LEASE_BATCH // 2:
            return
        self._leasing = True
        self._spawn(self._lease(min(room, LEASE_BATCH)))

    async def _lease(self, limit: int) -> None:
        try:
            self.has_backlog = False
            self._asked = limit  # the window is one, however many ask for places in it
            try:
                found = await self._ledger.lease(self.name, limit)
            finally:
                self._asked = 0
            if self._closing:
                await self._ledger.release(found)
                return
            for delivery in found:
                delivery.late = True
                self._enqueue(delivery)
            if len(found) >= limit:
                self.has_backlog = True
            elif not self.has_backlog:
                await self._look_again()
        except LedgerError as error:
            # What was leased before the error is sent all the same.
            self._ask_again_in(LEASE_AGAIN)
            self.log.error("cannot lease deliveries", destination=self.name, reason=str(error))
        finally:
            self._leasing = False
        self.kick()

    async def _look_again(self) -> None:
        """Objects that must wait for their time: come back then."""
        seconds = await self._ledger.next_ready_in(self.name)
        if seconds is None or self._closing:
            return
        self._ask_again_in(min(max(seconds, 0.5), 60.0))

    def _ask_again_in(self, seconds: float) -> None:
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        self._lease_timer = self.loop.call_later(seconds, self.backlog)

    def _prefetch(self) -> None:
        """Read small objects ahead, in order, so that associations find them in memory."""
        stock = self.stock
        stock.unread = False  # unless one is met that must wait
        budget = PREFETCH - len(self._loading)
        for delivery in self._waiting:
            if delivery.chunks is None:
                stock.unread = True
            if budget <= 0:
                stock.unread = True
                return
            budget -= 1
            if (
                delivery.chunks is None
                and delivery.id not in self._loading
                and delivery.instance.size <= self._limits.object_memory
                and stock.take_ahead(delivery)
            ):
                self._loading.add(delivery.id)
                self._spawn(self._load(delivery))

    async def _load(self, delivery: Delivery) -> None:
        try:
            delivery.chunks = await self.spool.load(delivery.instance, delivery.location)
            self.stock.keep_next(delivery)
        except Exception as error:
            self.stock.memory.give_back(delivery.instance.size)
            if self._waiting.remove(delivery):
                self.stock.take_off(delivery)
                self.failed(delivery, error)
        finally:
            self._loading.discard(delivery.id)
        self.kick()

    # Outcomes ----------------------------------------------------------------------------------------------

    def answered(self, delivery: Delivery, status: int) -> None:
        """A response to it came."""
        if status == _SUCCESS:
            self._taken(delivery, _DELIVERED, status, "")
        else:
            # "Already there" may be said of the other bytes that are there under its UID.
            there = self.destination.duplicate_is_done and not delivery.changed
            self._conclude(delivery, judge_status(status, there), status)

    def failed(self, delivery: Delivery, error: BaseException) -> None:
        """It was not answered."""
        self._conclude(delivery, judge_error(error), None)

    def unanswered(self, delivery: Delivery, error: BaseException, *, first: bool) -> None:
        """The association died; ``first``: it is the one that the peer should have answered next."""
        if not first:
            self.put_back(delivery)
            return
        judgement = judge_error(error)
        if judgement.meaning is not Meaning.UNKNOWN:
            self._conclude(delivery, judgement, None)
            return
        if self.suspects.strike(delivery):
            self._conclude(delivery, judgement, None)
            return
        self.stock.land(delivery)
        self._suspect(delivery)
        self.stock.keep_next(delivery)
        self.metrics.outcome(OutcomeKind.RETRY)

    def no_context(self, delivery: Delivery) -> bool:
        """The association was asked for its pair and refused; True: another association is needed to be sure."""
        pair = (delivery.instance.sop_class, delivery.instance.transfer_syntax)
        if self._pair_is_refused(pair):
            self._conclude(delivery, Judgement(Meaning.NO_CONTEXT, "no presentation context accepted"), None)
            return False
        self.put_back(delivery)
        return True

    def contexts_answered(self, refused: list[Pair], accepted: list[Pair]) -> None:
        """What a new association said to each pair."""
        now = self.loop.time()
        for pair in accepted:
            self._no_context.pop(pair, None)
        for pair in refused:
            count, at = self._no_context.get(pair, (0, now))
            if count >= NO_CONTEXT_AGREE and now - at > NO_CONTEXT_MEMORY:
                count = 0
            self._no_context[pair] = (count + 1, now)

    def _pair_is_refused(self, pair: Pair) -> bool:
        return self._no_context.get(pair, (0, 0.0))[0] >= NO_CONTEXT_AGREE

    def _conclude(self, delivery: Delivery, judgement: Judgement, status: int | None) -> None:
        meaning = judgement.meaning
        kind = _DONE.get(meaning)
        if kind is not None:
            self._taken(delivery, kind, status, judgement.reason)
        elif meaning in (Meaning.BUSY, Meaning.DOWN, Meaning.MISCONFIGURED):
            self.put_back(delivery)
            self.metrics.outcome(OutcomeKind.RETRY)
            self.rest(judgement)
        elif meaning is Meaning.DAMAGED:
            self._damaged(delivery.instance, delivery.location, judgement.reason)
            self._give_up(delivery, judgement, status)
        elif meaning is Meaning.NO_CONTEXT:
            self._give_up(delivery, judgement, status)
        elif meaning is Meaning.LOCAL:
            self._settle(delivery, OutcomeKind.RETRY, None, judgement.reason, not_before=time.time() + LOCAL_WAIT)
            self.has_backlog = True  # so that a look at the ledger arms the timer for it
            self.kick()
        else:
            self._charge(delivery, judgement, status)

    def _taken(self, delivery: Delivery, kind: OutcomeKind, status: int | None, reason: str) -> None:
        """The destination has it."""
        self._settle(delivery, kind, status, reason)
        info = delivery.instance
        self.metrics.delivered(info.size, max(0.0, time.time() - info.received))
        self.concurrency.succeeded()
        self.suspects.delivered(delivery)
        if self._failures or self.state == "probing":
            self._is_back()

    def _charge(self, delivery: Delivery, judgement: Judgement, status: int | None) -> None:
        now = time.time()
        delay = retry_after(judgement.meaning, delivery, now)
        if delay is None:
            self._give_up(delivery, judgement, status)
            return
        self._settle(delivery, OutcomeKind.RETRY, status, judgement.reason, charge=True, not_before=now + delay)
        self.log.info(
            "delivery will be tried again",
            destination=self.name,
            reason=judgement.reason,
            attempt=delivery.attempts + 1,
            seconds=delay,
        )
        self.has_backlog = True  # so that a look at the ledger arms the timer for it

    def _give_up(self, delivery: Delivery, judgement: Judgement, status: int | None = None) -> None:
        self._settle(delivery, OutcomeKind.DEAD, status, judgement.reason, charge=True)
        self.log.error("dead letter", destination=self.name, reason=judgement.reason, attempts=delivery.attempts + 1)

    def _settle(
        self,
        delivery: Delivery,
        kind: OutcomeKind,
        status: int | None,
        reason: str,
        charge: bool = False,
        not_before: float = 0.0,
    ) -> None:
        self.stock.leave(delivery)
        self.suspects.settled(delivery)
        self.metrics.outcome(kind)
        self._ledger.settle(
            Outcome(delivery.id, self.name, delivery.instance, delivery.fence, kind, status, reason, charge, not_before)
        )

    # Rest and return ---------------------------------------------------------------------------------------

    def _is_back(self) -> None:
        """It failed, and has now taken something."""
        self._failures = 0
        if self.state == "probing":
            self._set_state("up", "")
            self.metrics.up(True)
            self.log.info("destination is back", destination=self.name)
            self.kick()

    def association_refused(self, association: LaneAssociation, error: BaseException) -> None:
        """An association could not be opened."""
        working = sum(other.working for other in self._associations if other is not association)
        judgement = judge_error(error)
        if judgement.meaning is Meaning.UNKNOWN:
            judgement = Judgement(Meaning.DOWN, judgement.reason)
        if working and self.state == "up":
            self.concurrency.refused_another(working)
            self.kick()  # what there is may have to wait for an early transfer now
            return
        self.rest(judgement)

    def association_died(self, judgement: Judgement, head: int | None) -> None:
        """It ended before it had delivered anything; ``head``: what the destination should have answered next."""
        if self.suspects.is_to_blame(head) and self.state == "up":
            return  # others need not rest for it
        self.rest(Judgement(Meaning.DOWN, judgement.reason))

    def rest(self, judgement: Judgement) -> None:
        """The destination failed: nothing is sent until a timer, then one object probes."""
        if self._closing or self.state in ("resting", "paused"):
            return
        self._failures += 1
        self._waiting.age()
        misconfigured = judgement.meaning is Meaning.MISCONFIGURED
        seconds = rest_seconds(
            self._failures, self._random(), **({"first": MISCONFIGURED_FIRST} if misconfigured else {})
        )
        self.concurrency.failed()
        self._rest_until = self.loop.time() + seconds
        self._set_state("resting", judgement.reason)
        self.metrics.up(False)
        say = self.log.error if misconfigured else self.log.warning
        say(
            "destination rests",
            destination=self.name,
            reason=judgement.reason,
            seconds=round(seconds, 1),
            failures=self._failures,
        )
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self._on_timer)
        for association in list(self._associations):
            association.retire()

    def _on_timer(self) -> None:
        self._timer = None
        if self.state == "resting":
            self._probe()
            self.kick()

    def _probe(self) -> None:
        self._waiting.age()  # what came meanwhile is late too, and what comes now does not wait behind it
        self._set_state("probing", self.reason)
        self.concurrency.probe()

    def _set_state(self, state: str, reason: str) -> None:
        if state != self.state:
            self.since = time.time()
        self.state = state
        self.reason = reason

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self, association: LaneAssociation) -> None:
        """It never opened."""
        self._associations.pop(association, None)

    def gone(self, association: LaneAssociation) -> None:
        """An association is over, in every way."""
        self._associations.pop(association, None)
        self.kick()

    def _spawn(self, work) -> None:  # type: ignore[no-untyped-def]
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
