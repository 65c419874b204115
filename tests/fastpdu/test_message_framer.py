"""P-DATA-TF PDUs around messages: within the peer's maximum length, even fragments, nothing copied (PS3.8 D.1, E)."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._fastpdu import MessageFramer, PduReader, frame_message
from router.errors import LocalProtocolError
from tests.support import plain_pdu

COMMAND = bytes(range(130))


def fragments(stream: bytes) -> list[tuple[int, int, bytes]]:
    """(context id, message control header, data) of every PDV, read back."""
    found = []
    for kind, context, control, start, end, complete in PduReader(1 << 24).feed(stream):
        assert kind == 4
        assert complete
        found.append((context, control, stream[start:end]))
    return found


def pdu_lengths(stream: bytes) -> list[int]:
    lengths = []
    while stream:
        (length,) = struct.unpack(">I", stream[2:6])
        lengths.append(length)
        stream = stream[6 + length :]
    return lengths


def test_a_command_without_data_set():
    assert fragments(b"".join(frame_message(5, COMMAND, (), 0, 16384))) == [(5, 3, COMMAND)]


def test_command_and_data_set_never_share_a_pdu():
    stream = b"".join(frame_message(5, COMMAND, [b"data"], 4, 16384))
    assert fragments(stream) == [(5, 3, COMMAND), (5, 2, b"data")]
    assert len(pdu_lengths(stream)) == 2


def test_an_empty_data_set_is_one_empty_last_fragment():
    assert fragments(b"".join(frame_message(5, COMMAND, [b""], 0, 16384))) == [(5, 3, COMMAND), (5, 2, b"")]


def test_a_small_message_is_one_bytes_object():
    [whole] = frame_message(5, COMMAND, [b"a" * 1000, b"b" * 1000], 2000, 16384)
    assert type(whole) is bytes
    assert fragments(whole)[1] == (5, 2, b"a" * 1000 + b"b" * 1000)


def test_data_of_a_large_message_is_not_copied():
    chunk = bytes(512 << 10)
    buffers = frame_message(5, COMMAND, [chunk], len(chunk), 131072)
    slices = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
    assert all(piece.obj is chunk for piece in slices)
    assert sum(map(len, slices)) == len(chunk)
    # Command, its headers and the first header are one buffer; then data and headers take turns.
    assert len(buffers) == 2 * len(slices)


def test_a_chunk_within_one_fragment_is_given_as_it_is():
    chunk = bytes(10000)
    assert frame_message(5, COMMAND, [chunk], len(chunk), 131072)[1] is chunk


@pytest.mark.parametrize(
    ("max_length", "longest"),
    [(8, 8), (9, 8), (128, 128), (129, 128), (16384, 16384), (16383, 16382), (0, 131072), (1 << 30, 1 << 20)],
)
def test_the_peers_maximum_limits_the_variable_field(max_length, longest):
    data = bytes(1_200_000 if longest > 10000 else 3000)
    stream = b"".join(frame_message(1, COMMAND, [data], len(data), max_length))
    assert max(pdu_lengths(stream)) == longest
    pieces = fragments(stream)
    assert all(len(piece) % 2 == 0 for _, _, piece in pieces)
    assert b"".join(piece for _, control, piece in pieces if not control & 1) == data


@pytest.mark.parametrize("max_length", range(1, 8))
def test_a_maximum_below_eight_cannot_be_served(max_length):
    with pytest.raises(LocalProtocolError):
        frame_message(1, COMMAND, (), 0, max_length)
    with pytest.raises(LocalProtocolError):
        MessageFramer(1, 100, max_length)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_the_size_must_be_what_the_chunks_hold(size):
    with pytest.raises(LocalProtocolError):
        frame_message(1, COMMAND, [b"abcd"], size, 16384)


def test_a_size_without_chunks_is_our_bug():
    with pytest.raises(LocalProtocolError):
        frame_message(1, COMMAND, (), 4, 16384)


def test_the_framer_takes_no_more_than_it_was_told():
    framer = MessageFramer(1, 10, 16384)
    framer.feed(bytes(8))
    assert framer.left == 2
    with pytest.raises(LocalProtocolError):
        framer.feed(bytes(3))
    framer.feed(bytes(2))
    assert framer.left == 0
    assert framer.feed(b"") == []


def test_a_fragment_goes_on_into_the_next_chunk():
    framer = MessageFramer(1, 30000, 16384)
    assert [len(buffer) for buffer in framer.feed(bytes(10001))] == [12, 10001]
    assert [len(buffer) for buffer in framer.feed(bytes(10001))] == [6377, 12, 3624]
    assert [len(buffer) for buffer in framer.feed(bytes(9998))] == [9998]


def test_small_fragments_are_copied_together():
    [whole] = MessageFramer(1, 1000, 64).feed(bytes(1000))
    assert len(fragments(bytes(whole))) == 18


def test_chunks_may_be_views_of_anything_contiguous():
    chunk = memoryview(bytearray(range(256)) * 400)[100:]
    stream = b"".join(MessageFramer(1, len(chunk), 16384).feed(chunk))
    assert b"".join(piece for _, _, piece in fragments(stream)) == bytes(chunk)
    words = memoryview(bytes(100000)).cast("I")
    assert len(b"".join(MessageFramer(1, 100000, 16384).feed(words))) == 100000 + 7 * 12


@given(
    command=st.binary(max_size=300),
    data=st.binary(max_size=9000),
    cuts=st.lists(st.integers(0, 9000), max_size=5),
    max_length=st.one_of(st.just(0), st.integers(8, 300), st.integers(2000, 5000)),
)
def test_however_the_data_comes_the_wire_sees_the_same(command, data, cuts, max_length):
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise(at)] or [b""]
    expected = plain_pdu.frame_message(3, command, chunks, max_length)
    assert b"".join(frame_message(3, command, chunks, len(data), max_length)) == expected
    framer = MessageFramer(3, len(data), max_length)
    alone = b"".join(frame_message(3, command, (), 0, max_length))
    assert alone + b"".join(buffer for chunk in chunks for buffer in framer.feed(chunk)) == expected


@given(
    data=st.binary(max_size=9000),
    cuts=st.lists(st.integers(0, 9000), max_size=8),
    max_length=st.one_of(st.just(0), st.integers(8, 300), st.integers(2000, 5000)),
)
def test_without_a_size_whole_fragments_leave_and_the_last_is_held_back(data, cuts, max_length):
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise(at)]
    framer = MessageFramer(3, None, max_length)
    left = [b"".join(framer.feed(chunk)) for chunk in chunks]
    assert framer.left is None
    left.append(b"".join(framer.end()))
    assert left == plain_pdu.open_ended(3, chunks, max_length)
    assert b"".join(left) == plain_pdu.frame_message(3, b"", [data], max_length)[len(plain_pdu.p_data(3, 3, b"")) :]


def test_data_without_a_size_is_not_copied():
    chunk = bytes(512 << 10)
    framer = MessageFramer(5, None, 131072)
    slices = [buffer for buffer in [*framer.feed(chunk), *framer.end()] if isinstance(buffer, memoryview)]
    assert all(piece.obj is chunk for piece in slices)
    assert sum(map(len, slices)) == len(chunk)


def test_the_end_is_said_once_and_only_where_the_size_was_not():
    framer = MessageFramer(1, None, 16384)
    assert fragments(b"".join(framer.end())) == [(1, 2, b"")]
    with pytest.raises(LocalProtocolError):
        framer.end()
    with pytest.raises(LocalProtocolError):
        framer.feed(b"more")
    with pytest.raises(LocalProtocolError):
        MessageFramer(1, 0, 16384).end()
