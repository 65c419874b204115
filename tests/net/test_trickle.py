"""Slow senders cost the loop a few reads, and nothing that they send is ever waited for in vain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._fastpdu import PduReader
from router.net.listener import AcceptedConnection
from router.net.trickle import LOW_WATER, PATIENCE, SMALL, LowWater, TlsRecords
from tests.net.doubles import RELEASE_RP, RELEASE_RQ, Node, associate_rq, p_data, store


class Arriving:
    """A socket's receive buffer, readable from its low-water mark on."""

    def __init__(self) -> None:
        self.waiting = b""
        self.mark = 1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        assert 1 <= value <= LOW_WATER
        self.mark = value

    def read(self) -> bytes:
        if len(self.waiting) < self.mark:
            return b""
        data, self.waiting = self.waiting, b""
        return data


def arrive(stream: bytes, sizes: list[int], missing: Callable[[bytes], int]) -> int:
    """The stream comes in pieces of these sizes, again and again. Gives how often it was read; all of it was."""
    arriving: Any = Arriving()
    low_water, reads, position = LowWater(), 0, 0
    while position < len(stream):
        size = sizes[position % len(sizes)]
        arriving.waiting += stream[position : position + size]
        position += size
        if data := arriving.read():
            reads += 1
            low_water.after_read(arriving, len(data), missing(data))
    assert not arriving.waiting, "the end of the stream is waited for in vain"
    return reads


def pdus() -> Callable[[bytes], int]:
    reader = PduReader(16384)

    def missing(data: bytes) -> int:
        reader.feed(data)
        return reader.missing

    return missing


def records() -> Callable[[bytes], int]:
    tracker = TlsRecords()

    def missing(data: bytes) -> int:
        tracker.feed(memoryview(data))
        return tracker.missing

    return missing


def record(size: int) -> bytes:
    return b"\x16\x03\x01" + size.to_bytes(2, "big") + bytes(size)


SIZES = st.lists(st.integers(1, 3) | st.integers(1, 700), min_size=1, max_size=8)


@given(lengths=st.lists(st.integers(0, 600), min_size=1, max_size=6), sizes=SIZES)
def test_no_pdu_is_waited_for_in_vain(lengths: list[int], sizes: list[int]) -> None:
    arrive(b"".join(p_data(1, 2, bytes(length)) for length in lengths), sizes, pdus())


@given(lengths=st.lists(st.integers(0, 600), min_size=1, max_size=6), sizes=SIZES)
def test_no_tls_record_is_waited_for_in_vain(lengths: list[int], sizes: list[int]) -> None:
    arrive(b"".join(map(record, lengths)), sizes, records())


@pytest.mark.parametrize(("stream", "missing"), [(p_data(1, 2, bytes(4000)), pdus), (record(4000), records)])
def test_what_comes_byte_by_byte_is_read_in_pieces(stream: bytes, missing: Callable[[], Any]) -> None:
    assert arrive(stream, [1], missing()) <= PATIENCE + 4 + len(stream) / LOW_WATER


def test_a_peer_that_is_not_slow_is_read_as_it_comes() -> None:
    """A header in a write of its own, as some toolkits send it, is no trickle."""
    low_water = LowWater()
    sock: Any = Arriving()
    for _ in range(10):
        low_water.after_read(sock, 12, 70)
        low_water.after_read(sock, SMALL + 6, 0)
        assert sock.mark == 1


def test_a_peer_that_hurries_again_is_read_as_it_comes_again() -> None:
    low_water = LowWater()
    sock: Any = Arriving()
    for _ in range(PATIENCE + 1):
        low_water.after_read(sock, 1, 1000)
    assert sock.mark == LOW_WATER
    low_water.after_read(sock, LOW_WATER + SMALL, 1000)
    assert sock.mark == 1


async def test_a_slow_sender_is_served_and_costs_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    updated = AcceptedConnection.buffer_updated

    def counted(self: AcceptedConnection, nbytes: int) -> None:
        nonlocal reads
        reads += 1
        updated(self, nbytes)

    monkeypatch.setattr(AcceptedConnection, "buffer_updated", counted)
    data = b"\x08\x00\x60\x00CS\x02\x00CT" * 60
    conversation = associate_rq() + store(data, 1) + RELEASE_RQ
    async with Node() as node, node.peer(associated=False) as peer:
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(len(conversation)):
            peer.send(conversation[start : start + 1])
            await asyncio.sleep(0)
        assert (await peer.pdu())[0] == 2
        assert await peer.status() == 0
        assert await peer.pdu() == RELEASE_RP
        assert [bytes(reception.data) for reception in node.intake.finished] == [data]
    assert reads < len(conversation) / 10
