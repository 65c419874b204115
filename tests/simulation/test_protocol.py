"""Seeds of two association cores and a network: both come to their end in order, whatever the network and users do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from router.ul import association
from router.ul.state import (
    AA_6,
    AA_7,
    AA_8,
    AE_7,
    AR_2,
    AR_3,
    AR_4,
    AR_8_ACCEPTOR,
    TRANSITIONS,
    Effect,
    Event,
    State,
    Transition,
)
from tests.simulation.protocol import simulate
from tests.torture.figures import Figure, report

S, E = State, Event
AT_MOST = 600
"""Seeds within which a fault of the table must be noticed."""
TIMERS = {
    "STA2 acceptor", "STA5 requestor", "STA6 acceptor", "STA6 requestor", "STA7 acceptor", "STA7 requestor",
    "STA9 requestor", "STA10 acceptor", "STA11 requestor", "STA12 acceptor", "STA13 acceptor", "STA13 requestor",
}  # fmt: skip
"""All that there are: the state, and whose."""


@pytest.mark.timeout(7200)
def test_every_association_ends_in_order_for_both_sides(amount: Callable[[str, int, int], int], campaign: bool) -> None:
    seeds = amount("associations", 400, 100_000)
    started = time.monotonic()
    with ProcessPoolExecutor(2 if campaign else 1) as pool:
        courses = list(pool.map(simulate, range(seeds), chunksize=100))
    took = time.monotonic() - started
    wrong = [course for course in courses if course.wrong]
    assert not wrong, wrong[:5]
    states = Counter(state for course in courses for state in course.states)
    timers = Counter(timer for course in courses for timer in course.timers)
    assert set(states) == {state.name for state in State}, "every state was passed through"
    if campaign:
        assert set(timers) == TIMERS, "every timer ran out"
    report(
        Figure(
            test="T8",
            promise="two association cores and a network that cuts, delays, loses, swallows; aborts, collisions",
            goal="both always end; what is answered was whole; nothing is sent after an abort",
            found=f"0 violations in {sum(course.messages for course in courses):,} messages, "
            f"{states[S.STA9.name] + states[S.STA10.name]:,} sides in colliding releases, "
            f"{timers.total():,} timers that ran out; "
            f"{seeds / took * 60:,.0f} seeds a minute",
            n=seeds,
            command=f"make torture (tests/simulation/test_protocol.py, --amount associations={seeds})",
        ),
        keep=campaign,
    )


@pytest.mark.parametrize("seed", [2, 28])
def test_a_seed_is_the_same_every_time(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


# That it sees what is wrong ----------------------------------------------------------------------------------------

MUTANTS: dict[str, tuple[tuple[State, Event], Transition | None]] = {
    "the end of the transport is forgotten after a release": ((S.STA13, E.TRANSPORT_CLOSED), None),
    "a requestor takes itself for the acceptor when releases collide": ((S.STA7, E.RELEASE_RQ_PDU), AR_8_ACCEPTOR),
    "a collision is taken for an ordinary release": ((S.STA7, E.RELEASE_RQ_PDU), AR_2),
    "an acceptor is done before it has answered": ((S.STA10, E.RELEASE_RP_PDU), AR_3),
    "a requestor aborts at the end of a collision": ((S.STA11, E.RELEASE_RP_PDU), AA_8),
    "a requestor does not wait for the other answer": ((S.STA9, E.RELEASE_RESPONSE), AR_4),
    "an abort of the peer is overheard": ((S.STA6, E.ABORT_PDU), ((), S.STA6)),
    "an abort of the peer is answered by one": ((S.STA6, E.ABORT_PDU), AA_8),
    "nobody closes after an abort": ((S.STA13, E.ARTIM_EXPIRED), AA_6),
    "the timer for an answer does nothing": ((S.STA5, E.ARTIM_EXPIRED), ((), S.STA5)),
    "data after our release request is a fault": ((S.STA13, E.DATA_PDU), ((Effect.SEND_RELEASE_RP,), S.STA13)),
    "a rejected association is open": ((S.STA3, E.REJECT), AE_7),
    "a lost transport is not told": ((S.STA6, E.TRANSPORT_CLOSED), AA_7),
}


def noticed() -> bool:
    return any(simulate(seed).wrong for seed in range(AT_MOST))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_table_with_a_fault_is_found_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place, transition = MUTANTS[name]
    if transition is None:
        monkeypatch.delitem(TRANSITIONS, place)
    else:
        monkeypatch.setitem(TRANSITIONS, place, transition)
    assert noticed()


def test_a_core_without_a_timer_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "_RELEASING", frozenset())
    assert noticed()
