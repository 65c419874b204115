"""Sending: what peers answer, fail to answer or answer wrongly; nothing is counted as stored that was not."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router.dimse.requestor import Outstanding, Reply
from router.errors import AssociationAborted, DeliveryError, LocalProtocolError, SpoolCorrupt
from router.model import InstanceInfo, Origin
from router.net.dialer import associate
from router.services.storage_scu import StorageScu, StoreResponse, propose
from router.services.verification import VERIFICATION_CONTEXT
from router.ul.association import AssociationSettings
from router.ul.pdus import ContextResult
from tests.net.doubles import (
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RP,
    RELEASE_RQ,
    Node,
    RawPeer,
    RecordingLog,
    abort_pdu,
    associate_ac,
    command_set,
    element,
    item,
    p_data,
    raw_element,
    scripted_scp,
)

JPEG = "1.2.840.10008.1.2.4.50"
ORIGIN = Origin(listener="l", peer="p", calling_ae="A", called_ae="B", address="127.0.0.1")
QUICK = AssociationSettings(acse_timeout=5, release_timeout=0.3, artim_timeout=0.3, idle_timeout=None)


def instance(uid: str = "1.2.3", transfer_syntax: str = EXPLICIT, **more: Any) -> InstanceInfo:
    fields: dict[str, Any] = {
        "id": 1,
        "sop_class": CT,
        "sop_instance": uid,
        "transfer_syntax": transfer_syntax,
        "origin": ORIGIN,
        "received": 0.0,
        "size": 0,
        "checksum": b"",
    }
    return InstanceInfo(**(fields | more))


class Memory:
    """A data set in memory."""

    def __init__(self, *buffers: bytes) -> None:
        self.buffers: Sequence[bytes] | None = buffers
        self.size = sum(map(len, buffers))

    def chunks(self) -> AsyncIterator[bytes]:
        raise AssertionError("it is in memory")


class Disk:
    """A data set that is read while it is sent; ``error`` comes instead of the last chunk."""

    buffers = None

    def __init__(self, size: int, chunk: int = 100_000, error: Exception | None = None) -> None:
        self.size = size
        self.chunk = chunk
        self.error = error
        self.given = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, self.size, self.chunk):
            await asyncio.sleep(0)
            last = at + self.chunk >= self.size
            if last and self.error is not None:
                raise self.error
            chunk = bytes((at // self.chunk + n) & 255 for n in range(256)) * (self.chunk // 256 + 1)
            chunk = chunk[: min(self.chunk, self.size - at)]
            self.given.update(chunk)
            yield chunk


@asynccontextmanager
async def scu_to(
    port: int,
    *,
    pairs: Sequence[tuple[str, str]] = ((CT, EXPLICIT), VERIFICATION_CONTEXT),
    async_operations: int = 1,
    response_timeout: float = 30.0,
) -> AsyncIterator[StorageScu]:
    log = RecordingLog()
    request = propose(pairs, called_ae="ROUTER", calling_ae="US", async_operations=async_operations)
    connection = await associate("127.0.0.1", port, request, QUICK, connect_timeout=5, log=log)
    scu = StorageScu(connection, response_timeout=response_timeout, log=log)
    try:
        yield scu
    finally:
        scu.abort()
        connection.close_now()
        await connection.closed
        assert scu.idle
        assert scu.closed.done()
        assert "error" not in log.levels()


# Proposing -----------------------------------------------------------------------------------------------------


def test_case_84_one_context_per_class_and_syntax() -> None:
    request = propose([(CT, JPEG), (CT, EXPLICIT), (CT, JPEG)], called_ae="PACS", calling_ae="US")
    assert [(context.id, context.abstract_syntax, context.transfer_syntaxes) for context in request.contexts] == [
        (1, CT, (JPEG,)),
        (3, CT, (EXPLICIT,)),
    ]


def test_case_85_at_most_128_contexts_with_odd_ids() -> None:
    request = propose([(f"1.2.{n}", EXPLICIT) for n in range(200)], called_ae="PACS", calling_ae="US")
    assert [context.id for context in request.contexts] == list(range(1, 256, 2))


def test_case_95_no_roles_and_no_window_unless_asked() -> None:
    plain = propose([(CT, EXPLICIT)], called_ae="PACS", calling_ae="US").user
    assert plain.roles == ()
    assert plain.async_window is None
    assert propose([(CT, EXPLICIT)], called_ae="P", calling_ae="U", async_operations=16).user.async_window == (16, 1)


# Against ourselves ---------------------------------------------------------------------------------------------


async def test_an_instance_arrives_byte_for_byte() -> None:
    async with Node() as node, scu_to(node.port) as scu:
        assert scu.accepted == {(CT, EXPLICIT): 1, VERIFICATION_CONTEXT: 3}
        data = [bytes(range(256)) * 1000, b"tail!"]
        future = scu.store(instance("1.2.3.4.5", move_originator=("MOVER", 9)), Memory(*data))
        assert await future == StoreResponse(0)
        reception = node.intake.finished[0]
        assert bytes(reception.data) == b"".join(data)
        assert reception.facts["sop_instance"] == "1.2.3.4.5"
        assert reception.facts["move_originator"] == ("MOVER", 9)
        assert scu.idle
        await scu.release()
        assert await scu.closed is None
        assert not scu.alive


async def test_an_empty_data_set_is_sent_as_one() -> None:
    async with Node() as node, scu_to(node.port) as scu:
        assert (await scu.store(instance(), Memory())).status == 0
        assert bytes(node.intake.finished[0].data) == b""


async def test_a_large_instance_is_streamed() -> None:
    async with Node() as node, scu_to(node.port) as scu:
        source = Disk(5_000_001)
        future = scu.store(instance(), source)
        assert scu.room == 0
        with pytest.raises(LocalProtocolError):
            scu.store(instance("1.2.4"), Memory(b"12"))
        with pytest.raises(LocalProtocolError):
            await scu.echo()
        assert (await future).status == 0
        assert hashlib.sha256(node.intake.finished[0].data).digest() == source.given.digest()
        assert (await scu.store(instance("1.2.4"), Memory(b"12"))).status == 0


async def test_streaming_rests_while_the_peer_does_not_read() -> None:
    async with Node() as node, scu_to(node.port) as scu:
        node.intake.congested = True
        source = Disk(64 << 20, 1 << 20)
        future = scu.store(instance(), source)
        await node.intake.until(lambda: bool(node.intake.begun and node.intake.begun[0].data))
        async with scu_to(node.port) as other:
            assert await other.echo() == 0
        node.intake.congested = False
        node.intake.begun[0].resume()
        assert (await future).status == 0
        assert hashlib.sha256(node.intake.finished[0].data).digest() == source.given.digest()


async def test_a_corrupt_record_never_reaches_its_last_fragment() -> None:
    async with Node() as node:
        async with scu_to(node.port) as scu:
            future = scu.store(instance(), Disk(1_000_000, error=SpoolCorrupt("record 7")))
            with pytest.raises(SpoolCorrupt):
                await future
            assert isinstance(await scu.closed, AssociationAborted)
        await node.settled()
        assert node.intake.discarded == 1
        assert not node.intake.finished


class Arriving:
    """A data set that is not whole yet: its pieces come when the test says so."""

    size = None
    buffers = None

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def chunks(self) -> AsyncIterator[bytes]:
        while piece := await self.pieces.get():
            yield piece


async def test_while_the_source_is_waited_for_the_peer_is_not_blamed_for_its_silence() -> None:
    async with Node() as node, scu_to(node.port, response_timeout=0.05) as scu:
        source = Arriving()
        future = scu.store(instance(), source)
        looks, look, enough = 0, scu._on_timer, asyncio.Event()

        def counted() -> None:
            nonlocal looks
            looks += 1
            if looks == 4:
                enough.set()
            look()

        scu._on_timer = counted  # type: ignore[method-assign]
        source.pieces.put_nowait(bytes(1000))
        await asyncio.wait_for(enough.wait(), 10)
        assert not future.done()
        source.pieces.put_nowait(bytes(500))
        source.pieces.put_nowait(b"")
        assert (await future).status == 0
        assert bytes(node.intake.finished[0].data) == bytes(1500)


async def test_when_the_source_has_ended_the_peers_silence_counts_again() -> None:
    async def deaf(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        await asyncio.Event().wait()

    async with scripted_scp(deaf) as port, scu_to(port, response_timeout=0.1) as scu:
        source = Arriving()
        source.pieces.put_nowait(bytes(1000))
        source.pieces.put_nowait(b"")
        with pytest.raises(AssociationAborted, match="no response in time"):
            await scu.store(instance(), source)


async def test_a_source_that_ends_early_is_our_bug_and_not_a_stored_instance() -> None:
    class Short(Disk):
        def __init__(self) -> None:
            super().__init__(1000)
            self.size = 2000

        async def chunks(self) -> AsyncIterator[bytes]:
            yield bytes(1000)

    async with Node() as node, scu_to(node.port) as scu:
        with pytest.raises(LocalProtocolError):
            await scu.store(instance(), Short())
        await node.settled()
        assert not node.intake.finished


async def test_verification() -> None:
    async with Node() as node:
        async with scu_to(node.port) as scu:
            assert await scu.echo() == 0
        async with scu_to(node.port, pairs=[(CT, EXPLICIT)]) as scu:
            with pytest.raises(DeliveryError):
                await scu.echo()


async def test_case_97_several_messages_are_outstanding_within_the_window() -> None:
    async with Node() as node, scu_to(node.port, async_operations=3) as scu:
        node.intake.answer_at_once = False
        assert scu.window == 3
        futures = [scu.store(instance(f"1.2.{n}"), Memory(bytes(100))) for n in range(3)]
        assert scu.room == 0
        with pytest.raises(LocalProtocolError):
            scu.store(instance("1.2.9"), Memory(b"12"))
        await node.intake.until(lambda: len(node.intake.finished) == 3)
        for number, reception in enumerate(node.intake.finished):
            assert reception.answer is not None
            reception.answer(number, "")
        assert [(await future).status for future in futures] == [0, 1, 2]
        assert scu.room == 3


@pytest.mark.parametrize(
    ("ours", "granted", "window"),
    [(1, None, 1), (1, (8, 8), 1), (16, None, 1), (16, (4, 1), 4), (16, (0, 0), 16), (16, (99, 1), 16)],
)
async def test_case_97_the_window_is_what_both_sides_allow(
    ours: int, granted: tuple[int, int] | None, window: int
) -> None:
    async def grant(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu(), async_window=granted))
        await peer.pdu()

    async with scripted_scp(grant) as port, scu_to(port, async_operations=ours) as scu:
        assert scu.window == window


async def test_case_86_what_was_not_proposed_needs_another_association() -> None:
    async with Node() as node, scu_to(node.port) as scu:
        with pytest.raises(DeliveryError) as caught:
            await scu.store(instance(transfer_syntax=JPEG), Memory(b"12"))
        assert not caught.value.temporary
        assert scu.alive
        assert (await scu.store(instance(), Memory(b"12"))).status == 0


async def test_case_110_the_uids_of_the_command_are_sent() -> None:
    async def show(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        command = await peer.command()
        assert raw_element(command, 0x0002) == CT.encode() + b"\0"
        assert raw_element(command, 0x1000) == b"1.2.33"
        assert element(command, 0x0700) == 0
        assert element(command, 0x0800) != 0x0101

    async with scripted_scp(show) as port, scu_to(port) as scu:
        future = scu.store(instance("1.2.33"), Memory(bytes(10_000)))
        with pytest.raises(AssociationAborted):
            await future


async def test_a_small_message_is_one_segment_and_a_large_one_fits_the_peers_limit() -> None:
    sizes: list[int] = []

    async def small_pdus(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu(), max_length=4096))
        received = 0
        while received < 50_001:
            pdu = await peer.pdu()
            sizes.append(len(pdu) - 6)
            if not pdu[11] & 1:
                received += len(pdu) - 12
        assert pdu[11] == 2
        peer.send(p_data(1, 3, response(1)))
        await peer.pdu()

    async with scripted_scp(small_pdus) as port, scu_to(port) as scu:
        assert (await scu.store(instance(), Memory(bytes(50_001)))).status == 0
    assert max(sizes) <= 4096
    assert all(size % 2 == 0 for size in sizes[:-1])


# Peers that answer oddly ---------------------------------------------------------------------------------------


def response(message_id: int = 1, status: int | None = 0, **more: Any) -> bytes:
    elements: dict[str, Any] = {"e0002": CT, "e0100": 0x8001, "e0120": message_id, "e0800": 0x0101, "e1000": "1.2.3"}
    if status is not None:
        elements["e0900"] = status
    return command_set(**(elements | more))


def answering(answer: bytes, *, then: Callable[[RawPeer], Awaitable[Any]] | None = None) -> Any:
    """A peer that takes one C-STORE-RQ of a small data set and sends ``answer``."""

    async def script(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        assert element(await peer.command(), 0x0100) == 1
        assert (await peer.pdu())[11] == 2
        if answer:
            peer.send(answer)
        if then is not None:
            await then(peer)

    return scripted_scp(script)


@pytest.mark.parametrize("status", [0, 0xB000, 0x0111, 0xA700, 0xC000, 0xFF00, 0x1234])
async def test_a_status_is_handed_on_as_it_is(status: int) -> None:
    async with answering(p_data(1, 3, response(status=status, e0902=b"why "))) as port, scu_to(port) as scu:
        assert await scu.store(instance(), Memory(b"12")) == StoreResponse(status, "why")


@pytest.mark.parametrize(
    "answer",
    [
        command_set(e0100=0x8001, e0120=1, e0800=0x0101, e0900=0),  # no UIDs
        response()[12:],  # no group length
        response(e1000="9.9.9"),  # another SOP instance: the message id is what matches
    ],
)
async def test_case_99_sloppy_responses_count(answer: bytes) -> None:
    async with answering(p_data(1, 3, answer)) as port, scu_to(port) as scu:
        assert (await scu.store(instance(), Memory(b"12"))).status == 0


@pytest.mark.parametrize(
    "answer",
    [
        p_data(1, 3, response(2)),  # wrong message id
        p_data(3, 3, response()),  # wrong context
        p_data(5, 3, response()),  # a context that was not accepted
        p_data(1, 3, response(e0100=0x8030)),  # C-ECHO-RSP to a C-STORE
        p_data(1, 3, response(status=None)),  # case 100
        p_data(1, 3, command_set(e0100=0x0001, e0110=1, e0800=0x0101)),  # a request
        p_data(1, 3, b"junk"),
        b"\4\0\xff\xff\xff\xff",
    ],
)
async def test_case_98_100_a_response_that_does_not_match_is_never_success(answer: bytes) -> None:
    async def aborted(peer: RawPeer) -> None:
        assert (await peer.pdu())[0] == 7

    async with answering(answer, then=aborted) as port, scu_to(port) as scu:
        with pytest.raises(AssociationAborted):
            await scu.store(instance(), Memory(b"12"))
        assert not scu.alive


async def test_case_98_a_second_response_ends_the_association_but_not_what_was_stored() -> None:
    async with answering(p_data(1, 3, response()) * 2) as port, scu_to(port) as scu:
        assert (await scu.store(instance(), Memory(b"12"))).status == 0
        assert isinstance(await scu.closed, AssociationAborted)


@pytest.mark.parametrize("status", [0x0000, 0xB000])
async def test_success_before_the_whole_message_was_sent_is_none(status: int) -> None:
    """The peer cannot have what it says it has."""

    async def early(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        assert (await peer.pdu())[0] == 4  # the command
        peer.send(p_data(1, 3, response(status=status)))
        while (await peer.pdu())[0] != 7:
            pass

    async with scripted_scp(early) as port, scu_to(port) as scu:
        source = Arriving()
        source.pieces.put_nowait(bytes(1000))
        with pytest.raises(AssociationAborted, match="before the message was sent"):
            await scu.store(instance(), source)
        assert not scu.alive


@pytest.mark.parametrize("status", [0xA700, 0x0111])
async def test_a_refusal_before_the_whole_message_was_sent_counts(status: int) -> None:
    """The command alone may be enough to refuse, and to know the SOP instance already."""

    async def early(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        assert (await peer.pdu())[0] == 4
        peer.send(p_data(1, 3, response(status=status)))
        await asyncio.Event().wait()

    async with scripted_scp(early) as port, scu_to(port) as scu:
        source = Arriving()
        source.pieces.put_nowait(bytes(1000))
        assert (await scu.store(instance(), source)).status == status


@pytest.mark.parametrize("ending", [abort_pdu(0, 0), abort_pdu(2, 6), b""])
async def test_case_101_an_end_instead_of_a_response_leaves_it_unknown(ending: bytes) -> None:
    async with answering(ending) as port, scu_to(port) as scu:
        with pytest.raises(AssociationAborted):
            await scu.store(instance(), Memory(b"12"))
        with pytest.raises(AssociationAborted):
            await scu.store(instance("1.2.4"), Memory(b"12"))
        with pytest.raises(AssociationAborted):
            await scu.echo()


async def test_case_101_silence_instead_of_a_response_ends_in_time() -> None:
    async def aborted(peer: RawPeer) -> None:
        assert await peer.pdu() == abort_pdu(0, 0)

    async with answering(b"", then=aborted) as port, scu_to(port, response_timeout=0.2) as scu:
        with pytest.raises(AssociationAborted, match="no response in time"):
            await scu.store(instance(), Memory(b"12"))


async def test_case_102_a_release_request_instead_of_a_response_leaves_it_unknown() -> None:
    async def released(peer: RawPeer) -> None:
        assert await peer.pdu() == RELEASE_RP

    async with answering(RELEASE_RQ, then=released) as port, scu_to(port) as scu:
        with pytest.raises(AssociationAborted, match="released by the peer"):
            await scu.store(instance(), Memory(b"12"))
        assert await scu.closed is None


async def test_case_105_a_peer_that_stops_reading_within_a_message_is_aborted() -> None:
    async def deaf(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        await asyncio.Event().wait()

    async with scripted_scp(deaf) as port, scu_to(port, response_timeout=0.3) as scu:
        future = scu.store(instance(), Disk(200 << 20, 1 << 20))
        with pytest.raises(AssociationAborted, match="no response in time"):
            await future
        assert scu.room == 0
        await asyncio.wait_for(scu.connection.closed, 10)


async def test_case_106_a_peer_may_close_between_instances() -> None:
    async with answering(p_data(1, 3, response())) as port, scu_to(port) as scu:
        assert (await scu.store(instance(), Memory(b"12"))).status == 0
        assert isinstance(await scu.closed, AssociationAborted)
        assert not scu.alive
        assert scu.room == 0


@pytest.mark.parametrize("ending", ["silent", "close"])
async def test_case_104_a_failed_release_is_no_failed_delivery(ending: str) -> None:
    async def badly(peer: RawPeer) -> None:
        assert await peer.pdu() == RELEASE_RQ
        if ending == "silent":
            await peer.pdu()

    async with answering(p_data(1, 3, response()), then=badly) as port, scu_to(port) as scu:
        assert (await scu.store(instance(), Memory(b"12"))).status == 0
        await asyncio.wait_for(scu.release(), 10)


async def test_releasing_with_something_outstanding_aborts() -> None:
    async def aborted(peer: RawPeer) -> None:
        assert (await peer.pdu())[0] == 7

    async with answering(b"", then=aborted) as port, scu_to(port) as scu:
        future = scu.store(instance(), Memory(b"12"))
        await scu.release()
        with pytest.raises(AssociationAborted):
            await future


async def test_a_cancelled_future_drops_its_response_and_nothing_else() -> None:
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def late(peer: RawPeer) -> None:
        arrived.set()
        await go_on.wait()
        peer.send(p_data(1, 3, response()))
        await peer.command()
        await peer.pdu()
        peer.send(p_data(1, 3, response(2)))
        await peer.pdu()

    async with answering(b"", then=late) as port, scu_to(port) as scu:
        first = scu.store(instance(), Memory(b"12"))
        await arrived.wait()
        first.cancel()
        go_on.set()
        while scu.room == 0:
            await asyncio.sleep(0)
        assert (await scu.store(instance(), Memory(b"12"))).status == 0


async def test_case_96_message_ids_differ_and_wrap() -> None:
    seen: list[int] = []

    async def count(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        for _ in range(4):
            message_id = element(await peer.command(), 0x0110)
            seen.append(message_id)
            await peer.pdu()
            peer.send(p_data(1, 3, response(message_id)))
        await peer.pdu()

    async with scripted_scp(count) as port, scu_to(port) as scu:
        for _ in range(2):
            await scu.store(instance(), Memory(b"12"))
        scu.outstanding = Outstanding(1, last_id=65534)
        for _ in range(2):
            await scu.store(instance(), Memory(b"12"))
    assert seen == [1, 2, 65535, 1]


# Peers that accept oddly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "usable"),
    [
        ({"results": {1: (4, "omitted"), 3: (0, IMPLICIT)}}, False),  # case 87
        ({"results": {1: (3, ""), 3: (0, IMPLICIT)}}, False),
        ({"results": {3: (0, IMPLICIT)}}, False),  # case 88: missing is rejected
        ({"extra_contexts": (ContextResult(99, 0, EXPLICIT),)}, True),  # case 88: extra is ignored
        ({"results": {1: (0, JPEG), 3: (0, IMPLICIT)}}, False),  # case 89: not proposed
        ({"results": {1: (0, EXPLICIT + "\0"), 3: (0, IMPLICIT)}}, True),  # case 90
        ({"max_length": None}, True),  # case 91
        ({"extra_user_items": item(0x77, b"what")}, True),  # case 91
        ({"results": {1: (3, ""), 3: (3, "")}}, False),  # case 92
    ],
)
async def test_case_87_to_92_odd_acceptances(accept: dict[str, Any], usable: bool) -> None:
    async def odd(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu(), **accept))
        pdu = await peer.pdu()
        if pdu and pdu[0] == 4:
            await peer.pdu()
            peer.send(p_data(1, 3, response()))
            pdu = await peer.pdu()
        assert pdu == RELEASE_RQ
        peer.send(RELEASE_RP)

    async with scripted_scp(odd) as port, scu_to(port) as scu:
        assert ((CT, EXPLICIT) in scu.accepted) is usable
        if usable:
            assert (await scu.store(instance(), Memory(bytes(5000)))).status == 0
        else:
            with pytest.raises(DeliveryError):
                await scu.store(instance(), Memory(b"12"))
        await scu.release()
        assert await scu.closed is None


async def test_case_30_a_peer_whose_limit_leaves_no_room_cannot_be_sent_to() -> None:
    async def tiny(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu(), max_length=7))
        await peer.pdu()

    async with scripted_scp(tiny) as port, scu_to(port) as scu:
        with pytest.raises(DeliveryError):
            await scu.store(instance(), Memory(b"12"))
        assert not scu.alive


async def test_an_association_that_ended_before_it_was_used() -> None:
    async def hasty(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()) + abort_pdu(0, 0))

    log = RecordingLog()
    async with scripted_scp(hasty) as port:
        request = propose([(CT, EXPLICIT)], called_ae="R", calling_ae="U")
        connection = await associate("127.0.0.1", port, request, QUICK, connect_timeout=5, log=log)
        await connection.closed
        scu = StorageScu(connection, log=log)
        assert isinstance(await scu.closed, AssociationAborted)
        with pytest.raises(AssociationAborted):
            await scu.store(instance(), Memory(b"12"))


# Replies -------------------------------------------------------------------------------------------------------


async def test_a_reply_calls_back_at_once() -> None:
    reply, heard = Reply(asyncio.get_running_loop()), []
    reply.add_done_callback(lambda answered: heard.append(answered.result().status))
    assert not reply.done()
    reply.set_result(StoreResponse(0xB000))
    assert heard == [0xB000]
    assert (reply.done(), reply.cancelled(), reply.exception()) == (True, False, None)


async def test_a_reply_that_is_there_already_calls_back_in_the_next_turn() -> None:
    reply, heard = Reply(asyncio.get_running_loop()), []
    reply.set_exception(DeliveryError("no way"))
    reply.add_done_callback(lambda answered: heard.append(answered.exception()))
    assert heard == []
    await asyncio.sleep(0)
    assert [type(error) for error in heard] == [DeliveryError]
    with pytest.raises(DeliveryError):
        reply.result()


async def test_a_fault_of_a_callback_is_the_loops_to_tell() -> None:
    loop, told = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: told.append(type(context["exception"])))
    reply = Reply(loop)

    def faulty(answered: Reply) -> None:
        raise KeyError("a fault of ours")

    reply.add_done_callback(faulty)
    reply.set_result(StoreResponse(0))
    assert told == [KeyError]


async def test_a_release_never_stands_within_a_message_that_was_refused_early() -> None:
    came = bytearray()

    async def refuses_early(peer: RawPeer) -> None:
        peer.send(associate_ac(await peer.pdu()))
        await peer.pdu()
        peer.send(p_data(1, 3, response(status=0xA700)))
        while data := await peer.reader.read(65536):
            came.extend(data)

    class Waits:
        buffers, size = None, 3_000_000

        async def chunks(self) -> AsyncIterator[bytes]:
            yield bytes(1_000_000 - 7)  # in the middle of a P-DATA-TF
            await asyncio.Event().wait()

    async with scripted_scp(refuses_early) as port, scu_to(port) as scu:
        answer = await scu.store(instance(size=3_000_000), Waits())
        assert answer.status == 0xA700
        assert scu.idle
        async with asyncio.timeout(5):
            await scu.release()
    assert not came.endswith(RELEASE_RQ)
