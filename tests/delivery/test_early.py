"""Early transfers: what becomes of them, and that nothing counts of what was not adopted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from router.delivery import lane as lane_module
from router.delivery.early import EarlyTransfer
from router.errors import AssociationAborted, AssociationRejected, DeliveryError, SpoolCorrupt
from router.model import Delivery, InstanceInfo
from tests.delivery.support import Bench, delivery


class Growing:
    """A large object that still arrives, for one destination."""

    size = None
    buffers = None

    def __init__(self) -> None:
        self.given = 8 << 20
        self.starved = True
        self.ended = False
        self.whole: InstanceInfo | None = None
        self.closed = False

    def source(self) -> Growing:
        return self

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""

    def complete(self, info: InstanceInfo) -> None:
        self.whole = info
        self.ended = True

    def close(self) -> None:
        self.closed = True


class EarlyBench(Bench):
    """A lane that has looked at its empty ledger, and sends nothing back unless told to."""

    @classmethod
    async def ready(cls, **more: object) -> EarlyBench:
        bench = cls(answer=lambda info: None, **more)  # type: ignore[arg-type]
        bench.lane.start()
        await bench.until(lambda: not bench.lane._leasing and not bench.lane.has_backlog)
        return bench

    async def begin(self) -> tuple[Delivery, Growing, EarlyTransfer]:
        owed, data = delivery(), Growing()
        early = self.lane.early(replace(owed.instance, id=0), data)
        assert early is not None
        await self.until(lambda: 0 in self.sent)
        return owed, data, early

    def adopt(self, owed: Delivery, early: EarlyTransfer) -> None:
        assert self.lane.reserve()
        self.lane.offer(owed, early)
        self.lane.kick()


async def test_adopted_it_is_a_delivery_and_its_answer_counts() -> None:
    bench = await EarlyBench.ready()
    owed, data, early = await bench.begin()
    assert bench.lane.window == 0, "nobody owes it yet"
    bench.adopt(owed, early)
    assert (data.whole, bench.lane.window) == (owed.instance, 1)
    bench.senders[0]._respond(0, 0x0000)
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.ledger.kinds() == {"delivered": 1}
    assert (bench.early, bench.lane.window, data.closed) == ({"completed": 1}, 0, True)
    assert bench.sent == [0], "it was not sent again"
    await bench.close()


async def test_given_up_nothing_counts_and_the_destination_is_not_to_blame() -> None:
    bench = await EarlyBench.ready()
    _, data, early = await bench.begin()
    early.give_up()
    early.give_up()
    await bench.until(lambda: not bench.lane.status().associations)
    assert bench.senders[0].closed.done()
    assert (bench.lane.state, bench.changes, bench.ledger.outcomes) == ("up", [True], [])
    assert (bench.early, data.closed) == ({"given_up": 1}, True)
    await bench.close()


async def test_a_destination_that_dies_before_the_end_rests_and_the_delivery_goes_the_ordinary_way() -> None:
    bench = await EarlyBench.ready()
    owed, _, early = await bench.begin()
    bench.senders[0]._respond(0, AssociationAborted("connection lost"))
    await bench.until(lambda: bench.lane.state == "resting")
    assert bench.ledger.outcomes == []
    assert bench.lane._failures == 1
    bench.answer = lambda info: 0x0000
    bench.adopt(owed, early)
    bench.lane.resume()
    await bench.until(lambda: bench.ledger.outcomes)
    assert (bench.sent, bench.ledger.kinds(), bench.early) == ([0, owed.id], {"delivered": 1}, {"given_up": 1})
    await bench.close()


async def test_a_destination_that_dies_after_adoption_is_an_attempt_like_any_other() -> None:
    bench = await EarlyBench.ready()
    owed, _, early = await bench.begin()
    bench.adopt(owed, early)
    bench.answer = lambda info: 0x0000
    bench.senders[0]._respond(0, AssociationAborted("connection lost"))
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.lane.state == "up"
    assert (bench.sent, bench.ledger.kinds(), bench.early) == ([0, owed.id], {"delivered": 1}, {"given_up": 1})
    assert bench.lane.window == 0
    await bench.close()


@pytest.mark.parametrize("answer", [0x0000, 0xA700])
async def test_an_answer_before_the_end_is_none(answer: int) -> None:
    bench = await EarlyBench.ready()
    owed, _, early = await bench.begin()
    bench.senders[0]._respond(0, answer)
    await bench.until(lambda: early.over)
    assert (bench.ledger.outcomes, bench.lane.state) == ([], "up")
    bench.answer = lambda info: 0x0000
    bench.adopt(owed, early)
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.sent == [0, owed.id]
    await bench.close()


async def test_what_was_read_early_and_is_not_what_was_stored_is_sent_again_and_not_called_damaged() -> None:
    bench = await EarlyBench.ready()
    owed, data, early = await bench.begin()
    bench.adopt(owed, early)
    data.ended = False
    bench.answer = lambda info: 0x0000
    bench.senders[0]._respond(0, SpoolCorrupt("what was sent is not what was stored"))
    await bench.until(lambda: bench.ledger.outcomes)
    assert (bench.sent, bench.ledger.kinds(), bench.damaged) == ([0, owed.id], {"delivered": 1}, [])
    await bench.close()


async def test_whole_before_the_association_is_open_it_waits_for_it_like_any_other() -> None:
    bench = await EarlyBench.ready()
    bench.answer = lambda info: 0x0000
    owed, data = delivery(), Growing()
    early = bench.lane.early(replace(owed.instance, id=0), data)
    assert early is not None
    bench.adopt(owed, early)
    await bench.until(lambda: bench.ledger.outcomes)
    assert (bench.sent, len(bench.senders), bench.early) == ([owed.id], 1, {"given_up": 1})
    await bench.close()


async def test_an_association_that_cannot_be_opened_ends_it_once() -> None:
    bench = await EarlyBench.ready()
    bench.opening = lambda: DeliveryError("cannot connect: Connection refused")
    data = Growing()
    assert bench.lane.early(replace(delivery().instance, id=0), data) is not None
    await bench.until(lambda: bench.lane.state == "resting")
    assert (bench.early, data.closed, bench.lane._failures) == ({"given_up": 1}, True, 1)
    assert bench.lane.early(delivery().instance, Growing()) is None, "not while it rests"
    await bench.close()


async def test_it_begins_only_where_nothing_else_is_to_be_done() -> None:
    info = delivery().instance
    off = await EarlyBench.ready(cut_through=False)
    assert off.lane.early(info, Growing()) is None
    other = await EarlyBench.ready(transfer_syntaxes=("1.2.840.10008.1.2",))
    assert other.lane.early(info, Growing()) is None
    bench = await EarlyBench.ready(max_associations=1)
    bench.lane.pause("by hand")
    assert bench.lane.early(info, Growing()) is None
    bench.lane.resume()
    await bench.until(lambda: not bench.lane.has_backlog)
    bench.owe(delivery(), delivery())
    assert bench.lane.early(info, Growing()) is None, "there is a backlog"
    await bench.until(lambda: bench.sent)
    assert bench.lane.early(info, Growing()) is None, "its only association is busy"
    for one in (off, other, bench):
        await one.close()


async def test_a_pause_gives_it_up() -> None:
    bench = await EarlyBench.ready()
    _, data, early = await bench.begin()
    bench.lane.pause("by hand")
    assert early.over
    assert data.closed
    await bench.until(lambda: not bench.lane.status().associations)
    assert bench.lane.state == "paused"
    await bench.close()


@pytest.mark.parametrize("alive", [False, True])
async def test_a_lingering_sender_yields_to_what_waits(monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    monkeypatch.setattr(lane_module, "PATIENCE", 0.01)
    bench = await EarlyBench.ready(max_associations=1)
    _, data, early = await bench.begin()
    bench.answer = lambda info: 0x0000
    other = delivery()
    assert bench.lane.reserve()
    bench.lane.offer(other)
    bench.lane.kick()
    if alive:
        data.starved = False  # it is the destination that is slow
        looks, look = 0, early.look

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return look()

        early.look = counted  # type: ignore[method-assign]
        await bench.until(lambda: looks == 4)
        assert not early.over
        early.give_up()
    await bench.until(lambda: bench.ledger.outcomes)
    assert early.over
    assert (bench.sent, bench.lane.state) == ([0, other.id], "up")
    await bench.close()


async def test_a_refused_second_association_does_not_leave_what_is_whole_behind_a_slow_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane_module, "PATIENCE", 0.01)
    bench = await EarlyBench.ready(max_associations=4)
    for _ in range(2):
        bench.lane.concurrency.succeeded()
    _, _, early = await bench.begin()  # of which nothing more comes
    bench.answer = lambda info: 0x0000
    refusals = [AssociationRejected(2, 3, 2)]  # local limit exceeded
    bench.opening = lambda: refusals.pop() if refusals else None
    assert bench.lane.reserve()
    bench.lane.offer(delivery())
    bench.lane.kick()
    await bench.until(lambda: bench.ledger.outcomes)
    assert early.over
    assert bench.ledger.kinds() == {"delivered": 1}
    await bench.close()
