"""What is remembered is bounded, and what is asked for stays."""

from __future__ import annotations

from router.ul.remembered import COUNT, Remembered


def test_what_was_not_asked_for_for_longest_is_forgotten_first() -> None:
    remembered: Remembered[int, str] = Remembered()
    for number in range(COUNT):
        remembered.keep(number, str(number))
    assert remembered.get(0) == "0"
    remembered.keep(COUNT, "one more")
    assert [remembered.get(number) for number in (0, 1, 2, COUNT)] == ["0", None, "2", "one more"]


def test_never_more_than_so_many_are_kept() -> None:
    remembered: Remembered[int, str] = Remembered()
    for number in range(10 * COUNT):
        remembered.keep(number, "")
    assert sum(remembered.get(number) is not None for number in range(10 * COUNT)) == COUNT
