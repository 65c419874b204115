"""Opening an association: every way in which a peer may fail to answer has a name, and nothing stays open."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from router.errors import AssociationAborted, AssociationRejected, DeliveryError
from router.net.dialer import DialedConnection, associate
from router.ul.association import AssociationSettings
from router.ul.pdus import AssociateRequest, ProposedContext
from tests.net.doubles import (
    CT,
    EXPLICIT,
    RELEASE_RP,
    RELEASE_RQ,
    Node,
    RawPeer,
    RecordingLog,
    abort_pdu,
    associate_ac,
    scripted_scp,
)
from tests.support.ports import free_port

REQUEST = AssociateRequest(called_ae="ROUTER", calling_ae="US", contexts=(ProposedContext(1, CT, (EXPLICIT,)),))
QUICK = AssociationSettings(acse_timeout=0.2, release_timeout=0.2, artim_timeout=0.2, idle_timeout=None)


async def dial(port: int, *, host: str = "127.0.0.1", **more: Any) -> DialedConnection:
    arguments = {"settings": QUICK, "connect_timeout": 5.0, "log": RecordingLog()} | more
    return await associate(host, port, REQUEST, **arguments)


async def test_an_association_is_opened_and_released() -> None:
    async with Node() as node:
        connection = await dial(node.port)
        assert connection.alive
        assert connection.accept.contexts[0].result == 0
        connection.release()
        await connection.closed
        assert connection.ended
        assert connection.error is None
        await node.settled()


async def test_case_107_nobody_listens() -> None:
    with pytest.raises(DeliveryError, match="cannot connect") as caught:
        await dial(free_port())
    assert caught.value.temporary


async def test_case_107_connecting_has_its_own_time_limit() -> None:
    # A full backlog: the kernel drops the SYN, as a black hole would.
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(DeliveryError, match="timed out"):
                await dial(deaf.getsockname()[1], connect_timeout=0.2)
            assert loop.time() - began < 3
        finally:
            for filler in fillers:
                filler.close()


async def test_case_107_several_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node() as node:
        loop = asyncio.get_running_loop()

        class Resolver:
            """The running loop, but for what names mean."""

            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

            async def getaddrinfo(self, host: str, port: int, **how: Any) -> list[Any]:
                assert host == "archive.example"
                return [
                    (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                    for address in ("127.0.0.2", "127.0.0.1", "127.0.0.1")
                ]

        monkeypatch.setattr("router.net.dialer.asyncio.get_running_loop", Resolver)
        connection = await dial(node.port, host="archive.example")
        monkeypatch.undo()
        assert connection.address == "127.0.0.1"
        connection.abort()
        await connection.closed


async def test_case_107_an_unknown_name_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeliveryError, match="resolve") as caught:
        await dial(104, host="name.invalid")
    assert caught.value.temporary


async def test_case_93_no_answer_in_time() -> None:
    async def silent(peer: RawPeer) -> None:
        assert (await peer.pdu())[0] == 1
        assert (await peer.pdu())[0] == 7  # we abort
        assert await peer.ended()

    async with scripted_scp(silent) as port:
        with pytest.raises(AssociationAborted, match="no answer to A-ASSOCIATE-RQ"):
            await dial(port)


@pytest.mark.parametrize("numbers", [(1, 1, 7), (1, 1, 3), (2, 3, 2), (7, 7, 7)])
async def test_case_94_a_rejection_keeps_its_numbers(numbers: tuple[int, int, int]) -> None:
    async def reject(peer: RawPeer) -> None:
        await peer.pdu()
        peer.send(bytes((3, 0, 0, 0, 0, 4, 0, *numbers)))
        assert await peer.ended()

    async with scripted_scp(reject) as port:
        with pytest.raises(AssociationRejected) as caught:
            await dial(port)
    assert (caught.value.result, caught.value.source, caught.value.reason) == numbers


@pytest.mark.parametrize(
    "answer",
    [abort_pdu(0, 0), abort_pdu(2, 6), b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", RELEASE_RQ, b"\2\0\0\0\0\1\0"],
)
async def test_case_94_abort_close_and_garbage_are_aborts(answer: bytes) -> None:
    async def odd(peer: RawPeer) -> None:
        await peer.pdu()
        peer.send(answer)

    async with scripted_scp(odd) as port:
        with pytest.raises(AssociationAborted):
            await dial(port)


async def test_cancelling_leaves_nothing_open() -> None:
    met = asyncio.Event()
    gone = asyncio.Event()

    async def silent(peer: RawPeer) -> None:
        await peer.pdu()
        met.set()
        assert await peer.ended()
        gone.set()

    async with scripted_scp(silent) as port:
        dialing = asyncio.create_task(dial(port, settings=AssociationSettings()))
        await met.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await asyncio.wait_for(gone.wait(), 10)


async def test_case_104_no_release_response_costs_the_release_timeout() -> None:
    async def deaf(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        assert await peer.pdu() == RELEASE_RQ
        assert (await peer.pdu())[0] == 7
        assert await peer.ended()

    async with scripted_scp(deaf) as port:
        connection = await dial(port)
        connection.release()
        await asyncio.wait_for(connection.closed, 10)
        assert isinstance(connection.error, AssociationAborted)


async def test_case_103_a_release_collision_ends_in_order() -> None:
    async def colliding(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        assert await peer.pdu() == RELEASE_RQ
        peer.send(RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP
        peer.send(RELEASE_RP)
        assert await peer.ended()

    async with scripted_scp(colliding) as port:
        connection = await dial(port)
        connection.release()
        await asyncio.wait_for(connection.closed, 10)
        assert connection.error is None


async def test_a_release_before_anybody_uses_the_association_is_answered() -> None:
    async def hasty(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()) + RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP

    async with scripted_scp(hasty) as port:
        connection = await dial(port)
        await asyncio.wait_for(connection.closed, 10)
        assert connection.ended
        assert connection.error is None


async def test_a_peer_that_does_not_close_cannot_keep_our_socket() -> None:
    async def lingering(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        await asyncio.Event().wait()

    async with scripted_scp(lingering) as port:
        connection = await dial(port)
        connection.abort()
        connection.abort()
        await asyncio.wait_for(connection.closed, 10)
        assert isinstance(connection.error, AssociationAborted)
        with pytest.raises(AssociationAborted):
            await connection.drain()
