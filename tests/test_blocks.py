"""What is gathered or read back is what came, however it was cut; what was given out never changes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from router._blocks import BLOCK_SIZE, BLOCKS_KEPT, PIECE_SIZE, Gatherer, read_piece
from router._walker import ElementWalker
from router.errors import DatasetError
from router.spool.staging import read_past_cache


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
    assert gatherer.end() == xxhash.xxh3_128_digest(b"".join(fragments))


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


def test_more_blocks_than_are_kept_for_good_are_had_and_given_back() -> None:
    def data(number: int) -> bytes:
        return number.to_bytes(4, "big") * (BLOCK_SIZE // 2)  # two blocks

    for _ in range(2):
        held: list[Gatherer] = []
        for number in range(BLOCKS_KEPT * 3 // 4):
            gatherer = Gatherer()
            gatherer.write(data(number))
            held.append(gatherer)
        # Some go while others stay, of both kinds.
        for number, gatherer in enumerate(held):
            if number % 3 == 0:
                gatherer.drop()
        for number, gatherer in enumerate(held):
            assert b"".join(gatherer.take()) == (b"" if number % 3 == 0 else data(number))


def test_what_is_given_out_cannot_be_written_to() -> None:
    gatherer = Gatherer()
    gatherer.write(bytes(2 * BLOCK_SIZE))
    block = gatherer.take()[0]
    with pytest.raises(TypeError):
        block[0] = 1  # type: ignore[index]


def test_only_contiguous_bytes_are_taken() -> None:
    with pytest.raises(BufferError):
        Gatherer().write(memoryview(bytes(100))[::2])


def test_what_is_gathered_is_looked_at_first() -> None:
    seen: list[tuple[bytes, int]] = []
    gatherer = Gatherer(lambda data: seen.append((bytes(data), gatherer.held)))
    gatherer.write(b"ab")
    gatherer.write(b"c")
    assert seen == [(b"ab", 0), (b"c", 2)]
    assert (gatherer.size, gatherer.held) == (3, 3)


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE])
def test_a_walker_looks_by_itself(size: int) -> None:
    def walker() -> ElementWalker:
        return ElementWalker(explicit=True, little_endian=True, wanted=frozenset({(0x00080060,)}))

    data = b"\x08\0\x60\0CS\x02\0CT" + b"\xe0\x7f\x10\0OW\0\0" + size.to_bytes(4, "little") + bytes(size)
    seen = walker()
    gatherer = Gatherer(seen)
    for start in range(0, len(data), 50_000):
        gatherer.write(data[start : start + 50_000])
    seen.finish()
    assert seen.values == {(0x00080060,): ("CS", b"CT")}
    wrong = Gatherer(walker())
    for piece in (data, b"\xfe\xff\0\xe0\0\0\0\0", b"more"):
        wrong.write(piece)
    assert (str(wrong.error), wrong.held) == ("0xC001: delimiter where none may be", 0)


def test_what_is_taken_bit_by_bit_is_hashed_as_a_whole() -> None:
    gatherer = Gatherer()
    assert gatherer.end() == xxhash.xxh3_128_digest(b"")
    taken = []
    for size in (3, 0, BLOCK_SIZE, 5, 2 * BLOCK_SIZE):
        gatherer.write(os.urandom(size))
        taken += [*gatherer.full(), *gatherer.take()] if size < BLOCK_SIZE else gatherer.full()
    taken += gatherer.take()
    assert gatherer.end() == xxhash.xxh3_128_digest(b"".join(taken))


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


def test_of_more_than_may_be_kept_whole_the_full_blocks_go_on_as_they_fill() -> None:
    asked: list[tuple[int, list[bytes]]] = []

    def beyond() -> None:
        asked.append((gatherer.size, [bytes(block) for block in gatherer.full()]))

    gatherer = Gatherer(None, beyond, BLOCK_SIZE + 5)
    whole = bytes([1]) * BLOCK_SIZE, bytes([2]) * BLOCK_SIZE, bytes([3]) * BLOCK_SIZE
    for fragment in (*whole[:1], b"abcde", b"f", whole[1], whole[2]):
        gatherer.write(fragment)
    stream = b"".join(whole[:1]) + b"abcdef" + b"".join(whole[1:])
    sizes = [size for size, _ in asked]
    assert sizes == [BLOCK_SIZE + 6, 2 * BLOCK_SIZE + 6, 3 * BLOCK_SIZE + 6], "behind the fragment that crosses it"
    assert all(len(block) == BLOCK_SIZE for _, blocks in asked for block in blocks)
    assert (gatherer.size, gatherer.held) == (3 * BLOCK_SIZE + 6, 6)
    assert b"".join(block for _, blocks in asked for block in blocks) + b"".join(gatherer.take()) == stream
    assert gatherer.held == 0


def test_it_can_be_told_to_pass_on_what_comes_however_little_there_is() -> None:
    asked: list[int] = []
    gatherer = Gatherer(None, lambda: asked.append(gatherer.size))
    gatherer.write(b"a")
    assert asked == []
    gatherer.pass_on()
    gatherer.write(b"b")
    assert asked == [2]
    assert b"".join(gatherer.take()) == b"ab"


def test_what_was_dropped_is_let_go_and_what_still_comes_is_nobodys() -> None:
    seen: list[bytes] = []
    gatherer = Gatherer(lambda data: seen.append(bytes(data)))
    gatherer.write(b"a")
    gatherer.drop()
    gatherer.write(b"b")
    assert seen == [b"a"]
    assert (gatherer.held, gatherer.take(), gatherer.error) == (0, [], None)


def test_who_takes_what_is_full_may_drop_the_rest() -> None:
    gatherer = Gatherer(None, lambda: gatherer.drop(), 5)
    gatherer.write(bytes(BLOCK_SIZE + 7))
    gatherer.write(bytes(7))
    assert (gatherer.held, gatherer.take()) == (0, [])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Three pieces and 5,000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


CONTENT = bytes(range(251)) * ((3 * PIECE_SIZE + 5_000) // 251 + 1)
CONTENT = CONTENT[: 3 * PIECE_SIZE + 5_000]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 70_001, 3 * PIECE_SIZE - 1, 3 * PIECE_SIZE + 4_999])
@pytest.mark.parametrize("most", [1, 4096, 10_000, PIECE_SIZE, 1 << 40])
def test_a_piece_is_what_lies_there_up_to_its_end_or_that_of_the_file(
    file: int, at: int, most: int, direct: bool
) -> None:
    if direct:
        read_past_cache(file)
    piece = read_piece(file, at, most)
    assert piece == CONTENT[at : at + min(most, PIECE_SIZE - at % 4096)]
    assert piece.readonly


def test_behind_the_end_of_a_file_lies_an_empty_piece(file: int) -> None:
    assert bytes(read_piece(file, len(CONTENT) + 4096, 10)) == b""
    assert bytes(read_piece(file, len(CONTENT), 10)) == b""


def test_pieces_are_used_again_only_when_their_last_reader_has_let_go(file: int) -> None:
    first = read_piece(file, 0, PIECE_SIZE)
    part = read_piece(file, PIECE_SIZE, PIECE_SIZE)[10:20]
    for _ in range(20):
        read_piece(file, 2 * PIECE_SIZE, PIECE_SIZE)
    assert first == CONTENT[:PIECE_SIZE]
    assert part == CONTENT[PIECE_SIZE + 10 : PIECE_SIZE + 20]


@pytest.mark.parametrize(("at", "most"), [(-1, 10), (0, 0), (0, -1)])
def test_what_cannot_be_read_is_refused(file: int, at: int, most: int) -> None:
    with pytest.raises(ValueError):
        read_piece(file, at, most)


def test_a_descriptor_that_cannot_be_read_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_piece(-1, 0, 10)
