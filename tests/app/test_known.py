"""What is called new was never here before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.app.known import LEAST, KnownInstances

names = st.lists(st.text("0123456789.", min_size=1, max_size=64), max_size=60)


@given(before=names, later=names)
def test_no_uid_that_was_added_is_called_new(before: list[str], later: list[str]) -> None:
    known = KnownInstances(before, len(before))
    seen = set(before)
    for name in later:
        if known.add(name):
            assert name not in seen
        seen.add(name)


def test_nearly_all_that_is_new_is_called_new() -> None:
    known = KnownInstances()
    missed = sum(not known.add(f"2.25.{number}") for number in range(LEAST))
    assert missed < LEAST / 100
    assert not any(known.add(f"2.25.{number}") for number in range(LEAST))


def test_beginning_again_forgets_what_is_gone_and_nothing_that_came_meanwhile() -> None:
    known = KnownInstances(["2.25.1", "2.25.2"], 2)
    known.begin_again(1)
    known.add("2.25.3")
    known.also(["2.25.2"])
    assert not known.add("2.25.1"), "the old one is asked until the next has everything"
    known.go_over()
    assert not known.add("2.25.3")
    assert not known.add("2.25.2")


def test_a_beginning_that_fails_leaves_everything_known_and_is_tried_again() -> None:
    known = KnownInstances(["2.25.1"], 1)
    known.begin_again(1)
    known.add("2.25.2")
    known.stay()
    known.go_over()
    assert not known.add("2.25.1")
    assert not known.add("2.25.2")


def test_it_is_full_when_more_came_than_it_was_made_for() -> None:
    known = KnownInstances()
    number = 0
    while not known.full:
        known.add(f"2.25.{number}")
        number += 1
    assert number > LEAST
    known.begin_again(0)
    assert not known.full, "it is being mended"
