"""Bulk writes begin and end on blocks, whatever the pieces are and however little the kernel takes."""

from __future__ import annotations

import errno
import os
from mmap import mmap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router._blocks import Gatherer
from router._disk import write_blocks
from router.ports import Buffer
from router.spool.segment import BLOCK
from router.spool.staging import Staging, can_write_direct


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 9000), max_size=12))
def test_pieces_of_any_size_arrive_whole_and_padded(tmp_path: Path, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        end = Staging(2 * BLOCK).write(descriptor, pieces, BLOCK)
        data = b"".join(pieces)
        assert end == BLOCK + -(-len(data) // BLOCK) * BLOCK
        assert os.pread(descriptor, end, BLOCK) == data.ljust(end - BLOCK, b"\0")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("most", [BLOCK, 5000, 3 * BLOCK, 1 << 20])
def test_a_kernel_that_writes_less_is_asked_again_from_a_block(tmp_path: Path, most: int) -> None:
    data = os.urandom(13 * BLOCK + 100)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Pieces, an area that is smaller than they are, and few bytes at once.
        end = write_blocks(descriptor, [data[:7000], data[7000:]], BLOCK, bytearray(4 * BLOCK), most=most)
        assert end == 15 * BLOCK
        assert os.pread(descriptor, 1 << 20, BLOCK) == data.ljust(14 * BLOCK, b"\0")
    finally:
        os.close(descriptor)


def in_blocks(data: bytes) -> list[Buffer]:
    """As a reception gives it: on pages of memory."""
    gatherer = Gatherer()
    gatherer.write(data)
    return gatherer.take()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(
    records=st.lists(st.tuples(st.sampled_from([100, BLOCK, 3 * BLOCK]), st.integers(0, 300_000)), max_size=4),
    most=st.sampled_from([BLOCK, 5 * BLOCK + 1, 100_000, 1 << 30]),
)
def test_what_lies_on_blocks_is_written_from_where_it_is_and_is_the_same(
    tmp_path: Path, records: list[tuple[int, int]], most: int
) -> None:
    """With a head that ends on a block it lies on blocks in the file too; with any other it is copied."""
    buffers: list[Buffer] = []
    for head, size in records:
        buffers += [os.urandom(head), *in_blocks(os.urandom(size)), b"end"]
    path = tmp_path / "file"
    direct = (
        os.O_DIRECT if most % BLOCK == 0 and can_write_direct(tmp_path / "probe") else 0
    )  # which takes whole blocks only
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | direct, 0o600)
    try:
        staging = mmap(-1, 4 * BLOCK)  # begins on a block
        end = write_blocks(descriptor, buffers, 0, staging, most=most)
    finally:
        os.close(descriptor)
    data = b"".join(buffers)
    assert end == -(-len(data) // BLOCK) * BLOCK
    assert path.read_bytes() == data.ljust(end, b"\0")


def test_more_pieces_than_the_kernel_takes_at_once(tmp_path: Path) -> None:
    block = os.urandom(200_000)
    buffers = in_blocks(block)[:-1] * 500
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = write_blocks(descriptor, [bytes(BLOCK), *buffers, b"end"], 0, mmap(-1, 4 * BLOCK))
        data = bytes(BLOCK) + b"".join(buffers) + b"end"
        assert os.pread(descriptor, end, 0) == data.ljust(end, b"\0")
    finally:
        os.close(descriptor)


def test_a_kernel_that_writes_less_than_a_block_is_an_error(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with pytest.raises(OSError, match="Input/output"):
            write_blocks(descriptor, [bytes(2 * BLOCK)], 0, bytearray(2 * BLOCK), most=100)
    finally:
        os.close(descriptor)


def test_a_write_that_fails_says_so() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_blocks(-1, [b"x"], 0, bytearray(BLOCK))


def test_staging_memory_must_be_made_of_blocks() -> None:
    with pytest.raises(ValueError, match="blocks"):
        write_blocks(1, [b"x"], 0, bytearray(100))


def test_a_file_system_without_direct_writes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    assert can_write_direct(tmp_path / "probe") is False
