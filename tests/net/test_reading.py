"""Where the bytes of a data set go: small ones through the buffer of the loop, what is kept of larger ones past it, and
what is streamed in large pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from router._blocks import Gatherer
from router.net.listener import AcceptedConnection
from tests.net.doubles import GatheringIntake, GatheringReception, Node, p_data, store_rq

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
