"""A listener on a real socket: places are given back on every path, and draining loses nothing that was begun."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
import tracemalloc
from dataclasses import replace

import pytest

from router.errors import RouterError
from router.model import Peer
from tests.net.doubles import (
    LISTENER,
    RELEASE_RP,
    RELEASE_RQ,
    Node,
    abort_pdu,
    associate_rq,
    echo_rq,
    p_data,
    store,
    store_rq,
)


async def test_port_0_gives_a_real_port() -> None:
    async with Node() as node:
        assert node.port > 0
        assert node.server.listening
    assert not node.server.listening


async def test_a_taken_address_is_an_error_that_says_so() -> None:
    async with Node() as node:
        with pytest.raises(RouterError, match="cannot listen on 127"):
            await Node(replace(LISTENER, port=node.port)).server.start()


async def test_an_association_from_request_to_release() -> None:
    async with Node() as node, node.peer() as peer:
        assert node.gate.associations == node.metrics.open == 1
        peer.send(p_data(1, 3, echo_rq()))
        assert await peer.status() == 0
        peer.send(RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP
        # The place is free before the peer has closed (PS3.8 AR-4: the requestor closes).
        assert node.gate.associations == 0
        await peer.close()
        await node.settled()
        assert node.log.levels() == {"info"}


async def test_a_peer_that_resets_before_it_is_accepted_leaves_nothing_behind() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    known = Peer(name="ct", ae_title="CT", addresses=("127.0.0.0/8",))
    async with Node(replace(LISTENER, accept="known"), peers=[known]) as node:
        for _ in range(5):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                probe.connect(("127.0.0.1", node.port))
        async with node.peer(calling="CT"):  # behind them in the queue
            pass
        await node.settled(2)
        assert not node.metrics.refused
    assert not faults


async def test_case_6_a_silent_socket_is_closed_in_time() -> None:
    async with Node(handshake_timeout=0.1, artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        assert await peer.ended()
        await node.settled()


@pytest.mark.parametrize("cut", [1, 5, 6, 40])
async def test_case_6_half_a_request_is_closed_in_time(cut: int) -> None:
    async with Node(handshake_timeout=0.1, artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        peer.send(associate_rq()[:cut])
        assert await peer.ended()
        await node.settled()


async def test_case_6_bytes_do_not_extend_the_time_for_the_request() -> None:
    loop = asyncio.get_running_loop()
    async with Node(handshake_timeout=0.3, artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        began = loop.time()

        async def drip() -> None:
            for byte in associate_rq():
                peer.send(bytes((byte,)))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await peer.ended()
        assert loop.time() - began < 3
        dripping.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await dripping


async def test_case_7_a_load_balancers_check_is_not_an_error() -> None:
    async with Node() as node:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.close()
            await writer.wait_closed()
        async with node.peer():  # those before it have been noticed now
            pass
        await node.settled()
        assert node.log.levels() <= {"info"}
        assert not node.metrics.refused


async def test_case_49_too_many_associations_are_told_so_and_the_next_is_taken() -> None:
    async with Node(associations=2) as node:
        async with node.peer(), node.peer():
            async with node.peer(associated=False) as third:
                third.send(associate_rq())
                assert await third.pdu() == bytes.fromhex("03000000000400020302")
            assert node.metrics.refused == {"associations": 1}
        await node.settled()
        async with node.peer():
            assert node.gate.associations == 1


@pytest.mark.parametrize(
    ("fields", "answer", "label"),
    [
        ({"called": "OTHER"}, "03000000000400010107", "called_ae"),
        ({"calling": "OTHER"}, "03000000000400010103", "calling_ae"),
    ],
)
async def test_a_refusal_names_its_reason(fields: dict[str, str], answer: str, label: str) -> None:
    known = Peer(name="modality", ae_title="MODALITY", addresses=("127.0.0.0/8",))
    async with Node(replace(LISTENER, accept="known"), peers=[known]) as node:
        async with node.peer(associated=False) as peer:
            peer.send(associate_rq(**fields))  # type: ignore[arg-type]
            assert (await peer.pdu()).hex() == answer
        assert node.metrics.refused == {label: 1}
        async with node.peer():
            pass


async def test_an_unknown_address_is_closed_unheard() -> None:
    known = Peer(name="modality", ae_title="MODALITY", addresses=("192.0.2.0/24",))
    async with Node(replace(LISTENER, accept="known"), peers=[known]) as node:
        async with node.peer(associated=False) as peer:
            assert await peer.ended()
        assert node.metrics.refused == {"address": 1}


async def test_a_full_house_is_answered_as_transient() -> None:
    async with Node() as node:
        node.house.refuses = (2, 3, 1, "spool")
        async with node.peer(associated=False) as peer:
            peer.send(associate_rq())
            assert await peer.pdu() == bytes.fromhex("03000000000400020301")
        node.house.refuses = None
        async with node.peer():
            assert node.metrics.refused == {"spool": 1}


async def test_silence_does_not_use_up_the_places_of_associations() -> None:
    async with Node(handshakes=4, handshakes_per_address=4, associations=1) as node:
        async with contextlib.AsyncExitStack() as silent:
            for _ in range(4):
                await silent.enter_async_context(node.peer(associated=False))
            async with node.peer():  # beyond the handshakes of this address: soon enough with its request
                assert node.gate.associations == 1
        await node.settled()


async def test_twenty_associations_at_once_from_one_address_are_all_taken() -> None:
    async with Node(handshakes_per_address=8) as node, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(node.peer(associated=False)) for _ in range(20)]
        for peer in peers:
            peer.send(associate_rq())
        for peer in peers:
            assert (await peer.pdu())[0] == 2
        assert node.gate.associations == 20
        assert node.gate.handshakes == 0


async def test_memory_of_all_unfinished_handshakes_is_limited() -> None:
    async with Node(handshake_memory=50_000) as node, contextlib.AsyncExitStack() as stack:
        half = b"\1\0" + (1 << 20).to_bytes(4, "big") + bytes(30_000)
        first = await stack.enter_async_context(node.peer(associated=False))
        second = await stack.enter_async_context(node.peer(associated=False))
        first.send(half)
        second.send(half)
        done = await asyncio.wait(
            [asyncio.create_task(first.ended()), asyncio.create_task(second.ended())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert len(done[0]) == 1
        assert node.metrics.refused == {"handshake_memory": 1}
        await node.server.close()
        for task in done[1]:
            assert not await task  # an A-ABORT first


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes.fromhex("16030102000100"), b"\xff"])
async def test_case_4_what_is_not_dicom_gets_one_abort_and_costs_nothing(garbage: bytes) -> None:
    async with Node(artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        peer.send(garbage)
        answer = await peer.pdu()
        assert answer == b"" or answer[0] == 7
        peer.send(garbage * 100)
        assert await peer.ended()
        await node.settled()


async def test_case_8_a_claim_of_4_gigabytes_is_refused_before_its_body() -> None:
    async with Node(artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        peer.send(b"\1\0\xff\xff\xff\xff")
        assert (await peer.pdu())[0] == 7
        assert await peer.ended()


@pytest.mark.parametrize(
    ("sent", "label"),
    [
        (b"\1\0\xff\xff\xff\xff", "malformed"),
        (p_data(1, 3, echo_rq()), "malformed"),
        (RELEASE_RQ, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_dicom"),
        (b"", "handshake_timeout"),
        (b"\1\0\0\0\1\0", "handshake_timeout"),
    ],
)
async def test_a_handshake_that_is_none_is_counted_once_with_its_reason(sent: bytes, label: str) -> None:
    async with Node(artim_timeout=0.1, handshake_timeout=0.5) as node:
        async with node.peer(associated=False) as peer:
            peer.send(sent)
            while await peer.pdu():
                pass
        await node.settled()
        assert node.metrics.refused == {label: 1}


async def test_case_1_a_second_request_aborts() -> None:
    async with Node(artim_timeout=0.1) as node, node.peer() as peer:
        peer.send(associate_rq())
        assert await peer.pdu() == abort_pdu(2, 2)
        assert await peer.ended()


@pytest.mark.parametrize("first", [p_data(1, 3, echo_rq()), RELEASE_RQ, RELEASE_RP, abort_pdu(0, 0)])
async def test_case_2_3_anything_before_the_request_ends_it(first: bytes) -> None:
    async with Node(artim_timeout=0.1) as node, node.peer(associated=False) as peer:
        peer.send(first)
        answer = await peer.pdu()
        assert answer == (b"" if first[0] == 7 else abort_pdu(0, 0))
        await node.settled()


async def test_case_12_where_the_network_cuts_does_not_matter() -> None:
    conversation = associate_rq() + p_data(1, 3, echo_rq(1)) + store(b"\x08\x00\x05\x00", 2) + RELEASE_RQ
    async with Node() as node:
        for size in (1, 7, len(conversation)):
            async with node.peer(associated=False) as peer:
                for start in range(0, len(conversation), size):
                    peer.send(conversation[start : start + size])
                    await peer.writer.drain()
                    await asyncio.sleep(0)
                assert (await peer.pdu())[0] == 2
                assert [await peer.status(), await peer.status()] == [0, 0]
                assert await peer.pdu() == RELEASE_RP
        assert [bytes(reception.data) for reception in node.intake.finished] == [b"\x08\x00\x05\x00"] * 3


async def test_case_13_data_sent_before_our_answer_is_kept() -> None:
    async with Node() as node, node.peer(associated=False) as peer:
        peer.send(associate_rq() + p_data(1, 3, echo_rq()))
        assert (await peer.pdu())[0] == 2
        assert await peer.status() == 0


async def test_case_81_the_last_word_arrives_although_much_was_unread() -> None:
    async with Node(artim_timeout=0.3) as node, node.peer() as peer:
        # An error, then far more than a socket buffers: closing over it would send RST.
        peer.send(b"\xee" + bytes(8 << 20))
        assert await peer.pdu() == abort_pdu(2, 1)
        assert await peer.ended()


async def test_case_82_an_idle_association_is_aborted_in_time() -> None:
    async with Node(idle_timeout=0.1, artim_timeout=0.1) as node, node.peer() as peer:
        assert await peer.pdu() == abort_pdu(2, 0)
        assert await peer.ended()


async def test_waiting_for_our_answer_is_not_idleness() -> None:
    async with Node(idle_timeout=0.1, rate_window=0.1) as node, node.peer() as peer:
        node.intake.answer_at_once = False
        peer.send(store(b"1234"))
        await node.intake.until(lambda: bool(node.intake.finished))
        await asyncio.sleep(0.3)
        answer = node.intake.finished[0].answer
        assert answer is not None
        answer(0, "")
        assert await peer.status() == 0
        assert await peer.pdu() == abort_pdu(2, 0)  # now it is


async def test_a_message_must_make_progress() -> None:
    async with Node(idle_timeout=60.0, rate_window=0.1, artim_timeout=0.1) as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12"))
        assert await peer.pdu() == abort_pdu(2, 0)
        await node.settled()
        assert node.intake.discarded == 1


async def test_a_socket_that_we_do_not_read_is_not_called_slow() -> None:
    async with Node(rate_window=0.1, idle_timeout=0.1) as node, node.peer() as peer:
        node.intake.congested = True
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12"))
        await node.intake.until(lambda: bool(node.intake.begun and node.intake.begun[0].data))
        await asyncio.sleep(0.3)
        peer.send(p_data(3, 2, b"34"))
        node.intake.congested = False
        node.intake.begun[0].resume()
        assert await peer.status() == 0
        assert bytes(node.intake.finished[0].data) == b"1234"


async def test_congestion_stops_reading_and_loses_nothing() -> None:
    # A chunk of 64 KiB in each of 512 P-DATA-TFs: 32 MiB, more than sockets buffer.
    chunk = bytes(range(256)) * 256
    async with Node() as node, node.peer() as peer:
        node.intake.congested = True
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, chunk) * 511 + p_data(3, 2, chunk))
        await node.intake.until(lambda: bool(node.intake.begun and node.intake.begun[0].data))
        reception = node.intake.begun[0]
        async with node.peer() as other:  # others are served meanwhile
            other.send(p_data(1, 3, echo_rq()))
            assert await other.status() == 0
        assert len(reception.data) < 1 << 20
        node.intake.congested = False
        reception.resume()
        assert await peer.status() == 0
        assert len(reception.data) == 512 * len(chunk)


async def test_a_peer_that_does_not_read_its_answers_is_given_up() -> None:
    async with Node(rate_window=0.2, idle_timeout=60) as node, node.peer() as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.writer.transport.set_write_buffer_limits(high=1)

        async def flood() -> None:
            request = p_data(1, 3, echo_rq())
            with contextlib.suppress(ConnectionError):
                while not peer.writer.transport.is_closing():
                    peer.send(request * 1000)
                    await peer.writer.drain()

        flooding = asyncio.create_task(flood())
        await node.settled(20)
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding
        assert any(event == "peer does not read its answers" for _, event, _ in node.log.lines)


@pytest.mark.parametrize("ending", ["abort", "close", "reset"])
async def test_case_77_an_end_within_a_message_leaves_nothing(ending: str) -> None:
    async with Node() as node:
        async with node.peer() as peer:
            peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, bytes(1000)))
            await node.intake.until(lambda: bool(node.intake.begun and node.intake.begun[0].data))
            if ending == "abort":
                peer.send(abort_pdu(0, 0))
            elif ending == "reset":
                peer.writer.transport.abort()
        await node.settled()
        assert node.intake.discarded == 1
        assert not node.intake.finished


async def test_case_83_a_fault_of_ours_frees_socket_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node(artim_timeout=0.1) as node:

        def broken(*arguments: object) -> None:
            raise RuntimeError("canary")

        with monkeypatch.context() as patch:
            patch.setattr(node.server, "serve", broken)
            async with node.peer(associated=False) as peer:
                peer.send(associate_rq())
                assert (await peer.pdu())[0] == 7
                assert await peer.ended()
            await node.settled()
        assert "error" in node.log.levels()
        assert "canary" not in str(node.log.lines)
        async with node.peer():
            pass


async def test_two_hundred_aborted_connections_leak_no_descriptor_and_no_task() -> None:
    async with Node() as node:
        conversation = associate_rq() + p_data(3, 3, store_rq()) + p_data(3, 0, bytes(500)) + p_data(3, 2, bytes(500))
        for cut in range(0, len(conversation), max(1, len(conversation) // 200)):
            async with node.peer(associated=False) as peer:
                peer.send(conversation[:cut])
                await peer.writer.drain()
        await node.settled()
        assert node.intake.open == 0
        assert len(asyncio.all_tasks()) == 1


# Draining ------------------------------------------------------------------------------------------------------


async def test_draining_finishes_what_was_begun_and_refuses_the_new() -> None:
    async with Node() as node, node.peer() as peer:
        node.intake.answer_at_once = False
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12"))
        await node.intake.until(lambda: bool(node.intake.begun))
        draining = asyncio.create_task(node.server.close(30))
        async with node.peer(associated=False) as late:
            late.send(associate_rq())
            assert await late.pdu() == bytes.fromhex("03000000000400020301")
        peer.send(p_data(3, 2, b"34"))
        await node.intake.until(lambda: bool(node.intake.finished))
        answer = node.intake.finished[0].answer
        assert answer is not None
        answer(0, "")
        assert await peer.status() == 0
        peer.send(RELEASE_RQ)
        assert await peer.pdu() == RELEASE_RP
        await peer.close()
        await draining
        assert not node.server.listening


async def test_draining_aborts_an_idle_association_before_its_grace_is_over() -> None:
    loop = asyncio.get_running_loop()
    async with Node() as node, node.peer() as peer:
        began = loop.time()
        draining = asyncio.create_task(node.server.close(30))
        assert await peer.pdu() == abort_pdu(2, 0)
        await peer.close()
        await draining
        assert loop.time() - began < 10


async def test_closing_without_grace_aborts_at_once() -> None:
    async with Node() as node, node.peer() as peer:
        peer.send(p_data(3, 3, store_rq()) + p_data(3, 0, b"12"))
        await node.intake.until(lambda: bool(node.intake.begun))
        await node.server.close()
        assert await peer.pdu() == abort_pdu(2, 0)


# What an idle association costs ---------------------------------------------------------------------------------


async def test_an_idle_association_costs_kilobytes() -> None:
    count = 100
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 3 * count
    async with Node(associations=1000, associations_per_peer=1000) as node, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(node.peer())
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(count):
                await stack.enter_async_context(node.peer())
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Both ends are in this process; the peer's stream reader and writer are counted too.
        assert (after - before) / count < 32 << 10
        assert node.gate.associations == count + 1
