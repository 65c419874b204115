"""Fragments become messages: a command set, then its data set (PS3.7 §6.3.1, PS3.8 Annex E)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._fastpdu import DataFragment, MessageFramer, frame_message
from router.dimse.assembler import CommandReceived, DataReceived, MessageAssembler
from router.dimse.command import encode_c_echo_rq, encode_c_store_rq, encode_response
from router.errors import AbortReason, LocalProtocolError, PeerProtocolError
from router.ul.association import AssociationSettings, Role
from router.ul.state import State
from tests.dimse.commands import INSTANCE, command_set, store_rq, us
from tests.support import plain_assembler
from tests.ul.bench import (
    COMMAND,
    CT,
    DATA,
    LAST,
    RELEASE_RQ,
    Bench,
    Wire,
    abort_pdu,
    as_bytes,
    established,
    p_data,
    pdv,
    request_pdu,
)

ECHO = encode_c_echo_rq(3)
STORE = store_rq()
PIXELS = bytes(range(256)) * 20


class Reader:
    """A core in Sta6 with an assembler behind it, and the messages that came out: command field and data set."""

    def __init__(self, contexts: Sequence[int] = (1,), limit: int = 16384, **options: object) -> None:
        self.assembler = MessageAssembler(frozenset(contexts), limit)
        self.messages: list[tuple[int, int, bytes | None]] = []
        self._data = bytearray()
        self.bench = established(on_fragment=self.fragment, **options)

    def fragment(self, fragment: DataFragment) -> None:
        received = self.assembler.feed(fragment)
        self.bench.core.message_open = self.assembler.in_message
        if isinstance(received, CommandReceived):
            command = received.command
            if command.has_data_set:
                self._data.clear()
            self.messages.append((received.context_id, command.field, None))
        elif isinstance(received, DataReceived):
            self._data += received.data
            if received.last:
                self.messages[-1] = (*self.messages[-1][:2], bytes(self._data))

    def receive(self, *pieces: bytes) -> list[tuple[int, int, bytes | None]]:
        self.messages.clear()
        self.bench.receive(*pieces)
        return self.messages

    @property
    def answer(self) -> bytes:
        return self.bench.sent()


STORED = [(1, 0x0001, PIXELS)]


def test_a_command_without_data_is_a_whole_message():
    reader = Reader()
    assert reader.receive(p_data(pdv(1, COMMAND | LAST, ECHO))) == [(1, 0x0030, None)]
    assert not reader.assembler.in_message


def test_a_command_with_data_is_a_message_when_the_data_is_there():
    reader = Reader()
    assert reader.receive(p_data(pdv(1, COMMAND | LAST, STORE))) == [(1, 0x0001, None)]
    assert reader.assembler.in_message
    reader.bench.receive(p_data(pdv(1, DATA, PIXELS[:2000])))
    assert reader.messages == [(1, 0x0001, None)]
    assert reader.assembler.in_message
    reader.bench.receive(p_data(pdv(1, DATA | LAST, PIXELS[2000:])))
    assert reader.messages == STORED
    assert not reader.assembler.in_message


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_case_52_a_command_set_split_over_pdvs_and_pdus_at_any_offset(size: int):
    parts = [STORE[at : at + size] for at in range(0, len(STORE), size)]
    pdvs = [pdv(1, COMMAND | (LAST if index == len(parts) - 1 else 0), part) for index, part in enumerate(parts)]
    data = p_data(pdv(1, DATA | LAST, PIXELS))
    assert Reader().receive(p_data(*pdvs) + data) == STORED
    assert Reader().receive(b"".join(p_data(one) for one in pdvs) + data) == STORED


def test_case_53_command_and_data_in_one_pdu():
    assert Reader().receive(p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA | LAST, PIXELS))) == STORED


def test_case_54_two_messages_in_one_pdu():
    message = pdv(1, COMMAND | LAST, STORE) + pdv(1, DATA | LAST, PIXELS)
    assert Reader().receive(p_data(message, message)) == STORED * 2
    assert Reader().receive(p_data(pdv(1, COMMAND | LAST, ECHO), message)) == [(1, 0x0030, None), *STORED]


def test_cases_55_and_56_odd_fragments_and_odd_totals():
    pdvs = [pdv(1, DATA, PIXELS[:333]), pdv(1, DATA, PIXELS[333:1000]), pdv(1, DATA | LAST, PIXELS[1000:-1])]
    reader = Reader()
    assert reader.receive(p_data(pdv(1, COMMAND | LAST, STORE), *pdvs)) == [(1, 0x0001, PIXELS[:-1])]


def test_case_58_empty_fragments_anywhere():
    empty = pdv(1, DATA, b"")
    stream = p_data(pdv(1, COMMAND, b""), pdv(1, COMMAND, STORE), pdv(1, COMMAND | LAST, b""))
    stream += p_data(empty, pdv(1, DATA, PIXELS), empty) + p_data(pdv(1, DATA | LAST, b""))
    assert Reader().receive(stream) == STORED


def test_case_58_an_empty_data_set():
    assert Reader().receive(p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA | LAST, b""))) == [(1, 0x0001, b"")]


@pytest.mark.parametrize("context", [0, 3, 255])
def test_case_60_a_message_on_a_context_that_was_not_accepted(context: int):
    reader = Reader()
    assert reader.receive(p_data(pdv(context, COMMAND | LAST, ECHO))) == []
    assert reader.answer == abort_pdu(2, AbortReason.UNEXPECTED_PDU_PARAMETER)


@pytest.mark.parametrize(
    "stream",
    [
        p_data(pdv(1, COMMAND | LAST, STORE), pdv(3, DATA | LAST, PIXELS)),
        p_data(pdv(1, COMMAND, STORE[:20]), pdv(3, COMMAND | LAST, STORE[20:])),
        p_data(pdv(1, DATA | LAST, PIXELS)),
        p_data(pdv(1, COMMAND, STORE[:20]), pdv(1, DATA | LAST, PIXELS)),
        p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, COMMAND | LAST, STORE)),
        p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA, PIXELS), pdv(1, COMMAND | LAST, STORE)),
        p_data(pdv(1, COMMAND | LAST, ECHO), pdv(1, DATA | LAST, PIXELS)),
    ],
    ids=[
        "data on another context",
        "command on two contexts",
        "data before a command",
        "data within a command",
        "command instead of data",
        "command within data",
        "data after a command without",
    ],
)
def test_case_61_what_would_mix_up_two_messages_is_aborted(stream: bytes):
    reader = Reader(contexts=(1, 3))
    reader.receive(stream)
    assert reader.answer == abort_pdu(2, AbortReason.UNEXPECTED_PDU_PARAMETER)
    assert all(data is None for _, _, data in reader.messages)
    assert reader.receive(p_data(pdv(1, COMMAND | LAST, ECHO))) == []


def test_case_61_messages_may_take_turns_on_two_contexts():
    reader = Reader(contexts=(1, 3))
    stream = p_data(pdv(1, COMMAND | LAST, ECHO)) + p_data(pdv(3, COMMAND | LAST, ECHO))
    assert [context for context, _, _ in reader.receive(stream)] == [1, 3]


def test_case_64_data_that_is_announced_and_never_comes():
    """An echo flagged "data set present": it is waited for, and the association aborted in the end."""
    reader = Reader()
    flagged = command_set(us(0x0100, 0x0030), us(0x0110, 1), us(0x0800, 0x0001))
    reader.receive(p_data(pdv(1, COMMAND | LAST, flagged)))
    assert reader.assembler.in_message
    reader.bench.wait(29.9)
    assert reader.answer == b""
    reader.bench.wait(0.1)
    assert reader.answer == abort_pdu(2, 0)


@pytest.mark.parametrize("step", [1, 100, 100_000])
def test_a_command_set_over_its_limit_is_aborted_before_it_is_whole(step: int):
    reader = Reader(limit=1000)
    stream = p_data(*[pdv(1, COMMAND, bytes(100))] * 11)
    reader.receive(*(stream[at : at + step] for at in range(0, len(stream), step)))
    assert reader.answer == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)


def test_a_command_set_at_its_limit_is_read():
    assert Reader(limit=len(STORE)).receive(p_data(pdv(1, COMMAND | LAST, STORE))) == [(1, 0x0001, None)]


def test_an_unreadable_command_set_is_aborted():
    reader = Reader()
    reader.receive(p_data(pdv(1, COMMAND | LAST, b"rubbish!" * 3)))
    assert reader.answer == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)


def test_case_76_a_release_within_a_message_finds_the_message_open():
    reader = Reader(answers_release=False)
    reader.receive(p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA, PIXELS)) + RELEASE_RQ)
    assert reader.bench.state is State.STA8
    assert reader.assembler.in_message


def test_case_77_an_abort_within_a_message_leaves_it_unfinished():
    reader = Reader()
    messages = reader.receive(p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA, PIXELS)) + abort_pdu(0, 0))
    assert messages == [(1, 0x0001, None)]
    assert reader.assembler.in_message


def test_data_is_handed_on_as_it_comes_and_not_gathered():
    sizes: list[int] = []

    def measure(fragment: DataFragment) -> None:
        received = assembler.feed(fragment)
        if isinstance(received, DataReceived):
            assert received.data is fragment.data
            sizes.append(len(received.data))

    assembler = MessageAssembler({1})
    bench = established(on_fragment=measure)
    stream = p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA | LAST, PIXELS))
    bench.receive(*(stream[at : at + 512] for at in range(0, len(stream), 512)))
    assert sum(sizes) == len(PIXELS)
    assert max(sizes) <= 512


# Two cores, whole messages ----------------------------------------------------------------------------------


def exchange(data: bytes, max_length: int, cut: int) -> tuple[bytes, list[bytes]]:
    """Send one instance from core to core; gives what arrived, and the P-DATA-TFs on their way."""
    reader = Reader(settings=AssociationSettings(max_pdu=max_length))
    requestor = established(Role.REQUESTOR)
    frames = as_bytes(frame_message(1, encode_c_store_rq(1, CT, INSTANCE), [data], len(data), max_length))
    requestor.core.send_pdata([frames], requestor.now)
    wire = Wire(requestor, reader.bench, lambda sent: [sent[at : at + cut] for at in range(0, len(sent), cut)])
    wire.pump()
    assert reader.bench.state is State.STA6
    assert len(reader.messages) == 1
    pdus = []
    while frames:
        length = 6 + int.from_bytes(frames[2:6], "big")
        pdus.append(frames[:length])
        frames = frames[length:]
    received = reader.messages[0][2]
    assert received is not None
    return received, pdus


@given(
    data=st.binary(max_size=2000).map(lambda data: data[: len(data) & ~1]),
    max_length=st.integers(8, 500),
    cut=st.integers(1, 700),
)
def test_case_108_the_bytes_that_arrive_are_the_bytes_that_were_sent(data: bytes, max_length: int, cut: int):
    assert exchange(data, max_length, cut)[0] == data


@pytest.mark.parametrize("max_length", [8, 9, 128, 65535])
def test_cases_30_to_32_a_pdu_is_never_longer_than_the_peer_takes_and_fragments_are_even(max_length: int):
    _, pdus = exchange(bytes(3000), max_length, 10_000)
    for one in pdus:
        assert len(one) - 6 <= max_length
        assert (len(one) - 12) % 2 == 0
    assert max(len(one) - 12 for one in pdus[1:]) == min((max_length - 6) & ~1, 3000)


def test_case_29_no_limit_is_no_reason_for_one_huge_pdu():
    frames = frame_message(1, STORE, [bytes(1 << 20)], 1 << 20, 0)
    assert max(len(buffer) for buffer in frames) <= 256 << 10


@pytest.mark.parametrize("max_length", range(1, 8))
def test_case_30_a_limit_that_leaves_no_room_is_told_when_a_message_is_due(max_length: int):
    with pytest.raises(LocalProtocolError):
        frame_message(1, STORE, (), 0, max_length)
    with pytest.raises(LocalProtocolError):
        MessageFramer(1, 100, max_length)


def test_case_54_a_message_of_ours_has_its_pdus_to_itself():
    """Command and data never share a PDU, nor do two messages."""
    _, pdus = exchange(PIXELS, 16384, 100_000)
    assert [one[11] & 1 for one in pdus] == [1] + [0] * (len(pdus) - 1)
    assert [one[11] & 2 for one in pdus] == [2] + [0] * (len(pdus) - 2) + [2]


def test_case_109_a_deflated_data_set_travels_like_any_other():
    deflater = zlib.compressobj(wbits=-15)
    deflated = deflater.compress(PIXELS) + deflater.flush()
    deflated += bytes(len(deflated) % 2)
    assert exchange(deflated, 16384, 3)[0] == deflated


def test_case_45_messages_sent_without_waiting_are_read_in_order():
    reader = Reader()
    stream = b"".join(
        p_data(pdv(1, COMMAND | LAST, encode_c_store_rq(number, CT, INSTANCE)), pdv(1, DATA | LAST, bytes((number, 0))))
        for number in range(1, 20)
    )
    assert [data for _, _, data in reader.receive(stream)] == [bytes((number, 0)) for number in range(1, 20)]


def test_case_67_an_unknown_request_is_read_to_its_end():
    reader = Reader()
    strange = command_set(us(0x0100, 0x0777), us(0x0110, 1), us(0x0800, 0x0001))
    assert reader.receive(p_data(pdv(1, COMMAND | LAST, strange), pdv(1, DATA | LAST, b"xx"))) == [(1, 0x0777, b"xx")]


def test_case_68_a_cancel_and_an_unsolicited_response_are_messages_like_others():
    reader = Reader()
    cancel = command_set(us(0x0100, 0x0FFF), us(0x0120, 9), us(0x0800, 0x0101))
    stray = command_set(us(0x0100, 0x8030), us(0x0120, 9), us(0x0800, 0x0101), us(0x0900, 0))
    stream = b"".join(p_data(pdv(1, COMMAND | LAST, one)) for one in (cancel, stray, ECHO))
    assert [field for _, field, _ in reader.receive(stream)] == [0x0FFF, 0x8030, 0x0030]


def test_a_whole_conversation_survives_any_cut():
    stream = request_pdu() + p_data(pdv(1, COMMAND | LAST, STORE), pdv(1, DATA | LAST, PIXELS[:64])) + RELEASE_RQ
    for at in range(1, len(stream)):
        messages: list[object] = []
        assembler = MessageAssembler({1})

        def gather(
            fragment: DataFragment, assembler: MessageAssembler = assembler, messages: list[object] = messages
        ) -> None:
            received = assembler.feed(fragment)
            if isinstance(received, DataReceived):
                messages.append(bytes(received.data))
            elif received is not None:
                messages.append(encode_response(received.command, 0))

        bench = Bench(on_fragment=gather)
        bench.receive(stream[:at], stream[at:])
        assert bench.state is State.STA13
        assert len(messages) >= 2
        assert b"".join(part for part in messages[1:] if isinstance(part, bytes)) == PIXELS[:64]


def told(assembler: Any, fragments: Sequence[DataFragment]) -> list[object]:
    """What comes of the fragments, to the first that is refused."""
    found: list[object] = []
    for fragment in fragments:
        try:
            received = assembler.feed(fragment)
        except PeerProtocolError as error:
            return [*found, str(error), error.reason]
        found.append(assembler.in_message)
        if received is not None:
            found.append(type(received).__name__)
            found.append(
                (bytes(received.data), received.last)
                if hasattr(received, "data")
                else (received.context_id, received.command.field, received.command.sop_instance)
            )
    return found


pieces = st.binary(max_size=40) | st.sampled_from([STORE, ECHO, STORE[:30], STORE[30:]])


@given(
    st.lists(
        st.builds(
            DataFragment,
            st.sampled_from([1, 1, 1, 3, 5]),
            st.booleans(),
            st.booleans(),
            pieces.map(memoryview),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_fragments_are_assembled_as_the_plain_reference_does(fragments: list[DataFragment]):
    assert told(MessageAssembler({1, 3}, 200), fragments) == told(
        plain_assembler.MessageAssembler({1, 3}, 200), fragments
    )
