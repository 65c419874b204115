"""A response counts only for the request it answers (PS3.7 §9.1, D.3.3.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dimse.command import Command, CommandField, parse_command
from router.dimse.requestor import Outstanding
from router.errors import LocalProtocolError, PeerProtocolError
from tests.dimse.commands import command_set, element, store_rsp, us

STORE = CommandField.C_STORE_RQ


def response(responded_id: int, status: int = 0) -> Command:
    return parse_command(store_rsp(responded_id, status))


def test_a_response_gives_back_what_was_asked():
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "first")
    assert outstanding.match(1, response(number)) == "first"
    assert len(outstanding) == 0


def test_case_96_message_ids_rise_wrap_and_are_unique_among_those_outstanding():
    outstanding: Outstanding[int] = Outstanding(2)
    kept = outstanding.begin(1, STORE, -1)
    assert kept == 1
    seen = []
    for turn in range(65536):
        number = outstanding.begin(1, STORE, turn)
        assert number != kept
        seen.append(number)
        assert outstanding.match(1, response(number)) == turn
    assert seen[:2] == [2, 3]
    assert seen[65533:] == [65535, 2, 3]


def test_case_97_no_more_is_outstanding_than_the_window_allows():
    outstanding: Outstanding[int] = Outstanding(2)
    outstanding.begin(1, STORE, 1)
    assert outstanding.room == 1
    outstanding.begin(1, STORE, 2)
    assert outstanding.room == 0
    with pytest.raises(LocalProtocolError):
        outstanding.begin(1, STORE, 3)


@pytest.mark.parametrize(("asked", "window"), [(-1, 1), (0, 1), (1, 1), (65535, 65535), (100_000, 65535)])
def test_case_97_a_window_is_at_least_one_and_no_more_than_there_are_ids(asked: int, window: int):
    assert Outstanding[int](asked).window == window


def test_case_96_ids_go_on_after_the_last_one_and_skip_those_outstanding():
    outstanding: Outstanding[str] = Outstanding(3, last_id=65534)
    assert [outstanding.begin(1, STORE, name) for name in "abc"] == [65535, 1, 2]
    assert outstanding.drain() == ["a", "b", "c"]


def test_responses_may_come_in_another_order():
    outstanding: Outstanding[str] = Outstanding(3)
    numbers = [outstanding.begin(1, STORE, name) for name in "abc"]
    assert [outstanding.match(1, response(number)) for number in reversed(numbers)] == ["c", "b", "a"]


def test_case_98_a_wrong_message_id_is_no_answer():
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    for wrong in (0, number + 1, 65535):
        with pytest.raises(PeerProtocolError):
            outstanding.match(1, response(wrong))
    assert outstanding.drain() == ["x"]


def test_case_98_a_response_on_another_context_is_no_answer():
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    with pytest.raises(PeerProtocolError):
        outstanding.match(3, response(number))
    assert len(outstanding) == 1


@pytest.mark.parametrize("field", [0x8030, 0x8020, 0x0001, 0x0000])
def test_case_98_a_response_of_another_operation_is_no_answer(field: int):
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    echo = parse_command(command_set(us(0x0100, field), us(0x0120, number), us(0x0800, 0x0101), us(0x0900, 0)))
    with pytest.raises(PeerProtocolError):
        outstanding.match(1, echo)
    assert len(outstanding) == 1


def test_case_98_a_second_response_to_the_same_request_is_no_answer():
    outstanding: Outstanding[str] = Outstanding(2)
    number = outstanding.begin(1, STORE, "x")
    outstanding.begin(1, STORE, "y")
    outstanding.match(1, response(number))
    with pytest.raises(PeerProtocolError):
        outstanding.match(1, response(number))


def test_case_98_a_response_to_nothing_at_all():
    outstanding: Outstanding[str] = Outstanding(1)
    outstanding.begin(1, STORE, "x")
    with pytest.raises(PeerProtocolError):
        outstanding.match(1, parse_command(command_set(us(0x0100, 0x8001), us(0x0800, 0x0101), us(0x0900, 0))))


def test_case_99_a_response_needs_neither_uids_nor_group_length():
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    bare = us(0x0100, 0x8001) + us(0x0120, number) + us(0x0800, 0x0101) + us(0x0900, 0)
    assert outstanding.match(1, parse_command(bare)) == "x"


def test_case_99_the_instance_a_response_names_is_left_to_the_caller():
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    other = parse_command(store_rsp(number, 0, element(0x1000, b"9.9.9.")))
    assert outstanding.match(1, other) == "x"
    assert other.sop_instance == "9.9.9."


@pytest.mark.parametrize("status", [b"", element(0x0900, b""), element(0x0900, b"\0")])
def test_case_100_a_response_without_a_status_is_no_success(status: bytes):
    outstanding: Outstanding[str] = Outstanding(1)
    number = outstanding.begin(1, STORE, "x")
    silent = command_set(us(0x0100, 0x8001), us(0x0120, number), us(0x0800, 0x0101), status)
    with pytest.raises(PeerProtocolError):
        outstanding.match(1, parse_command(silent))
    assert outstanding.drain() == ["x"]


def test_case_101_what_was_not_answered_is_told_in_the_order_sent():
    outstanding: Outstanding[str] = Outstanding(4)
    numbers = [outstanding.begin(1, STORE, name) for name in "abcd"]
    outstanding.match(1, response(numbers[1]))
    assert outstanding.drain() == ["a", "c", "d"]
    assert outstanding.drain() == []
    assert outstanding.room == 4


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 5))
def test_each_request_is_answered_once_and_by_its_own_response(turns: list[int], window: int):
    """A model: whatever the order of requests and responses, values and numbers stay together."""
    outstanding: Outstanding[int] = Outstanding(window)
    open_: dict[int, int] = {}
    for index, turn in enumerate(turns):
        if turn < 6 and outstanding.room:
            number = outstanding.begin(1, STORE, index)
            assert number not in open_
            open_[number] = index
        elif open_:
            number = list(open_)[turn % len(open_)]
            assert outstanding.match(1, response(number)) == open_.pop(number)
        assert len(outstanding) == len(open_) == window - outstanding.room
    assert outstanding.drain() == list(open_.values())
