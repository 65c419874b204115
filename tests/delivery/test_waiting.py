"""What waits: whose turn it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.delivery.waiting import Waiting
from router.model import Delivery, Priority
from tests.delivery.support import delivery

NOBODY: frozenset[int] = frozenset()


def late(**more: object) -> Delivery:
    return delivery(late=True, **more)


def leave(waiting: Waiting, not_yet: frozenset[int] = NOBODY) -> list[Delivery]:
    """All that may, in their order."""
    found = []
    while (one := waiting.next(not_yet)) is not None:
        waiting.take(one)
        found.append(one)
    return found


def put(*deliveries: Delivery) -> Waiting:
    waiting = Waiting()
    for one in deliveries:
        waiting.put(one)
    return waiting


def test_nothing_waits() -> None:
    assert Waiting().next(NOBODY) is None
    assert len(Waiting()) == 0


def test_what_is_late_and_what_is_new_take_turns() -> None:
    old, new = [late() for _ in range(3)], [delivery() for _ in range(2)]
    waiting = put(*new, *old)
    assert (waiting.late, waiting.fresh, len(waiting)) == (3, 2, 5)
    assert leave(waiting) == [old[0], new[0], old[1], new[1], old[2]]


def test_a_higher_priority_goes_first_late_or_not() -> None:
    urgent, old, new = delivery(priority=Priority.STAT), late(), delivery()
    assert leave(put(old, new, urgent))[0] is urgent


def test_what_cannot_leave_yet_does_not_hold_up_the_other_kind_and_nothing_of_lower_priority_passes() -> None:
    old, new, low = late(), delivery(), delivery(priority=Priority.LOW)
    waiting = put(old, new, low)
    assert leave(waiting, frozenset({old.id})) == [new]
    assert waiting.next(frozenset({old.id})) is None
    assert leave(waiting) == [old, low]


def test_what_was_put_back_is_the_next_of_its_kind() -> None:
    first, second = delivery(), delivery()
    waiting = put(first, second)
    waiting.take(first)
    waiting.put_back(first)
    assert leave(waiting) == [first, second]


def test_with_age_all_is_late_and_in_its_order() -> None:
    old, new = [late() for _ in range(2)], [delivery() for _ in range(2)]
    waiting = put(*new, *old)
    waiting.age()
    assert (waiting.late, waiting.fresh) == (4, 0)
    assert leave(waiting) == [*old, *new]


def test_one_can_be_removed_once() -> None:
    one, other = delivery(), delivery()
    waiting = put(one, other)
    assert waiting.remove(one)
    assert not waiting.remove(one)
    assert list(waiting) == [other]


@given(kinds=st.lists(st.tuples(st.booleans(), st.sampled_from(Priority)), max_size=30))
def test_everything_leaves_once_and_each_kind_in_its_order(kinds: list[tuple[bool, Priority]]) -> None:
    put_in = [delivery(late=is_late, priority=priority) for is_late, priority in kinds]
    waiting = put(*put_in)
    assert sorted(one.id for one in waiting) == [one.id for one in put_in]
    left = leave(waiting)
    assert len(left) == len(put_in)
    assert [one.priority for one in left] == sorted(one.priority for one in left)
    for is_late in (False, True):
        for priority in Priority:
            kind = [one.id for one in left if (one.late, one.priority) == (is_late, priority)]
            assert kind == sorted(kind)
