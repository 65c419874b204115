"""One association at a time: what a core says, tells and closes, whatever the peer sends and however time passes.

Case numbers are those of the list of peers' habits that the router must live with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router._fastpdu import DataFragment, DataTaken
from router.errors import AbortReason, LocalProtocolError, PeerProtocolError
from router.ul.association import Association, AssociationSettings, Role
from router.ul.pdus import AssociateReject, AssociateRequest
from router.ul.state import State
from tests.ul.bench import (
    APPLICATION_ITEM,
    COMMAND,
    CONTEXT_ITEM,
    CT,
    DATA,
    IMPLICIT,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    USER_ITEM,
    Bench,
    Wire,
    abort_pdu,
    accept_all,
    accept_pdu,
    bench_in,
    established,
    item,
    joined,
    maximum,
    p_data,
    pdu,
    pdv,
    proposal,
    reject_pdu,
    request_body,
    request_pdu,
    result,
)

MESSAGE = p_data(pdv(1, COMMAND | LAST, b"command!"))
HTTP = b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n"
TLS_HELLO = bytes.fromhex("16030100f1010000ed0303") + bytes(range(1, 200))
UNKNOWN_PDU = pdu(8, b"what?")
OPEN = [state for state in State if state not in (State.STA1, State.STA2, State.STA4, State.STA13)]

# Opening ----------------------------------------------------------------------------------------------------


def test_an_acceptor_hears_a_request_and_accepts():
    bench = Bench()
    assert bench.state is State.STA2
    assert bench.receive(request_pdu()) == [("AssociationRequested",)]
    assert bench.state is State.STA6
    assert bench.core.request is not None
    assert bench.core.request.called_ae == "ROUTER"
    sent = bench.sent()
    assert sent[0] == 2
    assert result(1, 0, IMPLICIT.encode()) in sent


def test_an_acceptor_rejects_and_waits_for_the_peer_to_close():
    bench = Bench(decide=lambda request: AssociateReject(2, 3, 1))
    bench.receive(request_pdu())
    assert bench.state is State.STA13
    assert bench.sent() == reject_pdu(2, 3, 1)
    assert not bench.core.should_close
    assert bench.closed() == []
    assert bench.state is State.STA1


def test_a_requestor_asks_and_is_accepted():
    bench = Bench(Role.REQUESTOR)
    assert bench.state is State.STA4
    assert bench.sent() == b""
    bench.core.connected(bench.now)
    assert bench.sent() == pdu(1, request_body(APPLICATION_ITEM, CONTEXT_ITEM, item(0x50, maximum(16384))))
    assert bench.receive(accept_pdu()) == [("AssociationAccepted",)]
    assert bench.state is State.STA6


def test_a_requestor_needs_a_request():
    with pytest.raises(LocalProtocolError):
        Association(Role.REQUESTOR, AssociationSettings(), 0.0)


def test_two_cores_associate_send_and_release():
    requestor, acceptor = Bench(Role.REQUESTOR), Bench()
    wire = Wire(requestor, acceptor)
    wire.open()
    requestor.core.send_pdata([MESSAGE], requestor.now)
    wire.pump()
    assert acceptor.events[-1] == ("command", 1, b"command!", True)
    requestor.core.release(requestor.now)
    wire.pump()
    assert acceptor.events[-1] == ("ReleaseRequested",)
    assert requestor.events == [("AssociationAccepted",), ("Released",)]
    assert requestor.state is acceptor.state is State.STA1


# Acceptor, before the association ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [MESSAGE, RELEASE_RQ, RELEASE_RP, accept_pdu(), reject_pdu(1, 1, 1)])
def test_case_02_anything_but_a_request_first_is_aborted(first: bytes):
    bench = Bench()
    assert bench.receive(first) == []
    assert bench.sent() == abort_pdu(0, 0)
    assert bench.state is State.STA13
    bench.wait(10.0)
    assert bench.core.should_close


def test_case_03_an_abort_before_a_request_closes_without_a_word():
    bench = Bench()
    assert bench.receive(abort_pdu(0, 0)) == []
    assert bench.sent() == b""
    assert bench.core.should_close


@pytest.mark.parametrize("noise", [HTTP, TLS_HELLO, b"\0", b"\xff", UNKNOWN_PDU], ids=["http", "tls", "0", "255", "8"])
def test_case_04_what_is_not_dicom_gets_one_abort_at_its_first_byte(noise: bytes):
    bench = Bench()
    bench.receive(noise[:1])
    assert bench.sent() == abort_pdu(2, AbortReason.UNRECOGNIZED_PDU)
    bench.receive(*(noise[at : at + 6] for at in range(1, len(noise), 6)))
    assert bench.sent() == b""
    assert bench.core.buffered == 0
    bench.wait(10.0)
    assert bench.core.should_close


@pytest.mark.parametrize(
    "begun", [b"", b"\1\0\0", request_pdu()[:100]], ids=["silence", "half a header", "half a body"]
)
def test_case_06_the_handshake_has_ten_seconds_in_all(begun: bytes):
    bench = Bench()
    bench.receive(begun)
    bench.wait(9.99)
    assert not bench.core.should_close
    bench.wait(0.01)
    assert bench.core.should_close
    assert bench.state is State.STA1
    assert bench.sent() == b""


def test_case_06_a_byte_now_and_then_does_not_extend_the_handshake():
    bench = Bench()
    for byte in request_pdu()[:20]:
        bench.receive(bytes((byte,)))
        bench.wait(0.5)
    assert bench.core.should_close


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7])
def test_case_08_a_length_over_its_limit_is_refused_before_a_byte_of_it(kind: int):
    bench = Bench()
    bench.receive(bytes((kind, 0, 0xFF, 0xFF, 0xFF, 0xFF)))
    assert bench.sent() == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)
    assert bench.core.buffered == 0


def test_case_08_the_limit_of_a_request_is_a_setting():
    body = request_body()
    for limit, refused in ((len(body), False), (len(body) - 1, True)):
        bench = Bench(settings=AssociationSettings(associate_pdu=limit))
        bench.receive(pdu(1, body))
        assert (bench.sent()[0] == 7) is refused


@pytest.mark.parametrize("cut", [0, 3, 67, 70, 120, -1])
def test_case_11_a_request_shorter_than_its_items_is_aborted(cut: int):
    bench = Bench()
    assert bench.receive(pdu(1, request_body()[:cut])) == []
    assert bench.sent() == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)
    assert bench.state is State.STA13


def test_too_many_contexts_are_aborted_by_the_settings():
    items = [proposal(number, CT, IMPLICIT) for number in (1, 3, 5)]
    bench = Bench(settings=AssociationSettings(presentation_contexts=2))
    bench.receive(request_pdu(APPLICATION_ITEM, *items))
    assert bench.sent() == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)


def test_what_a_handshake_holds_is_told():
    bench = Bench()
    bench.receive(request_pdu()[:100])
    assert bench.core.buffered == 94
    bench.receive(request_pdu()[100:])
    assert bench.core.buffered == 0


# Pipelining behind the request ------------------------------------------------------------------------------


def test_case_13_data_behind_the_request_waits_for_the_answer():
    """In one segment, the user deciding at once."""
    bench = Bench()
    events = bench.receive(request_pdu() + MESSAGE + RELEASE_RQ)
    assert events == [("AssociationRequested",), ("command", 1, b"command!", True), ("ReleaseRequested",)]
    sent = bench.sent()
    assert sent[0] == 2
    assert sent.endswith(RELEASE_RP)


@pytest.mark.parametrize("size", [1, 5, 7, 64, 10000])
def test_case_13_data_is_held_while_the_answer_is_undecided(size: int):
    bench = Bench(decide=lambda request: None)
    stream = request_pdu() + MESSAGE + p_data(pdv(1, DATA | LAST, b"data" * 10)) + RELEASE_RQ
    events = bench.receive(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert events == [("AssociationRequested",)]
    assert bench.state is State.STA3
    assert bench.core.request is not None
    bench.core.accept(accept_all(bench.core.request), bench.now)
    assert joined(bench.resume()) == [
        ("command", 1, b"command!", True),
        ("data", 1, b"data" * 10, True),
        ("ReleaseRequested",),
    ]
    assert bench.core.buffered == 0


def test_case_13_what_is_held_is_in_order_with_what_comes_later():
    bench = Bench(decide=lambda request: None)
    bench.receive(request_pdu() + MESSAGE)
    assert bench.core.request is not None
    bench.core.accept(accept_all(bench.core.request), bench.now)
    assert bench.receive(p_data(pdv(1, DATA | LAST, b"later"))) == []
    assert joined(bench.resume()) == [("command", 1, b"command!", True), ("data", 1, b"later", True)]
    assert bench.receive(MESSAGE) == [("command", 1, b"command!", True)]


def test_case_13_what_is_held_is_limited():
    bench = Bench(decide=lambda request: None, settings=AssociationSettings(associate_pdu=1000))
    bench.receive(request_pdu())
    for _ in range(100):
        bench.receive(p_data(pdv(1, DATA, bytes(100))))
    assert bench.core.buffered <= 1000
    assert bench.core.request is not None
    bench.core.accept(accept_all(bench.core.request), bench.now)
    assert bench.resume()[-1] == ("aborted", 2, 0)
    assert bench.sent()[-10:] == abort_pdu(2, 0)


def test_case_13_what_is_held_for_a_rejected_request_is_dropped():
    bench = Bench(decide=lambda request: None)
    bench.receive(request_pdu() + MESSAGE)
    bench.core.reject(AssociateReject(1, 1, 7), bench.now)
    assert bench.resume() == []
    assert bench.sent() == reject_pdu(1, 1, 7)


def test_an_abort_while_undecided_is_told_at_once():
    bench = Bench(decide=lambda request: None)
    assert bench.receive(request_pdu() + abort_pdu(0, 0)) == [("AssociationRequested",), ("aborted by the peer", 0, 0)]
    assert bench.core.should_close


# Acceptor, established --------------------------------------------------------------------------------------


def test_case_01_a_second_request_is_aborted_once():
    bench = established()
    assert bench.receive(request_pdu()) == [("aborted", 2, AbortReason.UNEXPECTED_PDU)]
    assert bench.sent() == abort_pdu(2, AbortReason.UNEXPECTED_PDU)
    assert bench.receive(*[request_pdu()] * 10) == []
    assert bench.sent() == b""
    assert bench.state is State.STA13


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("state", [state for state in OPEN if state is not State.STA5])
def test_nothing_is_kept_of_an_associate_pdu_where_none_is_expected(state: State, kind: int):
    """Its header is enough to abort: an established association has no budget for a body."""
    bench = bench_in(state)
    bench.receive(struct.pack(">BBI", kind, 0, 1 << 20))
    assert bench.sent() == abort_pdu(2, AbortReason.UNEXPECTED_PDU)
    for _ in range(16):
        bench.receive(bytes(64 << 10))
        assert bench.core.buffered == 0
    assert bench.sent() == b""
    assert bench.state is State.STA13


def test_nothing_is_kept_of_an_associate_pdu_behind_an_undecided_request():
    bench = Bench(decide=lambda request: None)
    bench.receive(request_pdu())
    bench.receive(struct.pack(">BBI", 1, 0, 1 << 20) + bytes(1000))
    assert bench.core.buffered == 0
    assert bench.sent() == abort_pdu(2, AbortReason.UNEXPECTED_PDU)


def test_a_data_set_can_be_diverted_and_is_told_of_in_its_place():
    bench, taken, told = established(), bytearray(), []
    data = bytearray(p_data(pdv(1, DATA, b"half ")) + p_data(pdv(1, DATA | LAST, b"and half")) + RELEASE_RQ)
    bench.core.divert(1, taken.extend, told.append)
    events = []
    for event in bench.core.receive(memoryview(data), bench.now):
        if isinstance(event, DataTaken):
            bench.core.told(event)
        events.append(type(event).__name__)
    assert events == ["DataTaken", "ReleaseRequested"]
    assert bytes(taken) == b"half and half"
    assert [(one.size, one.last) for one in told] == [(13, True)]


def test_an_association_that_is_aborted_diverts_nothing_more():
    bench, taken = established(), bytearray()
    bench.core.divert(1, taken.extend)
    bench.core.abort(bench.now)
    assert bench.receive(p_data(pdv(1, DATA, b"late"))) == []
    assert taken == b""


def test_what_nobody_goes_on_with_is_skipped_before_its_bytes_change():
    bench, data = established(), bytearray(MESSAGE + p_data(pdv(1, DATA, b"more")) + RELEASE_RQ)
    next(bench.core.receive(memoryview(data), bench.now))
    bench.core.skip()
    data[:] = bytes(len(data))
    assert bench.receive(abort_pdu(0, 0))[0][0] == "aborted by the peer"


@pytest.mark.parametrize("noise", [HTTP, UNKNOWN_PDU])
def test_case_05_an_unknown_pdu_when_established_is_aborted(noise: bytes):
    bench = established()
    assert bench.receive(noise) == [("aborted", 2, AbortReason.UNRECOGNIZED_PDU)]
    assert bench.sent() == abort_pdu(2, AbortReason.UNRECOGNIZED_PDU)


def test_case_09_data_longer_than_announced_is_aborted_when_strict():
    settings = AssociationSettings(max_pdu=1024)
    bench = established(settings=settings)
    assert joined(bench.receive(p_data(pdv(1, DATA, bytes(1018))))) == [("data", 1, bytes(1018), False)]
    bench = established(settings=settings)
    assert bench.receive(p_data(pdv(1, DATA, bytes(1019)))) == [("aborted", 2, 6)]
    assert bench.sent() == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)


def test_case_09_data_longer_than_announced_is_taken_up_to_a_cap_otherwise():
    settings = AssociationSettings(max_pdu=1024, strict_pdu_length=False)
    bench = established(settings=settings)
    assert joined(bench.receive(p_data(pdv(1, DATA, bytes(5000))))) == [("data", 1, bytes(5000), False)]
    assert bench.receive(b"\4\0" + ((16 << 20) + 1).to_bytes(4, "big")) == [("aborted", 2, 6)]


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\0\2\1" + bytes(60)], ids=["empty", "short", "64 bytes"])
def test_case_10_release_and_abort_of_another_length_are_taken(body: bytes):
    bench = established()
    assert bench.receive(pdu(5, body)) == [("ReleaseRequested",)]
    bench = established()
    assert bench.receive(pdu(7, body))[0][0] == "aborted by the peer"
    requestor = bench_in(State.STA5)
    assert requestor.receive(pdu(3, body))[0][0] == "rejected"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_case_12_segments_of_the_network_mean_nothing(step: int):
    stream = request_pdu() + MESSAGE * 3 + p_data(pdv(1, DATA | LAST, b"0123456789"), pdv(1, COMMAND | LAST, b"x"))
    bench = Bench()
    events = joined(bench.receive(*(stream[at : at + step] for at in range(0, len(stream), step))))
    assert events == [
        ("AssociationRequested",),
        *[("command", 1, b"command!", True)] * 3,
        ("data", 1, b"0123456789", True),
        ("command", 1, b"x", True),
    ]


@pytest.mark.parametrize("control", [0xFC, 0xFF, 0x83, 0x41])
def test_case_51_only_two_bits_of_the_control_header_count(control: int):
    bench = established()
    kind = "command" if control & 1 else "data"
    assert bench.receive(p_data(pdv(1, control, b"ab"))) == [(kind, 1, b"ab", bool(control & 2))]


def test_case_57_data_without_a_pdv_is_nothing():
    assert established().receive(p_data()) == []


def test_case_58_an_empty_fragment_is_a_fragment():
    assert established().receive(p_data(pdv(1, DATA | LAST, b""))) == [("data", 1, b"", True)]


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">I", 0),
        struct.pack(">I", 0) + bytes(2),
        struct.pack(">I", 1) + b"\1\0",
        struct.pack(">I", 9) + b"\1\0data",
        struct.pack(">I", 0xFFFFFFFF) + b"\1\0data",
        pdv(1, DATA, b"data") + b"\0\0\0",
    ],
)
def test_case_59_a_pdv_shorter_than_its_header_or_longer_than_its_pdu_is_aborted(body: bytes):
    bench = established()
    assert bench.receive(pdu(4, body))[-1] == ("aborted", 2, AbortReason.INVALID_PDU_PARAMETER_VALUE)
    assert bench.sent() == abort_pdu(2, AbortReason.INVALID_PDU_PARAMETER_VALUE)


def test_what_the_layer_above_cannot_read_is_aborted_with_its_reason():
    def complain(fragment: DataFragment) -> None:
        raise PeerProtocolError("no such context", AbortReason.UNEXPECTED_PDU_PARAMETER)

    bench = established(on_fragment=complain)
    events = bench.receive(MESSAGE + MESSAGE)
    assert events == [("command", 1, b"command!", True), ("aborted", 2, 5)]
    assert bench.sent() == abort_pdu(2, AbortReason.UNEXPECTED_PDU_PARAMETER)
    assert bench.receive(MESSAGE) == []


def test_case_76_a_release_within_a_message_can_be_refused():
    bench = established(answers_release=False)
    bench.core.message_open = True
    assert bench.receive(RELEASE_RQ) == [("ReleaseRequested",)]
    bench.handle(bench.core.fail(PeerProtocolError("release", AbortReason.UNEXPECTED_PDU), bench.now))
    assert bench.sent() == abort_pdu(2, 2)
    assert bench.state is State.STA13


def test_case_77_an_abort_or_a_lost_transport_within_a_message_is_told():
    bench = established()
    bench.receive(MESSAGE[:-3])
    assert bench.core.mid_pdu
    assert bench.closed() == [("TransportLost",)]
    bench = established()
    bench.receive(MESSAGE)
    assert bench.receive(abort_pdu(0, 0)) == [("aborted by the peer", 0, 0)]
    assert bench.sent() == b""
    assert bench.core.should_close


def test_case_78_a_peer_that_closes_without_a_release_between_messages():
    bench = established()
    bench.receive(MESSAGE)
    assert bench.closed() == [("TransportLost",)]
    assert bench.state is State.STA1
    assert bench.sent() == b""
    assert not bench.core.mid_pdu
    assert not bench.core.message_open


def test_case_79_data_after_a_release_request_is_aborted_and_not_executed():
    bench = established(answers_release=False)
    assert bench.receive(RELEASE_RQ + MESSAGE) == [("ReleaseRequested",), ("aborted", 2, 2)]
    assert bench.sent() == abort_pdu(2, AbortReason.UNEXPECTED_PDU)


def test_case_79_data_after_our_release_response_is_ignored():
    bench = established()
    assert bench.receive(RELEASE_RQ + MESSAGE) == [("ReleaseRequested",)]
    assert bench.sent() == RELEASE_RP


def test_answers_may_leave_between_a_release_request_and_its_response():
    bench = established(answers_release=False)
    bench.receive(RELEASE_RQ)
    bench.core.send_pdata([MESSAGE], bench.now)
    bench.core.release_response(bench.now)
    assert bench.sent() == MESSAGE + RELEASE_RP


def test_case_80_after_a_release_the_requestor_closes_and_the_acceptor_waits():
    acceptor = established()
    acceptor.receive(RELEASE_RQ)
    assert (acceptor.state, acceptor.core.should_close) == (State.STA13, False)
    requestor = established(Role.REQUESTOR)
    requestor.core.release(requestor.now)
    assert requestor.receive(RELEASE_RP) == [("Released",)]
    assert (requestor.state, requestor.core.should_close) == (State.STA1, True)


def test_case_80_the_acceptor_does_not_wait_for_ever():
    bench = established(settings=AssociationSettings(artim_timeout=10.0))
    bench.receive(RELEASE_RQ)
    bench.wait(9.9)
    assert not bench.core.should_close
    bench.wait(0.1)
    assert bench.core.should_close


def test_case_81_after_an_abort_of_ours_what_is_still_coming_is_read_first():
    """Closing over unread bytes would make the kernel reset the connection and destroy the A-ABORT."""
    bench = established()
    bench.receive(request_pdu())
    assert not bench.core.should_close
    assert bench.receive(MESSAGE * 5, p_data(pdv(1, DATA, bytes(5000)))) == []
    assert not bench.core.should_close
    assert bench.closed() == []
    assert bench.state is State.STA1


# Timers of an association -----------------------------------------------------------------------------------


def test_case_82_an_idle_association_is_aborted():
    bench = established(settings=AssociationSettings(idle_timeout=60.0))
    bench.wait(59.0)
    bench.receive(MESSAGE)
    bench.wait(59.9)
    assert bench.state is State.STA6
    assert bench.wait(0.1) == [("aborted", 2, 0)]
    assert bench.sent() == abort_pdu(2, 0)
    assert bench.state is State.STA13


def test_case_82_an_association_may_be_kept_idle_for_ever():
    bench = established(settings=AssociationSettings(idle_timeout=None))
    assert bench.core.next_deadline() is None
    bench.wait(1e6)
    assert bench.state is State.STA6


def test_sending_counts_as_activity():
    bench = established()
    bench.wait(50.0)
    bench.core.send_pdata([MESSAGE], bench.now)
    bench.wait(59.0)
    assert bench.state is State.STA6


def test_while_the_peer_waits_for_us_its_silence_is_not_held_against_it():
    bench = established()
    bench.core.our_turn = True
    bench.wait(1000.0)
    assert bench.state is State.STA6
    assert bench.core.idle_since(bench.now) == 0.0
    bench.core.peer_turn(bench.now)
    bench.wait(59.9)
    assert bench.state is State.STA6
    assert bench.core.idle_since(bench.now) == pytest.approx(59.9)
    bench.wait(0.1)
    assert bench.state is State.STA13


def half_a_pdu(bench: Bench) -> None:
    bench.receive(p_data(pdv(1, DATA, bytes(100_000)))[:100])


def half_a_message(bench: Bench) -> None:
    bench.receive(MESSAGE)
    bench.core.message_open = True


@pytest.mark.parametrize("begin", [half_a_pdu, half_a_message])
def test_within_a_pdu_or_a_message_a_peer_must_get_on(begin: Callable[[Bench], None]):
    bench = established(settings=AssociationSettings(minimum_rate=1000, rate_window=30.0))
    begin(bench)
    bench.wait(29.9)
    assert bench.state is State.STA6
    assert bench.wait(0.1) == [("aborted", 2, 0)]


@pytest.mark.parametrize(("rate", "lives"), [(1100, True), (900, False)])
def test_the_rate_is_an_average_over_a_window(rate: int, lives: bool):
    """1000 bytes per second over any 30 seconds: bursts and rests within them do not matter."""
    bench = established(settings=AssociationSettings(minimum_rate=1000, rate_window=30.0, max_pdu=0))
    bench.receive(p_data(pdv(1, DATA, bytes(10_000_000)))[:12])
    for _ in range(12):
        bench.core.next_deadline()
        bench.receive(bytes(rate * 10))
        bench.wait(10.0)
    assert (bench.state is State.STA6) is lives


def test_each_message_has_its_own_window():
    bench = established()
    half_a_message(bench)
    bench.wait(20.0)
    bench.core.message_open = False
    bench.wait(25.0)
    half_a_message(bench)
    assert bench.wait(29.9) == []
    assert bench.wait(0.1) == [("aborted", 2, 0)]


def test_half_a_pdu_is_no_idle_time():
    bench = established()
    assert not bench.core.mid_pdu
    half_a_pdu(bench)
    assert bench.core.mid_pdu
    assert bench.core.idle_since(bench.now + 20) == 0.0


def test_the_timer_may_fire_too_early():
    for state in State:
        bench = bench_in(state)
        bench.handle(bench.core.on_timer(bench.now))
        assert bench.state is state


@pytest.mark.parametrize("state", [State.STA7, State.STA9, State.STA10, State.STA11, State.STA12])
def test_no_part_of_a_release_takes_for_ever(state: State):
    bench = bench_in(state)
    bench.wait(10.0)
    assert bench.events[-1] == ("aborted", 2, 0) or state is State.STA13
    bench.wait(10.0)
    assert bench.core.should_close
    assert bench.state is State.STA1


# Requestor --------------------------------------------------------------------------------------------------


def test_case_26_the_titles_of_an_accept_are_not_tested():
    bench = bench_in(State.STA5)
    body = bytearray(accept_pdu())
    body[10:74] = b"\xff" * 64
    assert bench.receive(bytes(body)) == [("AssociationAccepted",)]


@pytest.mark.parametrize(
    ("items", "length"),
    [
        ((APPLICATION_ITEM, result(1, 0, IMPLICIT.encode())), 16384),
        ((APPLICATION_ITEM, item(0x50, item(0x52, b"1.2"))), 16384),
        ((APPLICATION_ITEM, item(0x50, maximum(0))), 0),
        ((APPLICATION_ITEM, item(0x50, maximum(65535))), 65535),
    ],
)
def test_cases_29_and_91_what_an_acceptor_takes_at_most(items: tuple[bytes, ...], length: int):
    bench = bench_in(State.STA5)
    bench.receive(accept_pdu(*items))
    assert bench.core.peer_max_length == length


def test_cases_27_to_29_what_a_requestor_takes_at_most():
    for user, length in ((b"", 16384), (item(0x50, b""), 16384), (item(0x50, maximum(0)), 0), (USER_ITEM, 16384)):
        bench = Bench()
        bench.receive(request_pdu(APPLICATION_ITEM, CONTEXT_ITEM, user))
        assert bench.core.peer_max_length == length


def test_case_92_an_association_without_a_usable_context_is_established_and_can_be_released():
    bench = bench_in(State.STA5)
    assert bench.receive(accept_pdu(APPLICATION_ITEM, result(1, 3, b""))) == [("AssociationAccepted",)]
    bench.core.release(bench.now)
    assert bench.sent() == RELEASE_RQ
    assert bench.receive(RELEASE_RP) == [("Released",)]


def test_case_93_no_answer_to_the_request_in_time():
    bench = bench_in(State.STA5)
    assert bench.wait(29.9) == []
    assert bench.wait(0.1) == [("aborted", 2, 0)]
    assert bench.sent() == abort_pdu(0, 0)
    assert bench.core.should_close


def test_case_93_a_trickle_is_no_answer():
    bench = bench_in(State.STA5)
    for byte in accept_pdu()[:31]:
        bench.receive(bytes((byte,)))
        bench.wait(1.0)
    assert bench.events == [("aborted", 2, 0)]


@pytest.mark.parametrize("numbers", [(1, 1, 1), (1, 1, 7), (2, 3, 2), (7, 7, 7)])
def test_case_94_a_rejection_is_told_as_it_came(numbers: tuple[int, int, int]):
    bench = bench_in(State.STA5)
    assert bench.receive(reject_pdu(*numbers)) == [("rejected", *numbers)]
    assert bench.core.should_close
    assert bench.sent() == b""


def test_case_94_an_abort_a_close_or_noise_instead_of_an_answer():
    bench = bench_in(State.STA5)
    assert bench.receive(abort_pdu(2, 1)) == [("aborted by the peer", 2, 1)]
    bench = bench_in(State.STA5)
    assert bench.closed() == [("TransportLost",)]
    bench = bench_in(State.STA5)
    assert bench.receive(b"HTTP/1.1 400 Bad Request\r\n") == [("aborted", 2, 1)]
    assert bench.sent() == abort_pdu(2, AbortReason.UNRECOGNIZED_PDU)
    bench = bench_in(State.STA5)
    assert bench.receive(accept_pdu(item(0x21, b"\1"))) == [("aborted", 2, 6)]


def test_case_102_a_release_instead_of_a_response_is_told_and_answered():
    bench = established(Role.REQUESTOR)
    bench.core.send_pdata([MESSAGE], bench.now)
    bench.sent()
    assert bench.receive(RELEASE_RQ) == [("ReleaseRequested",)]
    assert bench.sent() == RELEASE_RP


def test_case_103_release_collision():
    """PS3.8 §7.2.2: the requestor answers first, the acceptor when it has that answer; both end in order."""
    requestor, acceptor = established(Role.REQUESTOR), established()
    requestor.core.release(requestor.now)
    acceptor.core.release(acceptor.now)
    path = []
    wire = Wire(requestor, acceptor)
    first, second = requestor.sent(), acceptor.sent()
    acceptor.receive(first)
    requestor.receive(second)
    path.append((requestor.state, acceptor.state))
    wire.pump()
    assert path == [(State.STA11, State.STA10)]
    assert requestor.events == [("ReleaseRequested",), ("Released",)]
    assert acceptor.events == [("ReleaseRequested",), ("Released",)]
    assert requestor.state is acceptor.state is State.STA1


def test_case_104_no_answer_to_our_release():
    bench = established(Role.REQUESTOR, settings=AssociationSettings(release_timeout=10.0))
    bench.core.release(bench.now)
    assert bench.sent() == RELEASE_RQ
    assert bench.wait(9.9) == []
    assert bench.wait(0.1) == [("aborted", 2, 0)]
    assert bench.core.should_close


def test_case_104_a_closed_transport_instead_of_an_answer_to_our_release():
    bench = established(Role.REQUESTOR)
    bench.core.release(bench.now)
    assert bench.closed() == [("TransportLost",)]
    assert bench.state is State.STA1


def test_answers_that_cross_our_release_still_arrive():
    bench = established(Role.REQUESTOR)
    bench.core.release(bench.now)
    assert bench.receive(MESSAGE + RELEASE_RP) == [("command", 1, b"command!", True), ("Released",)]


def test_case_105_after_an_abort_within_a_message_no_other_message_leaves():
    bench = established(Role.REQUESTOR)
    bench.core.send_pdata([MESSAGE[:9]], bench.now)
    bench.core.abort(bench.now)
    assert bench.sent() == MESSAGE[:9] + abort_pdu(0, 0)
    with pytest.raises(LocalProtocolError):
        bench.core.send_pdata([MESSAGE], bench.now)


# Our own mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in State if state not in (State.STA6, State.STA8)])
def test_data_can_be_sent_in_two_states_only(state: State):
    with pytest.raises(LocalProtocolError):
        bench_in(state).core.send_pdata([MESSAGE], 1000.0)


@pytest.mark.parametrize("state", [state for state in State if state is not State.STA6])
def test_a_release_can_be_asked_for_in_one_state_only(state: State):
    with pytest.raises(LocalProtocolError):
        bench_in(state).core.release(1000.0)


def test_a_request_is_answered_once():
    bench = Bench()
    bench.receive(request_pdu())
    with pytest.raises(LocalProtocolError):
        bench.core.reject(AssociateReject(1, 1, 1), bench.now)


@pytest.mark.parametrize("state", list(State))
def test_an_abort_is_possible_always(state: State):
    bench = bench_in(state)
    bench.core.abort(bench.now, 2, 1)
    silent = state in (State.STA1, State.STA4, State.STA13)
    assert bench.sent() == (b"" if silent else abort_pdu(2, 1))
    bench.wait(10.0)
    assert bench.core.should_close
    bench.core.abort(bench.now)
    assert bench.sent() == b""


# All states, all PDUs ---------------------------------------------------------------------------------------

ABORTED = (abort_pdu(2, 2), [("aborted", 2, 2)], 13)
PDUS = {"AC": accept_pdu(), "RJ": reject_pdu(1, 1, 7), "RQ": request_pdu(), "DATA": MESSAGE}
PDUS |= {"RELEASE-RQ": RELEASE_RQ, "RELEASE-RP": RELEASE_RP, "ABORT": abort_pdu(0, 0), "8": UNKNOWN_PDU}
EXPECTED: dict[tuple[State, str], tuple[bytes, list[tuple[object, ...]], int]] = {
    **{(state, name): ABORTED for state in OPEN for name in PDUS if name not in ("ABORT", "8")},
    **{(state, "8"): (abort_pdu(2, 1), [("aborted", 2, 1)], 13) for state in OPEN},
    **{(state, "ABORT"): (b"", [("aborted by the peer", 0, 0)], 1) for state in OPEN},
    **{(State.STA1, name): (b"", [], 1) for name in PDUS},
    **{(State.STA2, name): (abort_pdu(0, 0), [], 13) for name in PDUS},
    **{(State.STA13, name): (b"", [], 13) for name in PDUS},
    (State.STA2, "RQ"): (b"", [("AssociationRequested",)], 3),
    (State.STA2, "8"): (abort_pdu(2, 1), [], 13),
    (State.STA2, "ABORT"): (b"", [], 1),
    # What a requestor pipelines behind its request is held, not refused.
    (State.STA3, "DATA"): (b"", [], 3),
    (State.STA3, "RELEASE-RQ"): (b"", [], 3),
    (State.STA5, "AC"): (b"", [("AssociationAccepted",)], 6),
    (State.STA5, "RJ"): (b"", [("rejected", 1, 1, 7)], 1),
    (State.STA6, "DATA"): (b"", [("command", 1, b"command!", True)], 6),
    (State.STA6, "RELEASE-RQ"): (b"", [("ReleaseRequested",)], 8),
    (State.STA7, "DATA"): (b"", [("command", 1, b"command!", True)], 7),
    (State.STA7, "RELEASE-RP"): (b"", [("Released",)], 1),
    (State.STA10, "RELEASE-RP"): (b"", [("Released",)], 12),
    (State.STA11, "RELEASE-RP"): (b"", [("Released",)], 1),
    (State.STA13, "RQ"): (abort_pdu(2, 2), [], 13),
    (State.STA13, "8"): (abort_pdu(2, 1), [], 13),
    (State.STA13, "ABORT"): (b"", [], 1),
}


@pytest.mark.parametrize("name", PDUS)
@pytest.mark.parametrize("state", [state for state in State if state is not State.STA4])
def test_every_pdu_in_every_state(state: State, name: str):
    bench = bench_in(state)
    bench.answers_release = False
    if state is State.STA7 and name == "RELEASE-RQ":
        expected = (b"", [("ReleaseRequested",)], 10)
    else:
        expected = EXPECTED[state, name]
    core, before = bench.core, len(bench.events)
    if (state, name) == (State.STA10, "RELEASE-RP"):
        # The bench would answer by itself.
        events = [type(event).__name__ for event in core.receive(memoryview(PDUS[name]), bench.now)]
        assert (events, bench.state) == (["Released"], State.STA12)
        return
    bench.receive(PDUS[name])
    assert (bench.sent(), bench.events[before:], int(bench.state)) == expected
    assert core.should_close == (bench.state is State.STA1 and state is not State.STA1)


# Anything at all --------------------------------------------------------------------------------------------

pieces = st.sampled_from([*PDUS.values(), MESSAGE[:-3], b"", HTTP, b"\4\0\0\0\0\0", p_data(pdv(9, 0xFF, b"x" * 40))])


@given(data=st.data(), role=st.sampled_from(Role), noise=st.lists(pieces | st.binary(max_size=40), max_size=8))
def test_whatever_comes_is_answered_by_one_abort_at_most_and_ends(data: st.DataObject, role: Role, noise: list[bytes]):
    """No exception, one A-ABORT, and within the timers the transport is asked to be closed."""
    bench = Bench(role, settings=AssociationSettings(idle_timeout=60.0))
    if role is Role.REQUESTOR:
        bench.core.connected(bench.now)
        bench.sent()
    opening = request_pdu() if role is Role.ACCEPTOR else accept_pdu()
    if data.draw(st.booleans()):
        bench.receive(opening)
        bench.sent()
    stream = b"".join(noise)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    bench.receive(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    bench.wait(200.0)
    sent = bench.sent()
    assert sum(sent.count(abort_pdu(*pair)) for pair in [(0, 0), (2, 0), (2, 1), (2, 2), (2, 5), (2, 6)]) <= 1
    assert bench.state is State.STA1
    assert bench.core.should_close
    assert bench.core.next_deadline() is None
    assert len([event for event in bench.events if event[0].startswith("aborted")]) <= 1


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A request, messages in PDUs of any shape, and an end."""
    pdus = [request_pdu()]
    for _ in range(draw(st.integers(0, 5))):
        fragments = draw(st.lists(st.tuples(st.sampled_from([1, 3]), st.integers(0, 255), st.binary(max_size=30))))
        pdus.append(p_data(*(pdv(*fragment) for fragment in fragments)))
    pdus.append(draw(st.sampled_from([b"", RELEASE_RQ, abort_pdu(0, 0), UNKNOWN_PDU, request_pdu()])))
    return b"".join(pdus)


@given(stream=conversations(), data=st.data())
def test_where_the_network_cuts_does_not_matter(stream: bytes, data: st.DataObject):
    whole, cut = Bench(), Bench()
    whole.receive(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    cut.receive(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    assert joined(cut.events) == joined(whole.events)
    assert cut.sent() == whole.sent()
    assert cut.state is whole.state


def test_a_conversation_cut_at_every_byte():
    stream = request_pdu() + MESSAGE + p_data(pdv(1, DATA, b"abc"), pdv(1, DATA | LAST, b"de")) + RELEASE_RQ
    whole = Bench()
    whole.receive(stream)
    expected = joined(whole.events), whole.sent()
    for at in range(len(stream)):
        bench = Bench()
        bench.receive(stream[:at], stream[at:])
        assert (joined(bench.events), bench.sent()) == expected


@pytest.mark.parametrize("at", range(0, len(request_pdu() + MESSAGE + RELEASE_RQ), 7))
def test_a_transport_lost_at_any_byte_ends_the_association(at: int):
    bench = Bench()
    bench.receive((request_pdu() + MESSAGE + RELEASE_RQ)[:at])
    bench.closed()
    assert bench.state is State.STA1
    assert bench.core.next_deadline() is None


def test_a_fragment_is_handled_before_the_next_pdu_is_looked_at():
    """The user who answers within the event is in time: its answer leaves before the answer to what follows."""

    def reply(fragment: DataFragment) -> None:
        bench.core.send_pdata([b"answer"], bench.now)

    bench = established(on_fragment=reply)
    bench.receive(MESSAGE + RELEASE_RQ)
    assert bench.sent() == b"answer" + RELEASE_RP


def test_the_request_is_there_while_it_is_decided():
    asked: list[AssociateRequest] = []

    def decide(request: AssociateRequest) -> AssociateReject:
        asked.append(request)
        assert bench.state is State.STA3
        return AssociateReject(1, 1, 3)

    bench = Bench(decide=decide)
    bench.receive(request_pdu(called=b"X", calling=b"Y"))
    assert [(request.called_ae, request.calling_ae) for request in asked] == [("X", "Y")]
