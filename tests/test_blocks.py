"""What is gathered is what came, however it was cut; what was given out never changes."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router._blocks import BLOCK_SIZE, Gatherer


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 700, 4096, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 131_066]), max_size=8)
)
def test_fragments_of_any_size_come_out_in_order(sizes: list[int]) -> None:
    gatherer = Gatherer()
    fragments = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    for fragment in fragments:
        gatherer.append(memoryview(fragment))
    buffers = gatherer.take()
    assert b"".join(buffers) == b"".join(fragments)
    assert all(len(buffer) == BLOCK_SIZE for buffer in buffers[:-1])
    assert gatherer.take() == []


def test_a_data_set_that_fits_a_block_takes_no_more_than_its_bytes() -> None:
    gatherer = Gatherer()
    gatherer.append(b"\x08\x00" * 100)
    (data,) = gatherer.take()
    assert type(data) is bytes and len(data) == 200


def test_memory_is_used_again_only_when_its_last_reader_has_let_go() -> None:
    def filled(byte: int) -> list[bytes | bytearray | memoryview]:
        gatherer = Gatherer()
        gatherer.append(bytes([byte]) * (3 * BLOCK_SIZE))
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
    gatherer.append(bytes(2 * BLOCK_SIZE))
    block = gatherer.take()[0]
    with pytest.raises(TypeError):
        block[0] = 1  # type: ignore[index]


def test_only_contiguous_bytes_are_taken() -> None:
    with pytest.raises(BufferError):
        Gatherer().append(memoryview(bytes(100))[::2])
