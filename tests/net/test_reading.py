"""Where the bytes of a data set go: small ones through the buffer of the loop, what is kept of larger ones past it, and
what is streamed in large pieces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from router._blocks import Gatherer
from router._fastpdu import DataFragment
from router.net.connection import FULL_READS
from router.net.listener import AcceptedConnection
from router.services.acceptor import Acceptor
from tests.net.doubles import (
    GatheringIntake,
    GatheringReception,
    Node,
    associate_rq,
    echo_rq,
    p_data,
    store_rq,
)

KEPT = 1 << 20
"""Bytes of an object that stays in memory."""


class KeptReception(GatheringReception):
    """As the product's, with native memory."""

    def __init__(self, intake: GatheringIntake, facts: dict[str, Any], resume: Callable[[], None]) -> None:
        super().__init__(intake, facts, resume)
        self.gatherer = Gatherer(self.data.extend, self.beyond, KEPT)
        self.write = self.gatherer.write
        self.straight = 0

    def beyond(self) -> None:
        self.gatherer.full()

    def read(self, descriptor: int, left: int, ahead: bytearray | None) -> int:
        got = self.gatherer.read(descriptor, left, ahead)
        self.straight += max(0, got)
        return got


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the loop read."""
    sizes: list[int] = []
    updated = AcceptedConnection.buffer_updated

    def counted(self: AcceptedConnection, nbytes: int) -> None:
        sizes.append(nbytes)
        updated(self, nbytes)

    monkeypatch.setattr("tests.net.doubles.GatheringReception", KeptReception)
    monkeypatch.setattr(AcceptedConnection, "buffer_updated", counted)
    return sizes


async def stored(size: int, *, whole: bool = True) -> KeptReception:
    """An object of that size, in PDUs of 128 KiB, sent as fast as it goes."""
    data = bytes(range(256)) * (size // 256)
    pieces = [data[start : start + 131066] for start in range(0, size, 131066)]
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq(1)))
        for piece in pieces[:-1]:
            peer.send(p_data(3, 0, piece))
        peer.send(p_data(3, 2, pieces[-1]))
        assert await peer.status() == 0
        (reception,) = node.intake.finished
    assert isinstance(reception, KeptReception)
    assert bytes(reception.data) == data or not whole
    return reception


async def test_an_object_that_is_kept_is_read_straight_to_where_it_is_kept(reads: list[int]) -> None:
    reception = await stored(KEPT)
    assert reception.straight > KEPT / 2
    assert b"".join(bytes(buffer) for buffer in reception.gatherer.take()) == bytes(reception.data)


async def test_a_small_object_takes_no_more_than_a_read_or_two(reads: list[int]) -> None:
    reception = await stored(16384)
    assert reception.straight < 16384
    assert len(reads) <= 5


async def test_an_object_that_is_streamed_is_read_straight_too(reads: list[int]) -> None:
    reception = await stored(8 << 20)
    assert reception.straight > 7 << 20
    assert reception.gatherer.held < 64 << 10


async def test_an_object_that_is_refused_is_read_in_large_pieces(
    reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeptReception, "beyond", lambda reception: reception.gatherer.drop())
    await stored(8 << 20, whole=False)
    assert sum(reads) > 6 << 20
    assert sum(reads) / len(reads) > 64 << 10


EMPTY_PDV = b"\0\0\0\2" + bytes((3, 0))


def test_who_talks_without_a_pause_is_interrupted_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """libuv would read 32 times in a row, of bytes that take seconds in the worst case."""
    reads: list[int] = []
    """In each turn of the loop in which there were any."""
    counting = False
    updated = AcceptedConnection.buffer_updated

    def over() -> None:
        nonlocal counting
        counting = False

    def counted(self: AcceptedConnection, nbytes: int) -> None:
        nonlocal counting
        if not counting:
            counting = True
            reads.append(0)
            self.loop.call_soon(over)
        reads[-1] += 1
        updated(self, nbytes)

    monkeypatch.setattr(AcceptedConnection, "buffer_updated", counted)

    def send(peer: socket.socket) -> None:
        pdu = b"\4\0" + (20_000 * len(EMPTY_PDV)).to_bytes(4, "big") + EMPTY_PDV * 20_000
        with contextlib.suppress(OSError):  # until it is closed
            peer.sendall(p_data(3, 3, store_rq(1, sop_class="1.2.3")) + 1_000 * pdu)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        async with Node() as node:
            with socket.create_connection(("127.0.0.1", node.port)) as peer:
                peer.setblocking(False)
                await loop.sock_sendall(peer, associate_rq())
                await loop.sock_recv(peer, 65536)
                peer.setblocking(True)
                sending = loop.run_in_executor(None, send, peer)
                async with asyncio.timeout(20):
                    while sum(reads) < 20 * FULL_READS:
                        await asyncio.sleep(0)
                for connection in list(node.server.connections):
                    connection.close_now()
                await sending

    uvloop.run(talk())
    assert max(reads) == FULL_READS


async def test_what_nobody_wants_is_dropped_without_a_look_at_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    fragment = Acceptor.fragment

    def counted(self: Acceptor, piece: DataFragment) -> None:
        nonlocal looked_at
        looked_at += 1
        fragment(self, piece)

    monkeypatch.setattr(Acceptor, "fragment", counted)
    pieces = b"\4\0" + (1_000 * len(EMPTY_PDV)).to_bytes(4, "big") + EMPTY_PDV * 1_000
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq(1, sop_class="1.2.3")) + pieces + p_data(3, 2, b"rest"))
        assert await peer.status() == 0x0122
        peer.send(p_data(3, 3, store_rq(1, e0100=0x8001)) + pieces + p_data(3, 2, b"rest"))
        peer.send(p_data(1, 3, echo_rq(2)))
        assert await peer.status() == 0
    assert looked_at == 3
