"""The proxy's manners, each seen from both ends: a test that stands on one must know that it is there."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Manner, Proxy


@contextlib.contextmanager
def through_a_proxy() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy, and a connection through it: its near end and its far end."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as near,
    ):
        server.settimeout(20)
        far, _ = server.accept()
        with far:
            far.settimeout(20)
            yield proxy, near, far


def exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := end.recv(size - len(data))):
        data += piece
    return data


def nothing_comes(end: socket.socket, seconds: float = 0.3) -> bool:
    end.settimeout(seconds)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(20)
    return False


def test_it_passes_both_ways_and_an_end_is_passed_on_for_its_direction_alone() -> None:
    data = bytes(range(256)) * 8000
    with through_a_proxy() as (_, near, far):
        near.sendall(data[:1000])
        assert exactly(far, 1000) == data[:1000]
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert exactly(near, 100) == b"answer"


def test_a_delay_is_one_and_does_not_add_up_or_change_the_order() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(to=Manner(delay=0.3, jitter=0.1))
        started = time.monotonic()
        for number in range(20):
            near.sendall(bytes([number]))
            time.sleep(0.01)
        assert exactly(far, 20) == bytes(range(20))
        took = time.monotonic() - started
        assert 0.3 <= took < 3
        far.sendall(b"x")
        started = time.monotonic()
        assert near.recv(1) == b"x"
        assert time.monotonic() - started < 0.3, "the other direction is not late"


def test_a_rate_holds_and_the_sender_feels_it() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(to=Manner(rate=20_000))
        started = time.monotonic()
        near.sendall(bytes(10_000))
        assert len(exactly(far, 10_000)) == 10_000
        assert 0.4 <= time.monotonic() - started < 5
        near.settimeout(0.3)
        with pytest.raises(TimeoutError):
            near.sendall(bytes(64 << 20))


def test_what_is_swallowed_is_read_and_gone_and_healing_resets() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(to=Manner(swallow=True))
        near.sendall(bytes(16 << 20))
        assert nothing_comes(far)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            near.recv(1)


def test_one_that_has_stopped_reads_nothing_and_healing_loses_nothing() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(to=Manner(stopped=True))
        near.sendall(b"first")
        assert nothing_comes(far)
        near.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:
                sent += near.send(bytes(1 << 20))
        proxy.heal()
        near.settimeout(20)
        near.shutdown(socket.SHUT_WR)
        assert exactly(far, 5) == b"first"
        rest = 0
        while piece := far.recv(1 << 20):
            rest += len(piece)
        assert rest == sent


def test_a_reset_comes_after_so_many_bytes_at_both_ends() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(to=Manner(reset_after=1000))
        near.sendall(bytes(999))
        assert len(exactly(far, 999)) == 999
        near.sendall(b"x")
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        proxy.heal()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as another:
            another.sendall(b"x")


def test_answers_are_held_back_while_requests_pass() -> None:
    with through_a_proxy() as (proxy, near, far):
        proxy.behave(back=Manner(delay=0.5))
        started = time.monotonic()
        near.sendall(b"request")
        assert exactly(far, 7) == b"request"
        assert time.monotonic() - started < 0.5
        far.sendall(b"answer")
        assert exactly(near, 6) == b"answer"
        assert time.monotonic() - started >= 0.5


def test_a_new_connection_has_the_manners_in_force() -> None:
    with through_a_proxy() as (proxy, _, _):
        proxy.behave(to=Manner(swallow=True), back=Manner(swallow=True))
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as another:
            another.sendall(bytes(1000))
            assert nothing_comes(another)
