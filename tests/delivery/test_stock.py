"""What a lane holds: what leaves next, and whose bytes stay in memory."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from router.delivery.memory import Budget
from router.delivery.stock import Stock
from router.model import Delivery, Priority
from tests.delivery.support import delivery

NOBODY: frozenset[int] = frozenset()


def arrived(**more: object) -> Delivery:
    """Four bytes, in memory."""
    return delivery(chunks=[b"data"], **more)


def put(stock: Stock, *deliveries: Delivery) -> None:
    for one in deliveries:
        stock.afford(one)
        stock.put(one)


def test_what_there_is_no_memory_for_waits_without_its_bytes() -> None:
    stock = Stock(Budget(4))
    one, other = arrived(), arrived()
    put(stock, one)
    assert not stock.unread
    put(stock, other)
    assert (one.chunks is None, other.chunks is None, stock.unread, len(stock)) == (False, True, True, 2)


def test_bytes_in_flight_are_the_lanes_part_but_for_one_object_that_is_alone() -> None:
    budget = Budget(8)
    stock, _other = Stock(budget), Stock(budget)
    first, second, third = arrived(), arrived(), delivery()
    put(stock, first, second, third)
    assert stock.next(False, NOBODY) is first
    assert stock.next(False, NOBODY) is None, "an answer makes room"
    assert stock.next(True, NOBODY) is second, "each association may have one"
    assert stock.next(False, NOBODY) is third, "it takes no memory"
    assert (stock.in_flight, stock.flying, len(stock)) == (3, 8, 0)
    stock.leave(first)
    assert (stock.in_flight, stock.flying, budget.used) == (2, 4, 4)
    assert first.chunks is None


def test_what_is_being_read_is_not_given_out() -> None:
    stock = Stock(Budget(8))
    one, other = arrived(late=True), arrived()
    put(stock, one, other)
    assert stock.next(True, {one.id}) is other
    assert stock.next(True, {one.id}) is None
    assert stock.next(True, NOBODY) is one


def test_what_will_leave_last_is_let_go_first_and_what_was_put_back_last_of_all() -> None:
    stock = Stock(Budget(100))
    first, second, third = (arrived() for _ in range(3))
    put(stock, first, second, third)
    sent = stock.next(True, NOBODY)
    assert sent is first
    stock.put_back(sent)
    assert (stock.in_flight, stock.flying) == (0, 0)
    order = []
    while stock.let_go():
        order += [one for one in (first, second, third) if one.chunks is None and one not in order]
    assert order == [third, second, first]
    assert (stock.memory.used, stock.unread) == (0, True)


def test_what_is_in_flight_is_not_let_go() -> None:
    stock = Stock(Budget(100))
    put(stock, arrived())
    sent = stock.next(True, NOBODY)
    assert not stock.let_go()
    assert sent is not None and sent.chunks is not None


def test_memory_for_the_next_may_be_that_of_a_later_one_and_never_of_an_earlier_one() -> None:
    stock = Stock(Budget(4))
    low = arrived(priority=Priority.LOW)
    put(stock, low)
    normal, urgent = delivery(), delivery(priority=Priority.STAT)
    assert stock.take_ahead(normal)
    assert low.chunks is None
    normal.chunks = [b"data"]
    stock.put(normal)
    assert not stock.take_ahead(low)
    assert stock.take_ahead(urgent)
    assert normal.chunks is None


def test_who_must_leave_alone_waits_too() -> None:
    stock = Stock(Budget(4))
    stock.suspects.append((0.0, delivery()))
    assert len(stock) == 1
    assert stock.next(True, NOBODY) is None, "when it may is for the lane to say"


def test_after_a_fault_the_count_is_what_is_in_flight() -> None:
    stock = Stock(Budget(100))
    put(stock, arrived(), arrived(), delivery())
    flying = [one for one in (stock.next(True, NOBODY), stock.next(True, NOBODY)) if one is not None]
    assert stock.memory.used == 8
    stock.count_anew(flying[:1], 7)
    assert (stock.in_flight, stock.flying) == (1, 4)
    assert stock.memory.used == 11, "what is in flight, and what is being read"


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.sampled_from(Priority)), max_size=60))
def test_counts_are_those_of_what_is_there(turns: list[tuple[int, bool, Priority]]) -> None:
    """A model: whatever happens, every delivery waits or is in flight, and each byte counted is kept by one of them."""
    budget = Budget(24)
    stock, other = Stock(budget), Stock(budget)
    put(other, arrived())
    flying: deque[Delivery] = deque()
    for kind, is_late, priority in turns:
        if kind < 3:
            put(stock, arrived(late=is_late, priority=priority) if kind else delivery(late=is_late, priority=priority))
        elif kind == 3 and (sent := stock.next(not flying, NOBODY)) is not None:
            flying.append(sent)
        elif kind == 4 and flying:
            stock.leave(flying.popleft())
        elif kind == 5 and flying:
            stock.put_back(flying.pop())
        elif kind == 6:
            stock.waiting.age()
        waiting = list(stock.waiting)
        assert (len(stock), stock.waiting.late + stock.waiting.fresh) == (len(waiting), len(waiting))
        assert stock.waiting.late == sum(one.late for one in waiting)
        assert stock.in_flight == len(flying)
        assert stock.flying == 4 * sum(one.chunks is not None for one in flying)
        assert stock.memory.used == 4 * sum(one.chunks is not None for one in (*waiting, *flying))
        assert stock.unread or all(one.chunks is not None for one in waiting)
        assert budget.used == stock.memory.used + other.memory.used <= 24
