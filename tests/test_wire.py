"""What is written to a socket is what was given, in order, however little it takes; what is read is what there is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router._wire import read, write


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which never waits and takes little at once, and the peer's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        yield ours, theirs


def test_what_the_socket_takes_is_gone_and_nothing_is_left(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    assert write(ours.fileno(), [b"ab", bytearray(b"c"), memoryview(b"xdefx")[1:-1]]) == []
    assert theirs.recv(100) == b"abcdef"


def test_nothing_to_write_is_nothing_left(ends: tuple[socket.socket, socket.socket]) -> None:
    assert write(ends[0].fileno(), []) == []
    assert b"".join(write(ends[0].fileno(), [b"", b""])) == b""


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 12, 700, 5_000, 70_000]), max_size=40),
    many=st.integers(0, 2_100),
    reads=st.lists(st.integers(1, 20_000), max_size=10),
)
def test_what_is_left_is_what_was_not_taken(sizes: list[int], many: int, reads: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        theirs.setblocking(False)
        buffers = [bytes([index % 251]) * size for index, size in enumerate(sizes)] + [b"m"] * many
        left = list(buffers)
        came = bytearray()
        for most in [*reads, *[1 << 20] * 300]:
            left = write(ours.fileno(), left)
            try:
                came += theirs.recv(most)
            except BlockingIOError:
                assert not any(left), "a socket that is empty takes more"
                break
        assert not any(left)
        assert came == b"".join(buffers)


def test_a_full_or_broken_socket_leaves_everything(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    left = write(ours.fileno(), [bytes(1 << 20)])
    while len(left[0]) > len(again := write(ours.fileno(), left)[0]):
        left = [again]
    assert write(ours.fileno(), left) is left
    theirs.close()
    assert write(ours.fileno(), left) is left
    assert write(-1, left) is left


def test_what_is_no_buffer_is_refused_and_nothing_is_written(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with pytest.raises(TypeError):
        write(ours.fileno(), [b"ab", "text"])  # type: ignore[list-item]
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


def test_as_much_is_read_as_there_is_and_has_place(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    place = bytearray(b"......")
    assert read(ours.fileno(), memoryview(place)) == 0, "it does not wait"
    theirs.sendall(b"abcdefgh")
    assert read(ours.fileno(), memoryview(place)[1:1]) == 0
    assert read(ours.fileno(), memoryview(place)[1:]) == 5
    assert read(ours.fileno(), memoryview(place)) == 3
    assert place == b"fghcde"


def test_a_socket_that_has_ended_or_is_none_gives_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    place = memoryview(bytearray(10))
    assert read(ours.fileno(), place) == 0
    number = ours.detach()
    os.close(number)
    assert read(number, place) == 0
