"""One lane: what it sends, when it rests, whom it charges, and that nothing leaves it unsettled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.delivery import lane as lane_module
from router.delivery import suspects
from router.delivery.association import BEHIND
from router.errors import (
    AssociationAborted,
    AssociationRejected,
    DeliveryError,
    LedgerError,
    SpoolCorrupt,
    SpoolError,
)
from router.model import InstanceInfo, OutcomeKind
from tests.delivery.support import Bench, FakeSender, delivery


async def test_what_waits_in_the_ledger_is_leased_and_delivered_in_order() -> None:
    bench = Bench(max_associations=1)
    owed = [delivery() for _ in range(20)]
    bench.owe(*owed)
    await bench.until(lambda: len(bench.ledger.outcomes) == 20)
    assert bench.sent == [item.id for item in owed]
    assert bench.ledger.kinds() == {"delivered": 20}
    assert bench.lane.window == 0
    await bench.close()


async def offered(bench: Bench, count: int) -> list[Any]:
    """So many objects of 4 bytes, just received."""
    await bench.lane._lease(1)  # the start's look at the ledger: nothing waits
    found = [delivery(chunks=[b"data"]) for _ in range(count)]
    for one in found:
        assert bench.lane.reserve()
        bench.lane.offer(one)
    bench.lane.kick()
    return found


async def test_a_lane_with_much_to_send_hurries_its_associations() -> None:
    bench = Bench(max_associations=1)
    bench.answer = lambda info: None
    objects = await offered(bench, BEHIND + 3)
    await bench.until(lambda: bench.sent)
    sender = bench.senders[0]
    hurried = [sender.hurried]
    for one in objects[:-1]:
        sender._respond(one.id, 0x0000)
        await bench.until(lambda one=one: bench.sent[-1] == one.id + 1)
        hurried.append(sender.hurried)
    assert hurried == [True, True] + [False] * (BEHIND + 1)
    await bench.close()


async def test_a_lane_that_cannot_send_lets_go_of_memory_that_another_needs() -> None:
    bench = Bench(max_associations=1)
    bench.budget.limit = 40
    other = bench.budget.share(lambda: False)
    bench.answer = lambda info: None
    objects = await offered(bench, 10)
    await bench.until(lambda: bench.sent)
    assert bench.budget.used == 40, "all of it while nobody else wants any"
    assert all(other.take(4) for _ in range(5))
    assert [one.chunks is not None for one in objects] == [True] * 5 + [False] * 5, "what leaves last is read again"
    assert not other.take(4)
    bench.answer = lambda info: 0x0000
    bench.senders[0]._respond(bench.sent[0], 0x0000)
    await bench.until(lambda: len(bench.ledger.outcomes) == 10)
    assert bench.sent == [one.id for one in objects]
    other.give_back(20)
    await bench.close()


async def test_what_is_in_flight_takes_no_more_memory_than_the_lanes_part() -> None:
    bench = Bench(max_associations=1)
    bench.budget.limit = 40
    bench.budget.share(lambda: False)
    bench.answer = lambda info: None
    objects = await offered(bench, 10)
    await bench.until(lambda: bench.sent)
    sender = bench.senders[0]
    sender.window = 16
    bench.lane.kick()
    assert len(sender.sent) == 5, "5 times 4 bytes are half of 40"
    for one in objects:
        sender._respond(one.id, 0x0000)
        await bench.until(lambda one=one: len(bench.ledger.outcomes) == objects.index(one) + 1)
        assert len(sender.waiting) <= 5
    assert bench.sent == [one.id for one in objects]
    await bench.close()


async def test_one_object_on_each_association_is_sent_however_small_the_part() -> None:
    bench = Bench(max_associations=1)
    bench.budget.limit = 4
    for _ in range(3):
        bench.budget.share(lambda: False)
    objects = await offered(bench, 3)
    await bench.until(lambda: len(bench.ledger.outcomes) == 3)
    assert bench.sent == [one.id for one in objects]
    await bench.close()


async def test_a_just_received_object_takes_its_reserved_place() -> None:
    bench = Bench(window=4)  # half of it for what is new
    await bench.lane._lease(1)  # the start's look at the ledger: nothing waits
    bench.answer = lambda info: None
    assert bench.lane.reserve()
    assert bench.lane.reserve()
    assert not bench.lane.reserve(), "the window is full"
    bench.lane.offer(delivery(chunks=[b"data"]))
    bench.lane.kick()
    bench.lane.cancel_reservation()
    await bench.until(lambda: bench.sent)
    assert bench.lane.window == 1
    bench.senders[0]._respond(bench.sent[0], 0x0000)
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.budget.used == 0
    await bench.close()


async def test_what_is_late_and_what_has_just_come_take_turns() -> None:
    bench = Bench(max_associations=1)
    bench.answer = lambda info: None
    late = [delivery() for _ in range(6)]
    bench.owe(*late)
    await bench.until(lambda: bench.sent)
    fresh = await offered(bench, 3)
    for _ in range(9):
        bench.senders[0]._respond(bench.sent[-1], 0x0000)
        count = len(bench.ledger.outcomes)
        await bench.until(lambda count=count: len(bench.ledger.outcomes) > count)  # type: ignore[misc]
        await bench.until(lambda count=count: len(bench.sent) > count + 1 or count == 8)  # type: ignore[misc]
    ids = [one.id for one in late]
    news = [one.id for one in fresh]
    assert bench.sent == [ids[0], news[0], ids[1], news[1], ids[2], news[2], *ids[3:]]
    await bench.close()


async def test_after_a_rest_all_that_waited_is_late_and_in_its_order() -> None:
    bench = Bench(max_associations=1)
    bench.opening = lambda: DeliveryError("cannot connect: Connection refused")
    waited = await offered(bench, 3)
    await bench.until(lambda: bench.lane.state == "resting")
    bench.opening = lambda: None
    bench.answer = lambda info: None
    bench.lane.resume()
    await bench.until(lambda: bench.sent)
    fresh = await offered(bench, 1)
    bench.answer = lambda info: 0x0000
    bench.senders[-1]._respond(bench.sent[0], 0x0000)
    await bench.until(lambda: len(bench.ledger.outcomes) == 4)
    assert bench.sent == [waited[0].id, fresh[0].id, waited[1].id, waited[2].id]
    await bench.close()


async def test_what_comes_during_a_rest_is_late_when_it_ends() -> None:
    bench = Bench(max_associations=1)
    bench.opening = lambda: DeliveryError("cannot connect: Connection refused")
    bench.owe(delivery())
    await bench.until(lambda: bench.lane.state == "resting")
    waited = await offered(bench, 3)
    assert bench.lane.state == "resting"
    bench.opening = lambda: None
    bench.answer = lambda info: None
    bench.lane.resume()
    await bench.until(lambda: bench.sent)
    (fresh,) = await offered(bench, 1)
    bench.answer = lambda info: 0x0000
    bench.senders[-1]._respond(bench.sent[0], 0x0000)
    await bench.until(lambda: len(bench.ledger.outcomes) == 5)
    assert bench.sent[1:] == [fresh.id, *(one.id for one in waited)]
    await bench.close()


async def test_while_a_destination_rests_what_comes_waits_behind_the_backlog_in_the_ledger() -> None:
    bench = Bench()
    bench.opening = lambda: DeliveryError("cannot connect: Connection refused")
    bench.owe(delivery())
    await bench.until(lambda: bench.lane.state == "resting")
    assert bench.lane.reserve(), "the ledger has nothing more"
    bench.lane.cancel_reservation()
    bench.lane.backlog()
    assert not bench.lane.reserve()
    bench.opening = lambda: None
    bench.lane.resume()
    await bench.until(lambda: bench.lane.state == "up")
    bench.lane.backlog()
    assert bench.lane.reserve()
    bench.lane.cancel_reservation()
    await bench.close()


async def test_a_dead_destination_rests_and_nothing_is_charged() -> None:
    bench = Bench()
    bench.opening = lambda: DeliveryError("cannot connect: Connection refused")
    bench.owe(*(delivery() for _ in range(5)))
    await bench.until(lambda: bench.lane.state == "resting")
    status = bench.lane.status()
    assert status.reason == "cannot connect: Connection refused"
    assert status.next_attempt_in is not None
    assert 3 < status.next_attempt_in <= 6
    assert bench.ledger.outcomes == []
    assert bench.lane.waiting == 5
    assert bench.changes[-1] is False
    await bench.close()
    assert len(bench.ledger.released) == 5, "leases go back"


async def test_it_returns_with_one_object() -> None:
    bench = Bench()
    bench.opening = lambda: DeliveryError("cannot connect")
    bench.owe(*(delivery() for _ in range(5)))
    await bench.until(lambda: bench.lane.state == "resting")
    bench.opening = lambda: None
    bench.answer = lambda info: None
    bench.lane._on_timer()
    await bench.until(lambda: bench.sent)
    assert bench.lane.state == "probing"
    assert len(bench.sent) == 1
    bench.answer = lambda info: 0x0000
    bench.senders[-1]._respond(bench.sent[0], 0x0000)
    await bench.until(lambda: len(bench.ledger.outcomes) == 5)
    assert bench.lane.state == "up"
    assert bench.changes[-1] is True
    await bench.close()


async def test_a_busy_destination_rests_and_the_object_stays_the_next() -> None:
    bench = Bench(answer=lambda info: 0xA700)
    first, second = delivery(), delivery()
    bench.owe(first, second)
    await bench.until(lambda: bench.lane.state == "resting")
    assert bench.ledger.outcomes == []
    bench.answer = lambda info: 0x0000
    bench.lane.resume()
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    assert bench.sent == [first.id, first.id, second.id]
    await bench.close()


async def test_a_permanent_rejection_gives_up_nothing() -> None:
    bench = Bench()
    bench.opening = lambda: AssociationRejected(1, 1, 7)
    bench.owe(delivery())
    await bench.until(lambda: bench.lane.state == "resting")
    assert "check AE titles" in bench.lane.status().reason
    assert bench.ledger.outcomes == []
    await bench.close()


async def test_a_refused_object_is_retried_by_itself() -> None:
    bad = delivery()
    bench = Bench(answer=lambda info: 0xC000 if info.id == bad.id else 0x0000)
    bench.owe(delivery(), bad, delivery())
    await bench.until(lambda: len(bench.ledger.outcomes) == 3)
    retry = next(outcome for outcome in bench.ledger.outcomes if outcome.kind is OutcomeKind.RETRY)
    assert retry.delivery_id == bad.id
    assert retry.charge
    assert bench.lane.state == "up", "the others go on"
    await bench.close()


async def test_after_the_last_attempt_it_is_a_dead_letter() -> None:
    bench = Bench(answer=lambda info: 0xC000)
    bench.owe(delivery(attempts=2, first_attempt=0.0))
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.ledger.kinds() == {"dead": 1}
    await bench.close()


@pytest.mark.parametrize("first", [True, False], ids=["the first of all", "after others"])
async def test_an_object_that_kills_associations_is_charged_after_three_and_others_need_not_wait(
    monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setattr(suspects, "REST", 0.05)
    bad = delivery()

    def answer(info: InstanceInfo) -> Any:
        return AssociationAborted("connection lost") if info.id == bad.id else 0x0000

    bench = Bench(answer=answer)
    others = [delivery() for _ in range(5)]
    bench.owe(*([bad, others[0]] if first else [others[0], bad]), *others[1:])
    await bench.until(lambda: len(bench.ledger.outcomes) == 6)
    assert bench.lane.state == "up"
    assert False not in bench.changes, "it never rested"
    assert [outcome.kind.value for outcome in bench.ledger.outcomes] == ["delivered"] * 5 + ["retry"]
    assert bench.ledger.kinds() == {"delivered": 5, "retry": 1}
    assert bench.sent.count(bad.id) == 3
    assert all(bench.sent.count(other.id) == 1 for other in others)
    assert bench.lane.window == 0
    await bench.close()


async def test_what_has_killed_three_associations_is_sent_alone_when_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "REST", 0.05)
    bad = delivery()
    bench = Bench(
        max_associations=1,
        answer=lambda info: AssociationAborted("connection lost") if info.id == bad.id else 0x0000,
    )
    bench.owe(bad)
    await bench.until(lambda: bench.ledger.outcomes)
    bench.answer = lambda info: None
    again, others = replace(bad, attempts=1), [delivery() for _ in range(3)]
    bench.owe(again, *others)
    await bench.until(lambda: len(bench.senders[-1].waiting) == 1)
    bench.senders[-1].window = 4
    bench.lane.kick()
    for other in others:
        await bench.until(lambda other=other: other.id in bench.senders[-1].waiting, "those before it")  # type: ignore[misc]
    assert bad.id not in bench.senders[-1].waiting
    for other in others:
        bench.senders[-1]._respond(other.id, 0x0000)
    await bench.until(lambda: bad.id in bench.senders[-1].waiting)
    bench.owe(more := delivery())
    bench.lane.kick()
    await bench.until(lambda: bench.lane.waiting == 1)
    assert bench.senders[-1].sent == [bad.id], "on an association of its own"
    bench.senders[-1]._respond(bad.id, AssociationAborted("connection lost"))
    bench.answer = lambda info: 0x0000
    await bench.until(lambda: bench.ledger.outcomes[-1].delivery_id == more.id)
    assert bench.lane.state == "up"
    assert bench.ledger.kinds() == {"delivered": 4, "retry": 2}, "charged at once this time"
    await bench.close()


async def test_a_destination_that_ends_associations_on_whatever_it_gets_rests() -> None:
    bench = Bench(max_associations=1, answer=lambda info: AssociationAborted("connection lost"))
    bench.owe(*(delivery() for _ in range(5)))
    await bench.until(lambda: bench.lane.state == "resting")
    assert len(bench.sent) == 2, "two of them"
    assert bench.ledger.outcomes == []
    bench.lane._on_timer()
    await bench.until(lambda: bench.lane.state == "resting")
    assert len(set(bench.sent)) == 3, "another one is asked with"
    for _ in range(3):
        bench.lane._on_timer()
        await bench.until(lambda: bench.lane.state == "resting")
    assert len(bench.sent) == 6, "one for each time, also when all of them are suspects"
    assert bench.ledger.outcomes == []
    await bench.close()


async def test_a_sop_class_that_three_associations_refuse_is_a_dead_letter() -> None:
    bench = Bench()
    bench.refused = frozenset(("1.2.3",))
    bench.owe(delivery(sop_class="1.2.3"), delivery())
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    assert bench.ledger.kinds() == {"dead": 1, "delivered": 1}
    assert len(bench.senders) >= 3, "three agree before it is given up"
    await bench.close()


async def test_a_damaged_record_is_told_and_the_rest_is_served() -> None:
    bench = Bench()
    damaged, good = delivery(), delivery()
    bench.spool.damaged, bench.spool.error = {damaged.id}, SpoolCorrupt("data does not match its checksum")
    bench.owe(damaged, good)
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    assert bench.ledger.kinds() == {"dead": 1, "delivered": 1}
    assert bench.damaged
    assert bench.sent == [good.id], "a damaged object is never sent"
    assert bench.budget.used == 0
    await bench.close()


async def test_a_transfer_syntax_that_the_site_excludes_is_a_dead_letter() -> None:
    bench = Bench(transfer_syntaxes=("1.2.840.10008.1.2",))
    bench.owe(delivery())
    await bench.until(lambda: bench.ledger.outcomes)
    assert bench.ledger.kinds() == {"dead": 1}
    assert bench.sent == []
    await bench.close()


async def test_nothing_is_sent_while_paused() -> None:
    bench = Bench()
    bench.lane.pause("weekend")
    bench.owe(delivery())
    assert not bench.lane.reserve()
    assert bench.lane.status().reason == "weekend"
    bench.lane.resume()
    await bench.until(lambda: bench.ledger.outcomes)
    await bench.close()


async def test_a_pause_in_the_moment_in_which_an_association_is_wanted_leaves_no_place_taken() -> None:
    bench = Bench(max_associations=1)
    bench.owe(delivery(), delivery(), delivery())
    bench.lane.pause("before anything is sent")
    await bench.until(lambda: bench.lane.waiting == 3)
    bench.lane.resume()
    bench.lane.pause("before the loop has come to what was wanted")
    await bench.until(lambda: not bench.lane.status().associations)
    bench.lane.resume()
    await bench.until(lambda: len(bench.ledger.outcomes) == 3)
    await bench.close()


async def test_a_destination_that_refuses_a_second_association_keeps_the_first() -> None:
    bench = Bench(max_associations=4)
    opened = 0

    def opening() -> Exception | None:
        nonlocal opened
        opened += 1
        return AssociationRejected(2, 3, 2) if opened > 1 else None

    bench.opening = opening
    bench.owe(*(delivery() for _ in range(10)))
    await bench.until(lambda: len(bench.ledger.outcomes) == 10)
    assert bench.lane.state == "up"
    await bench.close()


async def test_the_window_is_never_exceeded() -> None:
    bench = Bench(window=50, answer=lambda info: None)
    bench.owe(*(delivery() for _ in range(500)))
    await bench.until(lambda: bench.sent)
    assert bench.lane.window <= 50
    assert len(bench.ledger.ready) >= 450
    await bench.close()


async def test_a_ledger_that_cannot_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "LEASE_AGAIN", 0.01)
    bench = Bench()
    real, asked = bench.ledger.lease, 0

    async def lease(destination: str, limit: int) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise LedgerError("no space left for the ledger")
        return await real(destination, limit)

    bench.ledger.lease = lease  # type: ignore[method-assign]
    bench.owe(delivery(), delivery())
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    await bench.close()


async def test_what_was_leased_is_sent_although_the_ledger_fails_right_after() -> None:
    bench = Bench()

    async def next_ready_in(destination: str) -> float | None:
        raise LedgerError("no space left for the ledger")

    bench.ledger.next_ready_in = next_ready_in  # type: ignore[method-assign]
    bench.owe(delivery())
    await bench.until(lambda: len(bench.ledger.outcomes) == 1)
    await bench.close()


async def test_what_we_cannot_read_now_is_looked_for_again() -> None:
    bench = Bench()
    await bench.lane._lease(1)
    looks = 0

    async def next_ready_in(destination: str) -> float | None:
        nonlocal looks
        looks += 1
        return 60.0

    bench.ledger.next_ready_in = next_ready_in  # type: ignore[method-assign]
    unreadable = delivery()
    bench.spool.damaged = {unreadable.id}
    bench.spool.error = SpoolError("cannot open a segment: Too many open files")
    assert bench.lane.reserve()
    bench.lane.offer(unreadable)
    bench.lane.kick()
    await bench.until(lambda: looks == 1)
    assert bench.ledger.kinds() == {"retry": 1}
    assert bench.lane._lease_timer is not None
    await bench.close()


async def test_only_the_one_that_was_next_is_suspected_when_an_association_dies() -> None:
    class Wide(FakeSender):
        @property
        def room(self) -> int:
            return 16 - len(self.waiting) if self.alive else 0

    bench = Bench(answer=lambda info: None)

    async def open_sender(pairs: Any) -> Any:
        sender = Wide(lambda info: None, frozenset(), pairs)
        bench.senders.append(sender)
        return sender

    bench.lane.open_sender = open_sender
    bench.owe(*[delivery() for _ in range(10)])
    await bench.until(lambda: bool(bench.senders) and len(bench.senders[0].sent) == 10)
    first = bench.senders[0].sent[0]
    bench.senders[0].abort()
    await bench.until(lambda: bool(bench.lane.suspects._strikes))
    assert set(bench.lane.suspects._strikes) == {first}
    assert len(bench.lane.stock.suspects) == 1
    await bench.close()


@pytest.mark.parametrize(("changed", "kind"), [(False, "delivered"), (True, "retry")])
async def test_already_there_is_no_success_for_other_bytes_than_those_that_are_there(changed: bool, kind: str) -> None:
    bench = Bench(answer=lambda info: 0x0111)
    bench.owe(delivery(changed=changed))
    await bench.until(lambda: bench.ledger.outcomes)
    (outcome,) = bench.ledger.outcomes
    assert (outcome.kind, outcome.status, outcome.charge) == (kind, 0x0111, changed)
    await bench.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(SpoolCorrupt("data does not match its checksum"), "dead"), (SpoolError("cannot read the spool"), "retry")],
)
async def test_what_we_cannot_read_to_its_end_is_no_fault_of_the_destination(error: SpoolError, kind: str) -> None:
    """The association has to end, since half of a message has left."""
    bench = Bench(answer=lambda info: None, max_associations=1)
    broken, innocent = delivery(), delivery()
    await bench.two_in_flight(broken, innocent)
    bench.answer = lambda info: 0x0000
    bench.senders[0]._respond(broken.id, error)
    bench.senders[0].abort()
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    assert [(outcome.delivery_id, outcome.kind) for outcome in bench.ledger.outcomes] == [
        (broken.id, kind),
        (innocent.id, "delivered"),
    ]
    assert bench.lane.status().state == "up"
    assert False not in bench.changes
    assert not bench.lane.suspects.killed_before(innocent), "it was not what the association ended on"
    await bench.close()


async def test_a_backlog_that_is_all_in_flight_is_leased_on_with_the_answers() -> None:
    """Not only when the associations have been idle for so long that they are released."""
    bench = Bench(max_associations=4, window=1)
    bench.lane.destination = replace(bench.lane.destination, idle_timeout=3600.0)
    bench.owe(*[delivery() for _ in range(50)])
    await bench.until(lambda: len(bench.ledger.outcomes) == 50)
    assert bench.ledger.kinds() == {"delivered": 50}
    await bench.close()


async def test_a_lane_that_is_up_again_by_what_was_in_flight_is_shown_as_up() -> None:
    bench = Bench(answer=lambda info: None, max_associations=1)
    first, second = delivery(), delivery()
    await bench.two_in_flight(first, second)
    bench.senders[0]._respond(first.id, 0xA700)
    await bench.until(lambda: bench.lane.state == "resting")
    assert bench.changes[-1] is False
    bench.senders[0]._respond(second.id, 0x0000)  # during the rest
    await bench.until(lambda: bench.ledger.outcomes)
    bench.answer = lambda info: 0x0000
    bench.lane.resume()
    assert (bench.lane.state, bench.changes[-1]) == ("up", True)
    await bench.until(lambda: len(bench.ledger.outcomes) == 2)
    await bench.close()


async def test_after_a_fault_of_ours_no_memory_stays_taken() -> None:
    bench = Bench(max_associations=1)
    await bench.lane._lease(1)
    assert bench.lane.reserve()
    bench.lane.offer(delivery(chunks=[b"data"]))
    assert bench.lane.take(True) is not None  # and dropped
    assert bench.budget.used == 4
    bench.lane.count_anew()
    assert bench.budget.used == 0
    await bench.close()
