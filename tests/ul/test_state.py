"""The state machine is PS3.8 Table 9-10: every one of its 13 x 19 pairs."""

from __future__ import annotations

import pytest

from router.errors import LocalProtocolError
from router.ul.state import TRANSITIONS, Effect, Event, State, transition

# Rows are events 1 to 19, columns states 1 to 13, as the standard prints them; a dot is a blank cell. (T) marks the
# two cells that the standard leaves blank: the timers of the layer above.
TABLE = """
AE-1 .     .     .     .     .    .      .    .    .     .    .    .
.    .     .     AE-2  .     .    .      .    .    .     .    .    .
.    AA-1  AA-8  .     AE-3  AA-8 AA-8   AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
.    AA-1  AA-8  .     AE-4  AA-8 AA-8   AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
AE-5 .     .     .     .     .    .      .    .    .     .    .    .
.    AE-6  AA-8  .     AA-8  AA-8 AA-8   AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
.    .     AE-7  .     .     .    .      .    .    .     .    .    .
.    .     AE-8  .     .     .    .      .    .    .     .    .    .
.    .     .     .     .     DT-1 .      AR-7 .    .     .    .    .
.    AA-1  AA-8  .     AA-8  DT-2 AR-6   AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
.    .     .     .     .     AR-1 .      .    .    .     .    .    .
.    AA-1  AA-8  .     AA-8  AR-2 AR-8   AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
.    AA-1  AA-8  .     AA-8  AA-8 AR-3   AA-8 AA-8 AR-10 AR-3 AA-8 AA-6
.    .     .     .     .     .    .      AR-4 AR-9 .     .    AR-4 .
.    .     AA-1  AA-2  AA-1  AA-1 AA-1   AA-1 AA-1 AA-1  AA-1 AA-1 .
.    AA-2  AA-3  .     AA-3  AA-3 AA-3   AA-3 AA-3 AA-3  AA-3 AA-3 AA-2
.    AA-5  AA-4  AA-4  AA-4  AA-4 AA-4   AA-4 AA-4 AA-4  AA-4 AA-4 AR-5
.    AA-2  .     .     AA-2T .    AA-2T  .    .    .     .    .    AA-2
.    AA-1  AA-8  .     AA-8  AA-8 AA-8   AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
"""
CELLS = {
    (State(column), Event(row)): cell
    for row, line in enumerate(TABLE.strip().splitlines(), 1)
    for column, cell in enumerate(line.split(), 1)
}

# PS3.8 Tables 9-6 to 9-9: what each action sends, tells and closes, and the state after it.
F = Effect
ACTIONS: dict[str, tuple[list[Effect], int]] = {
    "AE-1": ([F.CONNECT], 4),
    "AE-2": ([F.SEND_RQ], 5),
    "AE-3": ([F.INDICATE_ACCEPTED], 6),
    "AE-4": ([F.INDICATE_REJECTED, F.CLOSE], 1),
    "AE-5": ([F.START_ARTIM], 2),
    "AE-6": ([F.STOP_ARTIM, F.INDICATE_REQUEST], 3),
    "AE-7": ([F.SEND_AC], 6),
    "AE-8": ([F.SEND_RJ, F.START_ARTIM], 13),
    "DT-1": ([F.SEND_DATA], 6),
    "DT-2": ([F.INDICATE_DATA], 6),
    "AR-1": ([F.SEND_RELEASE_RQ], 7),
    "AR-2": ([F.INDICATE_RELEASE], 8),
    "AR-3": ([F.CONFIRM_RELEASE, F.CLOSE], 1),
    "AR-4": ([F.SEND_RELEASE_RP, F.START_ARTIM], 13),
    "AR-5": ([F.STOP_ARTIM], 1),
    "AR-6": ([F.INDICATE_DATA], 7),
    "AR-7": ([F.SEND_DATA], 8),
    "AR-8": ([F.INDICATE_RELEASE], 9),
    "AR-9": ([F.SEND_RELEASE_RP], 11),
    "AR-10": ([F.CONFIRM_RELEASE], 12),
    "AA-1": ([F.SEND_ABORT_USER, F.START_ARTIM], 13),
    "AA-2": ([F.STOP_ARTIM, F.CLOSE], 1),
    "AA-2T": ([F.INDICATE_PROVIDER_ABORT, F.SEND_ABORT_USER, F.CLOSE], 1),
    "AA-3": ([F.INDICATE_ABORT, F.CLOSE], 1),
    "AA-4": ([F.INDICATE_LOST], 1),
    "AA-5": ([F.STOP_ARTIM], 1),
    "AA-6": ([], 13),
    "AA-7": ([F.SEND_ABORT_PROVIDER], 13),
    "AA-8": ([F.SEND_ABORT_PROVIDER, F.INDICATE_PROVIDER_ABORT, F.START_ARTIM], 13),
}


def test_the_table_has_thirteen_states_and_nineteen_events():
    assert len(CELLS) == 13 * 19


@pytest.mark.parametrize(("state", "event"), list(CELLS), ids=lambda value: value.name)
def test_every_pair_does_what_the_standard_says(state: State, event: Event):
    cell = CELLS[state, event]
    if cell == ".":
        assert (state, event) not in TRANSITIONS
        with pytest.raises(LocalProtocolError):
            transition(state, event, requestor=True)
        return
    effects, after = ACTIONS[cell]
    found, state_after = transition(state, event, requestor=True)
    # Nothing runs the timer while the transport is not open: there is none to stop.
    wanted = [effect for effect in effects if not (state is State.STA4 and effect is F.STOP_ARTIM)]
    assert (list(found), int(state_after)) == (wanted, after)


def test_a_release_collision_goes_two_ways():
    """AR-8: Sta9 for the requestor of the association, Sta10 for its acceptor."""
    assert transition(State.STA7, Event.RELEASE_RQ_PDU, requestor=True)[1] is State.STA9
    assert transition(State.STA7, Event.RELEASE_RQ_PDU, requestor=False)[1] is State.STA10


def test_the_role_matters_nowhere_else():
    different = {
        pair for pair in TRANSITIONS if transition(*pair, requestor=True) != transition(*pair, requestor=False)
    }
    assert different == {(State.STA7, Event.RELEASE_RQ_PDU)}


def test_whatever_aborts_or_ends_leads_to_a_closed_transport():
    """Sta13 is left by the timer or by the peer; Sta1 is reached by closing, or because the transport has gone."""
    for (_, event), (effects, after) in TRANSITIONS.items():
        if after is State.STA1:
            assert F.CLOSE in effects or event is Event.TRANSPORT_CLOSED
        if after is State.STA13:
            assert TRANSITIONS[State.STA13, Event.ARTIM_EXPIRED][1] is State.STA1
