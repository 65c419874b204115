"""Fragments of messages pass as they come, in order; everything else is judged before what stands behind it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._fastpdu import DataFragment, DataTaken, EventReader, PduReader

RELEASE_RQ = bytes.fromhex("05000000000400000000")


def p_data(*pdvs: tuple[int, int, bytes]) -> bytes:
    body = b"".join(
        (len(data) + 2).to_bytes(4, "big") + bytes((context, control)) + data for context, control, data in pdvs
    )
    return b"\4\0" + len(body).to_bytes(4, "big") + body


def nobody(item: Any, rest: Any, data: Any) -> None:
    raise AssertionError("nothing is to be judged")


def told(fragment: DataFragment) -> tuple[int, bool, bool, bytes, bool]:
    return fragment.context_id, fragment.is_command, fragment.is_last, bytes(fragment.data), fragment.complete


@given(
    pdus=st.lists(
        st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)), max_size=3), max_size=4
    ),
    cuts=st.lists(st.integers(1, 60), max_size=12),
)
def test_every_fragment_is_what_the_reader_found(pdus: list[list[tuple[int, int, bytes]]], cuts: list[int]) -> None:
    stream = b"".join(p_data(*pdvs) for pdvs in pdus)
    reference, reader = PduReader(4096), PduReader(4096)
    events = EventReader(reader, [])
    events.plain = True
    at = 0
    for cut in [*cuts, len(stream) + 1]:
        data = memoryview(stream[at : at + cut])
        at += cut
        found = [
            (context, control & 1 != 0, control & 2 != 0, bytes(data[start:end]), complete)
            for _, context, control, start, end, complete in reference.feed(data)
        ]
        assert [told(event) for event in events.begin(data, nobody)] == found


def test_what_is_not_plain_is_judged_and_its_events_go_before_the_next_item() -> None:
    waiting: list[Any] = []
    judged: list[tuple[Any, ...]] = []
    events = EventReader(PduReader(4096), waiting)
    events.plain = True

    def judge(item: tuple[Any, ...], rest: Callable[[], Any], data: memoryview) -> None:
        judged.append(item)
        waiting.extend(["first", "second"])
        events.plain = False

    stream = memoryview(p_data((1, 2, b"a")) + RELEASE_RQ + p_data((1, 2, b"late")))
    came = list(events.begin(stream, judge))
    assert told(came[0]) == (1, False, True, b"a", True)
    assert came[1:] == ["first", "second"] * 2
    assert [item[0] for item in judged] == [5, 4]
    assert bytes(stream[judged[1][3] : judged[1][4]]) == b"late"


def test_who_judges_may_take_the_rest() -> None:
    events = EventReader(PduReader(4096), [])
    kept: list[Any] = []

    def judge(item: tuple[Any, ...], rest: Callable[[], Any], data: memoryview) -> None:
        kept.extend([item, *iter(rest, None)])

    data = memoryview(p_data((1, 3, b"one"), (1, 0, b"two")) + RELEASE_RQ)
    assert list(events.begin(data, judge)) == []
    assert [item[0] for item in kept] == [4, 4, 5]
    events.plain = True
    judged: list[Any] = []
    later = list(events.begin(data, lambda item, rest, data: judged.append(item), kept))
    assert [told(event)[3] for event in later] == [b"one", b"two"]
    assert judged == [(5, bytes(4))]


def test_what_is_skipped_is_read_all_the_same() -> None:
    reader = PduReader(4096)
    events = EventReader(reader, [])
    events.plain = True
    whole = p_data((1, 3, b"command"), (1, 2, b"data"))
    assert next(events.begin(memoryview(whole[:-2]), nobody)).is_command
    events.skip()
    assert reader.mid_pdu
    (fragment,) = events.begin(memoryview(whole[-2:]), nobody)
    assert told(fragment) == (1, False, True, b"ta", True)


def test_what_was_diverted_passes_whatever_the_state() -> None:
    reader = PduReader(4096)
    events = EventReader(reader, [])
    taken: list[bytes] = []
    reader.divert(1, lambda data: taken.append(bytes(data)))
    (event,) = events.begin(memoryview(p_data((1, 2, b"data"))), nobody)
    assert isinstance(event, DataTaken)
    assert (event.size, event.last, taken) == (4, True, [b"data"])


@pytest.mark.parametrize("end", [list, lambda events: events.skip()])
def test_nothing_is_kept_of_what_was_read(end: Callable[[EventReader], Any]) -> None:
    class Core:
        def __init__(self) -> None:
            self.events = EventReader(PduReader(4096), [])
            self.events.plain = True

        def judge(self, item: Any, rest: Any, data: Any) -> None: ...

    core = Core()
    data = bytearray(p_data((1, 2, b"data")))
    end(core.events.begin(memoryview(data), core.judge))
    data.extend(b"not referred to any more")
    gone = weakref.ref(core)
    gc.disable()
    try:
        del core
        assert gone() is None
    finally:
        gc.enable()
