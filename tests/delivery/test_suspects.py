"""Objects on which associations died: whose turn it is, and who is to blame."""

from __future__ import annotations

from collections import deque

import pytest

from router.delivery.suspects import REMEMBERED, REST, STRIKES, WAIT, Suspects
from tests.delivery.support import delivery


def test_the_third_death_is_an_attempt_and_so_is_every_one_after_it() -> None:
    suspects, one = Suspects(deque()), delivery()
    assert [suspects.strike(one) for _ in range(STRIKES)] == [False] * (STRIKES - 1) + [True]
    suspects.settled(one)
    assert suspects.killed_before(one) and suspects.leaves_alone(one)
    assert suspects.strike(one), "much later"
    suspects.delivered(one)
    suspects.settled(one)
    assert not suspects.killed_before(one) and not suspects.leaves_alone(one)


def test_no_more_are_remembered_than_so_many() -> None:
    suspects, many = Suspects(deque()), [delivery() for _ in range(REMEMBERED + 1)]
    for one in many:
        for _ in range(STRIKES):
            suspects.strike(one)
    assert [suspects.killed_before(one) for one in many] == [False] + [True] * REMEMBERED


@pytest.mark.parametrize("strikes", [1, 2])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("waited", [0.0, REST - 0.1, REST, WAIT - 0.1, WAIT])
def test_whose_turn_it_is(strikes: int, others: bool, up: bool, waited: float) -> None:
    suspects, one = Suspects(deque()), delivery()
    for _ in range(strikes):
        suspects.strike(one)
    assert suspects.add(one, 100.0) == (REST if strikes > 1 else 0.0)
    expected = up and waited >= WAIT if others else strikes == 1 or waited >= REST
    assert suspects.due(100.0 + waited, others=others, up=up) == (0 if expected else None)


def test_one_that_rests_keeps_no_other_from_its_turn() -> None:
    suspects, resting, ready = Suspects(deque()), delivery(), delivery()
    for one, strikes in ((resting, 2), (ready, 1)):
        for _ in range(strikes):
            suspects.strike(one)
        suspects.add(one, 0.0)
    index = suspects.due(0.1, others=False, up=True)
    assert index == 1
    assert suspects.take(index) is ready
    assert list(suspects) == [resting]


def test_what_is_put_off_is_the_next_although_others_wait() -> None:
    suspects, first, second = Suspects(deque()), delivery(), delivery()
    suspects.add(first, 0.0)
    suspects.put_off(second, 1.0)
    assert suspects.due(1.0, others=True, up=True) == 0
    assert suspects.take(0) is second


def test_a_second_object_in_the_same_way_speaks_against_the_destination() -> None:
    suspects, one, other = Suspects(deque()), delivery(), delivery()
    for _ in range(4):
        assert suspects.is_to_blame(one.id)
    assert not suspects.is_to_blame(other.id)
    assert not suspects.is_to_blame(one.id)
    suspects.delivered(delivery())
    assert suspects.is_to_blame(other.id), "it has shown that it takes others"
    assert not suspects.is_to_blame(None), "it died on nothing"


def test_a_known_one_is_to_blame_whoever_was_before() -> None:
    suspects, one, other = Suspects(deque()), delivery(), delivery()
    for _ in range(2):
        suspects.strike(one)
    assert suspects.is_to_blame(other.id)
    assert suspects.is_to_blame(one.id)
