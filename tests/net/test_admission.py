"""Who may come in, by the order of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from router.model import Limits, Listener, Peer
from router.net.admission import BURST_PER_ADDRESS, Gate, Place, Refusal
from router.ul.pdus import AssociateReject, AssociateRequest
from tests.net.doubles import House

KNOWN = Listener(host="192.0.2.254", port=104, ae_titles=("ROUTER", "STORE"))
ANY = replace(KNOWN, accept="any")
CT1 = Peer(name="ct1", ae_title="CT1", addresses=("10.1.0.0/16", "2001:db8::/32"))


def request(called: str = "ROUTER", calling: str = "CT1", **fields: Any) -> AssociateRequest:
    return AssociateRequest(called_ae=called, calling_ae=calling, contexts=(), **fields)


def gate(*peers: Peer, house: House | None = None, **limits: Any) -> Gate:
    return Gate(replace(Limits(), **limits), peers, house or House())


def name_of(judged: Peer | Refusal) -> str:
    assert isinstance(judged, Peer)
    return judged.name


def refusal(judged: Peer | Refusal) -> tuple[int, int, int, str]:
    assert isinstance(judged, Refusal)
    reject = judged.reject
    return reject.result, reject.source, reject.reason, judged.label


def test_a_known_peer_is_known_by_title_and_address_together() -> None:
    known = gate(CT1, Peer(name="ct2", ae_title="CT2", addresses=("10.2.0.1",)))
    assert known.judge(KNOWN, "10.1.2.3", request()) == CT1
    assert known.judge(KNOWN, "2001:db8::7", request()) == CT1
    assert refusal(known.judge(KNOWN, "10.2.0.1", request())) == (1, 1, 3, "calling_ae")
    assert refusal(known.judge(KNOWN, "10.1.2.3", request(calling="CT2"))) == (1, 1, 3, "calling_ae")


def test_a_peer_without_addresses_may_call_from_anywhere() -> None:
    assert name_of(gate(Peer(name="p", ae_title="CT1")).judge(KNOWN, "192.0.2.1", request())) == "p"


def test_a_peer_may_be_bound_to_listeners() -> None:
    bound = gate(replace(CT1, listeners=("192.0.2.254:11112",)))
    assert isinstance(bound.judge(KNOWN, "10.1.0.1", request()), Refusal)
    assert name_of(bound.judge(replace(KNOWN, port=11112), "10.1.0.1", request())) == "ct1"


def test_whoever_calls_is_taken_where_any_is_accepted() -> None:
    judged = gate().judge(ANY, "192.0.2.1", request(calling="WHO"))
    assert isinstance(judged, Peer)
    assert (judged.name, judged.ae_title) == ("unknown", "WHO")


@pytest.mark.parametrize("calling", ["", "CAF\xc9", "A\\B"])
def test_case_23_25_odd_calling_titles_are_names_like_others(calling: str) -> None:
    assert isinstance(gate().judge(ANY, "192.0.2.1", request(calling=calling)), Peer)


def test_case_24_an_empty_called_title_is_refused_unless_any_is_answered_to() -> None:
    assert refusal(gate().judge(ANY, "192.0.2.1", request(called=""))) == (1, 1, 7, "called_ae")
    assert isinstance(gate().judge(replace(ANY, ae_titles=("*",)), "192.0.2.1", request(called="")), Peer)


def test_checks_come_in_order() -> None:
    house = House()
    house.refuses = (2, 3, 1, "spool")
    full = gate(CT1, house=house, associations=0)
    full.draining = True
    called = request(called="OTHER", calling="OTHER")
    assert refusal(full.judge(KNOWN, "10.1.0.1", called)) == (1, 1, 7, "called_ae")
    assert refusal(full.judge(KNOWN, "10.1.0.1", replace(called, called_ae="STORE"))) == (1, 1, 3, "calling_ae")
    assert refusal(full.judge(KNOWN, "10.1.0.1", request())) == (2, 3, 1, "shutting_down")
    full.draining = False
    assert refusal(full.judge(KNOWN, "10.1.0.1", request())) == (2, 3, 1, "spool")
    house.refuses = None
    assert refusal(full.judge(KNOWN, "10.1.0.1", request())) == (2, 3, 2, "associations")


@pytest.mark.parametrize(("version", "taken"), [(1, True), (3, True), (0xFFFF, True), (0, False), (2, False)])
def test_case_14_15_only_bit_0_of_the_protocol_version_counts(version: int, taken: bool) -> None:
    judged = gate().judge(ANY, "192.0.2.1", request(protocol_version=version))
    assert isinstance(judged, Peer) is taken
    if isinstance(judged, Refusal):
        assert judged.reject == AssociateReject(1, 2, 2)


@pytest.mark.parametrize("context", ["", "1.2.840.10008.3.1.1.2"])
def test_case_16_another_application_context_is_refused(context: str) -> None:
    assert refusal(gate().judge(ANY, "192.0.2.1", request(application_context=context)))[:3] == (1, 1, 2)


def test_case_49_associations_are_limited_in_all_and_per_peer() -> None:
    small = gate(replace(CT1, associations=1), associations=3, associations_per_peer=2)
    ct1 = small.judge(KNOWN, "10.1.0.1", request())
    assert isinstance(ct1, Peer)
    small.association_began(ct1, "10.1.0.1")
    assert refusal(small.judge(KNOWN, "10.1.0.2", request())) == (2, 3, 2, "associations_per_peer")
    for _ in range(2):
        other = small.judge(ANY, "192.0.2.1", request(calling="X"))
        assert isinstance(other, Peer)
        small.association_began(other, "192.0.2.1")
    assert refusal(small.judge(ANY, "192.0.2.9", request(calling="X"))) == (2, 3, 2, "associations")
    small.association_ended(ct1, "10.1.0.1")
    assert refusal(small.judge(ANY, "192.0.2.1", request(calling="Y"))) == (2, 3, 2, "associations_per_peer")
    assert isinstance(small.judge(ANY, "192.0.2.9", request(calling="X")), Peer)
    assert small.judge(KNOWN, "10.1.0.2", request()) == replace(CT1, associations=1)


def test_a_peer_may_be_allowed_none() -> None:
    none = gate(replace(CT1, associations=0))
    assert refusal(none.judge(KNOWN, "10.1.0.1", request()))[3] == "associations_per_peer"


def test_an_address_that_no_peer_has_is_not_even_heard() -> None:
    assert gate(CT1).enter(KNOWN, "10.2.0.1") == "address"
    assert gate(CT1).enter(ANY, "10.2.0.1") is Place.HANDSHAKE


def test_one_address_cannot_use_up_the_handshakes_of_the_others() -> None:
    small = gate(handshakes=200, handshakes_per_address=2)
    taken = [small.enter(ANY, "192.0.2.1") for _ in range(2 + BURST_PER_ADDRESS + 1)]
    assert taken == [Place.HANDSHAKE] * 2 + [Place.BURST] * BURST_PER_ADDRESS + ["handshakes_per_address"]
    assert small.enter(ANY, "192.0.2.2") is Place.HANDSHAKE
    small.leave(Place.HANDSHAKE, "192.0.2.1")
    assert small.enter(ANY, "192.0.2.1") is Place.HANDSHAKE


def test_handshakes_are_limited_in_all() -> None:
    small = gate(handshakes=3, handshakes_per_address=2)
    assert [small.enter(ANY, f"192.0.2.{n}") for n in range(4)] == [Place.HANDSHAKE] * 3 + ["handshakes"]
    assert small.handshakes == 3
    for n in range(3):
        small.leave(Place.HANDSHAKE, f"192.0.2.{n}")
    assert small.handshakes == 0


def test_who_was_silent_for_long_gives_up_its_place_to_another() -> None:
    small = gate(handshakes=2, handshakes_per_address=2)
    gone: list[str] = []

    def holder(address: str) -> Callable[[], None]:
        def give_up() -> None:
            gone.append(address)
            small.leave(Place.HANDSHAKE, address, give_up)

        return give_up

    first, second = holder("192.0.2.1"), holder("192.0.2.2")
    assert small.enter(ANY, "192.0.2.1", first, 10.0) is Place.HANDSHAKE
    assert small.enter(ANY, "192.0.2.2", second, 10.5) is Place.HANDSHAKE
    assert small.enter(ANY, "192.0.2.3", holder("192.0.2.3"), 10.9) == "handshakes", "they had no time to speak"
    assert small.enter(ANY, "192.0.2.4", holder("192.0.2.4"), 11.0) is Place.HANDSHAKE
    assert gone == ["192.0.2.1"], "the oldest"
    small.leave(Place.HANDSHAKE, "192.0.2.2", second)
    assert small.enter(ANY, "192.0.2.5", holder("192.0.2.5"), 11.1) is Place.HANDSHAKE
    assert gone == ["192.0.2.1"], "whose handshake is over has none to give"
    assert small.handshakes == 2


def test_peers_can_be_exchanged() -> None:
    one = gate(CT1)
    one.know([replace(CT1, name="new")])
    assert name_of(one.judge(KNOWN, "10.1.0.1", request())) == "new"
