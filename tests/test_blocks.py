"""What is gathered is what came, however it was cut; what was given out never changes."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router._blocks import BLOCK_SIZE, Gatherer
from router.errors import DatasetError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 700, 4096, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 131_066]), max_size=8)
)
def test_fragments_of_any_size_come_out_in_order(sizes: list[int]) -> None:
    gatherer = Gatherer()
    fragments = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    for fragment in fragments:
        gatherer.write(memoryview(fragment))
    buffers = gatherer.take()
    assert b"".join(buffers) == b"".join(fragments)
    assert all(len(buffer) == BLOCK_SIZE for buffer in buffers[:-1])
    assert gatherer.take() == []


def test_a_data_set_that_fits_a_block_takes_no_more_than_its_bytes() -> None:
    gatherer = Gatherer()
    gatherer.write(b"\x08\x00" * 100)
    (data,) = gatherer.take()
    assert type(data) is bytes and len(data) == 200


def test_memory_is_used_again_only_when_its_last_reader_has_let_go() -> None:
    def filled(byte: int) -> list[bytes | bytearray | memoryview]:
        gatherer = Gatherer()
        gatherer.write(bytes([byte]) * (3 * BLOCK_SIZE))
        return gatherer.take()

    kept = filled(1)
    slice_of_one = memoryview(filled(2)[1])[10:20]
    gc.collect()
    for byte in range(3, 20):
        filled(byte)
    assert b"".join(kept) == bytes([1]) * (3 * BLOCK_SIZE)
    assert bytes(slice_of_one) == bytes([2]) * 10


def test_what_is_given_out_cannot_be_written_to() -> None:
    gatherer = Gatherer()
    gatherer.write(bytes(2 * BLOCK_SIZE))
    block = gatherer.take()[0]
    with pytest.raises(TypeError):
        block[0] = 1  # type: ignore[index]


def test_only_contiguous_bytes_are_taken() -> None:
    with pytest.raises(BufferError):
        Gatherer().write(memoryview(bytes(100))[::2])


def test_what_is_gathered_is_looked_at_and_hashed_first() -> None:
    seen: list[tuple[str, bytes]] = []
    gatherer = Gatherer(
        lambda data: seen.append(("look", bytes(data))), lambda data: seen.append(("hash", bytes(data)))
    )
    gatherer.write(b"ab")
    gatherer.write(b"c")
    assert seen == [("look", b"ab"), ("hash", b"ab"), ("look", b"c"), ("hash", b"c")]
    assert (gatherer.size, gatherer.held) == (3, 3)


def test_what_is_wrong_is_remembered_and_nothing_is_kept_of_it() -> None:
    wrong = DatasetError(0xC001, "cut short")

    def look(data: bytes) -> None:
        if bytes(data) == b"bad":
            raise wrong

    gatherer = Gatherer(look)
    for data in (b"good", b"bad", b"more"):
        gatherer.write(data)
    assert gatherer.error is wrong
    assert gatherer.held == 0
    assert gatherer.take() == []


def test_more_than_may_be_kept_goes_on_elsewhere_with_the_fragment_that_crosses_the_limit() -> None:
    beyond: list[bytes] = []
    gatherer = Gatherer(None, None, lambda data: beyond.append(bytes(data)), 5)
    for data in (b"abc", b"de", b"f", b"gh"):
        gatherer.write(data)
    assert beyond == [b"f", b"gh"]
    assert (gatherer.size, gatherer.held) == (8, 5)
    assert b"".join(gatherer.take()) == b"abcde"


def test_it_can_be_told_to_keep_no_more() -> None:
    beyond: list[bytes] = []
    gatherer = Gatherer(None, None, lambda data: beyond.append(bytes(data)))
    gatherer.write(b"a")
    gatherer.stop()
    gatherer.write(b"b")
    assert beyond == [b"b"]
    assert gatherer.take() == [b"a"]
