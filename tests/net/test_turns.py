"""Who answers us is heard between the reads of those who send, when much waits for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.net.dialer import DialedConnection
from router.net.turns import EVERY, Turns, turns
from router.ul.association import AssociationSettings
from tests.net.doubles import RELEASE_RQ, Node, RecordingLog, associate_ac, p_data, store_rq
from tests.net.test_dialer import REQUEST


class Looked:
    def __init__(self) -> None:
        self.times = 0

    def read_now(self) -> None:
        self.times += 1


def test_who_is_in_a_hurry_is_looked_at_with_every_fourth_read() -> None:
    several = Turns()
    first, second, calm = Looked(), Looked(), Looked()
    for one in (first, second, calm):
        several.hurry(one)
    several.hurry(first)  # twice is once
    several.calm(calm)
    for _ in range(10 * EVERY):
        several.heard()
    assert (first.times, second.times, calm.times) == (10, 10, 0)


def test_who_ends_while_others_are_looked_at_is_no_trouble() -> None:
    several = Turns()
    second = Looked()

    class Ends(Looked):
        def read_now(self) -> None:
            super().read_now()
            several.calm(self)
            several.calm(second)

    first = Ends()
    several.hurry(first)
    several.hurry(second)
    for _ in range(3 * EVERY):
        several.heard()
    assert first.times == 1
    assert second.times <= 1


@asynccontextmanager
async def dialed() -> AsyncIterator[tuple[DialedConnection, socket.socket]]:
    """An established association of ours, and the peer's end as a socket that does not go by the loop."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(5)
        settings = AssociationSettings(idle_timeout=None)
        _, connection = await loop.create_connection(
            lambda: DialedConnection(REQUEST, settings, RecordingLog(), loop), sock=ours
        )
        theirs.sendall(associate_ac(theirs.recv(65536)))
        await connection.answered
        try:
            yield connection, theirs
        finally:
            connection.close_now()
            await connection.closed


async def test_reading_now_takes_what_has_come_without_the_loop() -> None:
    async with dialed() as (connection, theirs):
        connection.read_now()
        assert connection.alive, "nothing had come"
        theirs.sendall(RELEASE_RQ[:3])
        connection.read_now()
        assert connection.alive
        theirs.sendall(RELEASE_RQ[3:])
        connection.read_now()
        assert connection.ended
        assert connection.error is None


async def test_the_end_of_the_transport_is_left_to_the_loop() -> None:
    async with dialed() as (connection, theirs):
        theirs.close()
        connection.read_now()
        assert connection.alive
        await asyncio.wait_for(connection.closed, 5)
        connection.read_now()
        assert connection.ended
        assert "connection lost" in str(connection.error)


async def test_a_sender_that_is_read_hurries_who_asked_for_it() -> None:
    looked = Looked()
    async with Node() as node, node.peer() as peer:
        turns().hurry(looked)
        try:
            for number in range(2 * EVERY):
                peer.send(p_data(3, 3, store_rq(number + 1)))
                peer.send(p_data(3, 2, b"data"))
                assert await peer.status() == 0
        finally:
            turns().calm(looked)
        assert looked.times >= 2
        before = looked.times
        peer.send(p_data(3, 3, store_rq(100)) + p_data(3, 2, b"data"))
        assert await peer.status() == 0
        assert looked.times == before


async def test_an_association_that_is_over_is_not_looked_at() -> None:
    async with dialed() as (connection, _):
        connection.hurry(True)
        assert connection in turns().hurried
        connection.hurry(False)
        assert connection not in turns().hurried
        connection.hurry(True)
    assert connection not in turns().hurried
