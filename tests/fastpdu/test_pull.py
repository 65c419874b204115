"""A data set that is read from its socket straight to where it is kept is the one that would have been copied there,
and everything around it is given in the same order."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from router._blocks import BLOCK_SIZE, Gatherer
from router._fastpdu import DataTaken, PduReader
from router.errors import DatasetError
from router.model import Status
from tests.fastpdu.test_pdu_reader import RELEASE_RQ, cut, joined
from tests.support import plain_pdu
from tests.support.plain_pdu import p_data


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which never waits, and the peer's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


class Pulling:
    """What a connection does with its socket: a glance by the loop, the rest by ``pull``."""

    def __init__(self, gatherer: Gatherer, *, max_pdu: int = 131072, glance: int = 8, most: int = 1 << 20) -> None:
        self.reader = PduReader(max_pdu, 60)
        self.gatherer = gatherer
        self.glance = glance
        self.most = most
        self.found: list[Any] = []
        """Items, with bytes in the place of positions; of what was diverted (as many x, last)."""
        self.pulled = 0
        self.reader.divert(1, gatherer.write, gatherer.read)

    def feed(self, data: memoryview) -> None:
        self.reader.begin(data)
        while (item := self.reader.next()) is not None:
            if isinstance(item, DataTaken):
                assert item.fault is None
                self.found.append((b"x" * item.size, item.last))
            elif item[0] == 4:
                self.found.append((4, *item[1:3], bytes(data[item[3] : item[4]]), item[5]))
            else:
                self.found.append(item if item[0] else (0, item[1].reason))

    def read(self, ours: socket.socket) -> None:
        """All that there is."""
        while True:
            try:
                data = ours.recv(self.glance)
            except BlockingIOError:
                return
            if not data:
                return
            self.feed(memoryview(data))
            if self.reader.pulls:
                size, behind = self.reader.pull(ours.fileno(), self.most)
                self.pulled += size
                if size:
                    self.feed(memoryview(behind))


def through(stream: bytes, pieces: list[bytes], pulling: Pulling) -> bytes:
    """What was gathered of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        for piece in pieces:
            theirs.sendall(piece)
            pulling.read(ours)
    return b"".join(bytes(buffer) for buffer in pulling.gatherer.take())


fragments = st.tuples(st.sampled_from([1, 1, 1, 1, 3]), st.sampled_from([0, 0, 0, 2, 1, 3, 4]), st.binary(max_size=40))


@st.composite
def data_streams(draw: st.DrawFn) -> bytes:
    """P-DATA-TFs of one PDV and of several, among other PDUs, with an occasional wrong byte."""
    stream = bytearray()
    for kind in draw(st.lists(st.sampled_from([4, 4, 4, 4, 5]), max_size=8)):
        if kind == 4:
            body = b"".join(
                struct.pack(">IBB", len(data) + 2, context, control) + data
                for context, control, data in draw(st.lists(fragments, min_size=1, max_size=2))
            )
        else:
            body = bytes(4)
        stream += struct.pack(">BBI", kind, 0, len(body)) + body
    if stream and draw(st.booleans()):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream)


@settings(max_examples=1000, deadline=None)
@given(
    stream=data_streams(),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    glance=st.integers(1, 30),
    most=st.integers(1, 100),
)
def test_everything_is_given_as_if_it_had_been_read_by_the_loop(
    stream: bytes, cuts: list[int], glance: int, most: int
) -> None:
    pieces = [piece for piece in cut(stream, cuts) if piece]
    expected: list[Any] = []
    data = b""
    done = False
    plain = plain_pdu.PduReader(100, 60)
    for item in plain.feed(stream):
        if not done and item[0] == 4 and item[1] == 1 and not item[2] & 1:
            done = bool(item[5] and item[2] & 2)
            data += stream[item[3] : item[4]]
            expected.append((b"x" * (item[4] - item[3]), done))
        elif item[0] == 4:
            expected.append((4, *item[1:3], stream[item[3] : item[4]], item[5]))
        else:
            expected.append(item if item[0] else (0, item[1].reason))
    pulling = Pulling(Gatherer(), max_pdu=100, glance=glance, most=most)
    assert through(stream, pieces, pulling) == data
    assert merged(joined(pulling.found)) == merged(joined(expected))


def merged(items: list[Any]) -> list[Any]:
    """Pieces of one PDV as one."""
    out: list[Any] = []
    for item in items:
        if item[0] == 4 and out and out[-1][0] == 4 and not out[-1][4]:
            item = (*item[:3], out.pop()[3] + item[3], item[4])
        out.append(item)
    return out


def test_a_large_data_set_passes_through_no_buffer(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.setblocking(False)
    data = bytes(range(256)) * 2000
    pieces = [p_data(1, 0, data[start : start + 131000]) for start in range(0, len(data), 131000)]
    stream = memoryview(b"".join(pieces) + p_data(1, 2, b"end") + RELEASE_RQ)
    seen = bytearray()
    pulling = Pulling(Gatherer(look=seen.extend), glance=512)
    while stream:
        try:
            stream = stream[theirs.send(stream) :]
        except BlockingIOError:
            pulling.read(ours)
    pulling.read(ours)
    kept = pulling.gatherer.take()
    assert b"".join(bytes(buffer) for buffer in kept) == bytes(seen) == data + b"end"
    assert pulling.gatherer.end() == xxhash.xxh3_128_digest(bytes(seen))
    assert all(len(buffer) == BLOCK_SIZE for buffer in kept[:-1])
    assert pulling.pulled > 0.9 * len(data)
    assert pulling.found[-1] == (5, bytes(4))
    assert joined(pulling.found[:-1]) == [(b"x" * (len(data) + 3), True)]


def test_a_mistake_in_the_data_set_is_remembered_and_the_rest_is_dropped() -> None:
    def look(data: Any) -> None:
        if b"wrong" in bytes(data):
            raise DatasetError(Status.CANNOT_UNDERSTAND, "wrong")

    stream = p_data(1, 0, b"begun") + p_data(1, 0, b"is wrong") + p_data(1, 2, b"more") + RELEASE_RQ
    pulling = Pulling(Gatherer(look=look), glance=13)
    assert through(stream, [stream], pulling) == b""
    assert str(pulling.gatherer.error) == str(DatasetError(Status.CANNOT_UNDERSTAND, "wrong"))
    assert [item[-1] for item in joined(pulling.found)] == [True, bytes(4)], "its end is told"
    assert pulling.gatherer.held == 0


def test_what_is_beyond_the_memory_of_an_object_is_read_straight_too() -> None:
    passed: list[Any] = []
    stream = b"".join(p_data(1, control, bytes([65 + control]) * BLOCK_SIZE) for control in (0, 0, 2))
    gatherer = Gatherer(beyond=lambda: passed.extend(gatherer.full()), most=BLOCK_SIZE + 400)
    pulling = Pulling(gatherer, max_pdu=2 * BLOCK_SIZE, glance=50)
    rest = through(stream, [stream], pulling)
    assert b"".join(passed) + rest == b"A" * 2 * BLOCK_SIZE + b"C" * BLOCK_SIZE
    assert all(len(block) == BLOCK_SIZE for block in passed)
    assert pulling.pulled > 2.9 * BLOCK_SIZE


@pytest.mark.parametrize("why", ["dropped", "dropped when too large", "mistaken"])
def test_a_data_set_that_cannot_be_read_straight_is_not_tried_again(why: str) -> None:
    """Else the loop would take glances at all of a large object."""

    def look(data: Any) -> None:
        if why == "mistaken":
            raise DatasetError(Status.CANNOT_UNDERSTAND, "wrong")

    most = 5 if why == "dropped when too large" else 1000
    gatherer = Gatherer(look=look, beyond=lambda: gatherer.drop(), most=most)
    if why == "dropped":
        gatherer.drop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = PduReader(16384)
        reader.divert(1, gatherer.write, gatherer.read)
        reader.begin(memoryview(p_data(1, 2, bytes(100))[:20]))
        while reader.next() is not None:
            pass
        assert reader.pulls
        theirs.sendall(bytes(10))
        assert reader.pull(ours.fileno(), 1000) == (0, b"")
        assert not reader.pulls


@pytest.mark.parametrize("ending", ["nothing there", "closed"])
def test_nothing_is_read_where_nothing_is(ends: tuple[socket.socket, socket.socket], ending: str) -> None:
    ours, theirs = ends
    gatherer = Gatherer()
    if ending == "closed":
        theirs.close()
    ahead = bytearray(12)
    assert gatherer.read(ours.fileno(), 100, ahead) == 0
    assert (gatherer.size, gatherer.held, gatherer.take(), ahead) == (0, 0, [], bytes(12))


def test_a_descriptor_that_is_none_reads_nothing() -> None:
    assert Gatherer().read(-1, 100, None) == 0


def test_a_fault_of_who_reads_is_told_and_ends_the_diversion() -> None:
    def faulty(descriptor: int, left: int, ahead: bytearray | None) -> int:
        raise KeyError("a fault of ours")

    reader = PduReader(16384)
    reader.divert(1, lambda fragment: None, faulty)
    reader.begin(memoryview(p_data(1, 2, b"data")[:14]))
    taken = reader.next()
    assert isinstance(taken, DataTaken)
    assert taken.size == 2
    assert reader.next() is None
    assert reader.pulls
    assert reader.pull(0, 100) == (0, b"")
    reader.begin(memoryview(b"ta"))
    told = reader.next()
    assert isinstance(told, DataTaken)
    assert isinstance(told.fault, KeyError)
    assert reader.next() == (4, 1, 2, 0, 2, True)


def test_a_fault_of_who_looks_at_what_was_read_is_told_behind_it_and_framing_goes_on(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    def faulty() -> None:
        raise KeyError("a fault of ours")

    ours, theirs = ends
    gatherer = Gatherer(beyond=faulty, most=30)
    reader = PduReader(16384, 60)
    reader.divert(1, gatherer.write, gatherer.read)
    theirs.sendall(bytes(35) + p_data(1, 2, b"more") + RELEASE_RQ)
    reader.begin(memoryview(p_data(1, 0, bytes(40))[:17]))
    found: list[Any] = []
    for more in (lambda: reader.pull(ours.fileno(), 1000)[1], lambda: ours.recv(1000), lambda: b""):
        while (item := reader.next()) is not None:
            found.append((item.size, repr(item.fault)) if isinstance(item, DataTaken) else item)
        reader.begin(memoryview(more()))
    none, fault = repr(None), repr(KeyError("a fault of ours"))
    assert found == [(5, none), (35, fault), (4, 1, 2, 0, 4, True), (5, bytes(4))], "told with the next fragment"


def test_a_fault_at_the_last_byte_is_told_to_who_takes_what_was_gathered(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    def faulty(data: Any) -> None:
        raise KeyError("a fault of ours")

    ours, theirs = ends
    gatherer = Gatherer(faulty)
    theirs.sendall(bytes(10))
    assert gatherer.read(ours.fileno(), 10, None) == 10
    assert gatherer.held == 0
    with pytest.raises(KeyError):
        gatherer.take()
    assert gatherer.take() == []
