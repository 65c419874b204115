"""PDUs and PDVs are found wherever the network cuts (PS3.8 §9.3)."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import _fastpdu
from router.errors import AbortReason, PeerProtocolError
from tests.support import plain_pdu
from tests.support.plain_pdu import p_data

RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x02"

Reader = _fastpdu.PduReader | plain_pdu.PduReader


@pytest.fixture(params=[_fastpdu.PduReader, plain_pdu.PduReader], ids=["native", "plain"])
def reader_class(request: pytest.FixtureRequest) -> Any:
    return request.param


def read(reader: Reader, *pieces: bytes) -> list[tuple[Any, ...]]:
    """What was read, with positions replaced by bytes and the pieces of a PDV joined."""
    found: list[tuple[Any, ...]] = []
    partial = b""
    for piece in pieces:
        for item in reader.feed(piece):
            if item[0] == 4:
                _, context, control, start, end, complete = item
                assert 0 <= start <= end <= len(piece)
                partial += piece[start:end]
                if complete:
                    found.append((4, context, control, partial))
                    partial = b""
            elif item[0] == 0:
                assert isinstance(item[1], PeerProtocolError)
                found.append((0, item[1].reason))
            else:
                found.append(item)
    if partial:
        found.append(("partial", partial))
    return found


def test_the_native_reader_is_what_the_product_uses():
    assert _fastpdu.__file__.endswith(".so")


def test_a_release_request_is_given_whole(reader_class):
    assert reader_class(16384).feed(RELEASE_RQ) == [(5, b"\x00\x00\x00\x00")]


def test_positions_point_into_the_buffer_fed(reader_class):
    stream = p_data(1, 3, b"command") + p_data(1, 2, b"data")
    assert reader_class(16384).feed(stream) == [(4, 1, 3, 12, 19, True), (4, 1, 2, 31, 35, True)]


def test_several_pdvs_in_one_pdu(reader_class):
    pdvs = struct.pack(">IBB", 5, 1, 3) + b"abc" + struct.pack(">IBB", 4, 1, 2) + b"de"
    stream = b"\x04\x00" + struct.pack(">I", len(pdvs)) + pdvs
    assert read(reader_class(16384), stream) == [(4, 1, 3, b"abc"), (4, 1, 2, b"de")]


def test_an_empty_fragment_is_complete_and_empty(reader_class):
    assert reader_class(16384).feed(p_data(7, 2, b"")) == [(4, 7, 2, 12, 12, True)]


def test_a_pdata_without_pdvs_gives_nothing(reader_class):
    reader = reader_class(16384)
    assert reader.feed(b"\x04\x00\x00\x00\x00\x00") == []
    assert not reader.mid_pdu
    assert reader.feed(RELEASE_RQ) == [(5, bytes(4))]


def test_the_control_header_is_given_as_received(reader_class):
    assert reader_class(16384).feed(p_data(1, 0xFF, b"x"))[0][2] == 0xFF


def test_the_reserved_byte_of_a_pdu_is_not_tested(reader_class):
    assert reader_class(16384).feed(b"\x06\xff\x00\x00\x00\x04abcd") == [(6, b"abcd")]


@pytest.mark.parametrize("first", [0, 8, 0x16, ord("G"), 255])
def test_an_unknown_type_fails_at_its_first_byte(reader_class, first):
    reader = reader_class(16384)
    [(kind, error)] = reader.feed(bytes([first]))
    assert (kind, error.reason) == (0, AbortReason.UNRECOGNIZED_PDU)


def test_nothing_is_read_after_an_error(reader_class):
    reader = reader_class(16384)
    assert len(reader.feed(b"GET / HTTP/1.1\r\n\r\n")) == 1
    assert reader.feed(RELEASE_RQ) == []
    assert not reader.mid_pdu


@pytest.mark.parametrize(
    ("kind", "length"),
    [(1, (1 << 20) + 1), (2, 0xFFFFFFFF), (3, 65), (4, 16385), (5, 0xFFFFFFFF), (6, 65), (7, 1 << 31)],
)
def test_a_length_over_its_limit_fails_before_any_body(reader_class, kind, length):
    reader = reader_class(16384)
    assert read(reader, struct.pack(">BBI", kind, 0, length)) == [(0, AbortReason.INVALID_PDU_PARAMETER_VALUE)]


@pytest.mark.parametrize("kind", [3, 5, 6, 7])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 64])
def test_a_fixed_pdu_of_another_length_is_taken(reader_class, kind, length):
    stream = struct.pack(">BBI", kind, 0, length) + bytes(length)
    assert read(reader_class(16384), stream + RELEASE_RQ) == [(kind, bytes(length)), (5, bytes(4))]


def test_an_unstrict_reader_takes_more_than_was_announced(reader_class):
    stream = p_data(1, 2, bytes(70000))
    assert read(reader_class(16384, strict=False), stream) == [(4, 1, 2, bytes(70000))]
    assert read(reader_class(16384), stream) == [(0, AbortReason.INVALID_PDU_PARAMETER_VALUE)]
    beyond = struct.pack(">BBI", 4, 0, (16 << 20) + 1)
    assert read(reader_class(16384, strict=False), beyond) == [(0, AbortReason.INVALID_PDU_PARAMETER_VALUE)]


@pytest.mark.parametrize("length", [0, 1, 9, 0xFFFFFFFF])
def test_a_pdv_below_two_or_beyond_its_pdu_fails(reader_class, length):
    stream = struct.pack(">BBIIBB", 4, 0, 12, length, 1, 2) + bytes(6)
    assert read(reader_class(16384), stream) == [(0, AbortReason.INVALID_PDU_PARAMETER_VALUE)]


@pytest.mark.parametrize("rest", [1, 2, 5])
def test_too_few_bytes_for_another_pdv_fail(reader_class, rest):
    pdv = struct.pack(">IBB", 3, 1, 2) + b"x"
    stream = struct.pack(">BBI", 4, 0, len(pdv) + rest) + pdv + bytes(rest)
    assert read(reader_class(16384), stream) == [(4, 1, 2, b"x"), (0, AbortReason.INVALID_PDU_PARAMETER_VALUE)]


def test_the_reader_tells_whether_a_pdu_is_half_read(reader_class):
    reader = reader_class(16384)
    for byte in p_data(1, 2, b"ab")[:-1]:
        reader.feed(bytes([byte]))
        assert reader.mid_pdu
    reader.feed(b"b")
    assert not reader.mid_pdu


def test_only_what_is_cut_is_held():
    reader = _fastpdu.PduReader(16384)
    reader.feed(p_data(1, 2, bytes(1000))[:500])
    assert reader.buffered == 0
    reader.feed(bytes(512))
    reader.feed(b"\x01\x00\x00")
    assert reader.buffered == 3
    reader.feed(b"\x00\x10\x00" + bytes(100))
    assert reader.buffered == 100


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("length", [0, 1, 70_000])
def test_an_associate_pdu_that_nobody_expects_is_given_by_its_header_and_its_body_dropped(reader_class, kind, length):
    reader = reader_class(16384)
    reader.associating = False
    header = struct.pack(">BBI", kind, 0, length)
    assert read(reader, header) == [(kind, b"")]
    assert (reader.mid_pdu, reader.missing) == (length > 0, length)
    assert read(reader, bytes(length) + RELEASE_RQ) == [(5, bytes(4))]
    assert not reader.mid_pdu
    assert read(reader, header + bytes(length) + RELEASE_RQ) == [(kind, b""), (5, bytes(4))]


def test_nothing_is_held_of_an_associate_pdu_that_nobody_expects():
    reader = _fastpdu.PduReader(16384)
    reader.associating = False
    reader.feed(struct.pack(">BBI", 1, 0, 1 << 20) + bytes(1000))
    reader.feed(bytes(100_000))
    assert reader.buffered == 0
    assert reader.missing == (1 << 20) - 101_000


def test_any_contiguous_buffer_is_taken():
    stream = p_data(1, 2, b"ab")
    for buffer in (stream, bytearray(stream), memoryview(stream), memoryview(bytearray(b"xx" + stream))[2:]):
        assert _fastpdu.PduReader(16384).feed(buffer) == [(4, 1, 2, 12, 14, True)]
    with pytest.raises(BufferError):
        _fastpdu.PduReader(16384).feed(memoryview(stream)[::2])


pdvs = st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40))


@st.composite
def pdu_streams(draw: st.DrawFn) -> bytes:
    """Mostly PDUs, with an occasional wrong length or byte."""
    stream = bytearray()
    for kind in draw(st.lists(st.sampled_from([1, 2, 3, 4, 4, 4, 5, 6, 7]), max_size=6)):
        if kind == 4:
            body = b"".join(
                struct.pack(">IBB", len(data) + 2, context, control) + data
                for context, control, data in draw(st.lists(pdvs, max_size=4))
            )
        else:
            body = draw(st.binary(max_size=70))
        stream += struct.pack(">BBI", kind, draw(st.integers(0, 255)), len(body)) + body
    for _ in range(draw(st.integers(0, 2))):
        if stream:
            stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream + draw(st.binary(max_size=8)))


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(c, len(stream)) for c in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in itertools.pairwise(at)]


@given(stream=pdu_streams(), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_where_the_network_cuts_does_not_matter(stream, cuts):
    expected = read(plain_pdu.PduReader(100, 60), stream)
    assert read(_fastpdu.PduReader(100, 60), stream) == expected
    assert read(_fastpdu.PduReader(100, 60), *cut(stream, cuts)) == expected
    assert read(_fastpdu.PduReader(100, 60), *(bytes([byte]) for byte in stream)) == expected


@given(stream=pdu_streams(), cuts=st.lists(st.integers(0, 300), max_size=12), associating=st.booleans())
def test_both_readers_give_the_same_pieces(stream, cuts, associating):
    native, plain = _fastpdu.PduReader(100, 60), plain_pdu.PduReader(100, 60)
    native.associating = plain.associating = associating
    for piece in cut(stream, cuts):
        ours, theirs = native.feed(piece), plain.feed(piece)
        assert [item for item in ours if item[0]] == [item for item in theirs if item[0]]
        assert [item[1].reason for item in ours if not item[0]] == [item[1].reason for item in theirs if not item[0]]
        assert native.mid_pdu == plain.mid_pdu
        assert native.missing == plain.missing


# Data sets that are diverted ---------------------------------------------------------------------------------


def diverted(pieces: list[bytes], context: int = 1) -> tuple[bytes, list[Any]]:
    """What went the other way, and what was given beside it: the bytes of each run and whether it was the last."""
    taken, found = bytearray(), []
    reader = _fastpdu.PduReader(16384)
    reader.divert(context, lambda fragment: taken.extend(fragment))
    for piece in pieces:
        reader.begin(memoryview(piece))
        while (item := reader.next()) is not None:
            if isinstance(item, _fastpdu.DataTaken):
                assert item.fault is None
                found.append((item.size, item.last))
            else:
                found.append(item)
    return bytes(taken), found


def test_a_data_set_goes_where_it_was_diverted_to_and_is_told_of_once():
    stream = p_data(1, 0, b"first") + p_data(1, 2, b"last") + RELEASE_RQ
    assert diverted([stream]) == (b"firstlast", [(9, True), (5, bytes(4))])


def test_the_diversion_ends_with_the_data_set():
    stream = p_data(1, 2, b"one") + p_data(1, 3, b"command") + p_data(1, 2, b"two")
    taken, found = diverted([stream])
    assert taken == b"one"
    assert [item[0] for item in found] == [3, 4, 4]


def test_fragments_of_another_context_or_of_a_command_are_given_as_ever():
    stream = p_data(1, 0, b"data") + p_data(3, 0, b"x") + p_data(1, 1, b"y") + p_data(1, 2, b"more")
    taken, found = diverted([stream])
    assert taken == b"datamore"
    assert [item[:3] for item in found] == [(4, False), (4, 3, 0), (4, 1, 1), (4, True)]


def test_an_empty_last_fragment_ends_a_diverted_data_set():
    assert diverted([p_data(1, 0, b"all"), p_data(1, 2, b"")]) == (b"all", [(3, False), (0, True)])


def test_a_fault_of_who_takes_it_ends_the_diversion_and_is_told():
    reader = _fastpdu.PduReader(16384)

    def faulty(fragment: memoryview) -> None:
        raise KeyError("a fault of ours")

    reader.divert(1, faulty)
    reader.begin(memoryview(p_data(1, 0, b"lost") + p_data(1, 2, b"rest")))
    told, rest = reader.next(), reader.next()
    assert (told.size, told.last, type(told.fault)) == (4, False, KeyError)
    assert rest[:3] == (4, 1, 2)
    assert reader.next() is None


def test_bytes_whose_end_nobody_waited_for_are_dropped_in_step():
    reader = _fastpdu.PduReader(16384)
    reader.begin(memoryview(p_data(1, 3, b"a") + p_data(1, 3, b"b")[:8]))
    assert reader.next()[0] == 4  # what comes behind it is not asked for
    reader.begin(memoryview(p_data(1, 3, b"b")[8:] + RELEASE_RQ))
    assert [reader.next()[0], reader.next()] == [4, (5, bytes(4))]


@given(stream=pdu_streams(), cuts=st.lists(st.integers(0, 300), max_size=12))
def test_diverted_bytes_are_those_that_would_have_been_given(stream, cuts):
    """The rest is given in the same order, and a run is never told before what it follows."""
    pieces = [piece for piece in cut(stream, cuts) if piece]
    expected: list[Any] = []
    done = False
    plain = plain_pdu.PduReader(100, 60)
    for piece in pieces:
        for item in plain.feed(piece):
            if not done and item[0] == 4 and item[1] == 1 and not item[2] & 1:
                done = bool(item[5] and item[2] & 2)
                expected.append((piece[item[3] : item[4]], done))
            else:
                expected.append(item if item[0] else (0, item[1].reason))
    found: list[Any] = []
    reader = _fastpdu.PduReader(100, 60)
    fragments: list[bytes] = []
    reader.divert(1, lambda fragment: fragments.append(bytes(fragment)))
    for piece in pieces:
        reader.begin(memoryview(piece))
        while (item := reader.next()) is not None:
            if isinstance(item, _fastpdu.DataTaken):
                assert item.size == sum(map(len, fragments))
                found.append((b"".join(fragments), item.last))
                fragments.clear()
            else:
                found.append(item if item[0] else (0, item[1].reason))
    assert not fragments
    # Runs may be told in fewer parts than they came in.
    assert joined(found) == joined(expected)


def joined(items: list[Any]) -> list[Any]:
    out: list[Any] = []
    for item in items:
        if isinstance(item[0], bytes):
            if out and isinstance(out[-1][0], bytes) and not out[-1][1]:
                out[-1] = (out[-1][0] + item[0], item[1])
            elif item[0] or item[1]:
                out.append(item)
        else:
            out.append(item)
    return [item for item in out if item != (b"", False)]
