"""The state machine of PS3.8 Table 9-10 as a table: 13 states, 19 events, actions as effects.

An action is what the owner of the transport has to do, and the next state. The table knows no bytes, no timers'
lengths, no sockets. A pair that it leaves blank cannot happen; reaching one is our own bug and raises
LocalProtocolError.

AE-6 always goes to Sta3: a request that the provider itself refuses (its protocol version) is told to the user like any
other, and refused from there by AE-8.

Two cells go beyond the standard, as DCMTK does: the timer also ends waiting for an A-ASSOCIATE-AC (Sta5) and for an
A-RELEASE-RP (Sta7). PS3.8 §9.1.4 leaves these to the layer above, which is us.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from router.errors import LocalProtocolError


class State(IntEnum):
    """PS3.8 §9.2.1."""

    STA1 = 1
    """Idle, no transport."""
    STA2 = 2
    """Transport open, awaiting A-ASSOCIATE-RQ."""
    STA3 = 3
    """Awaiting our own accept or reject."""
    STA4 = 4
    """Awaiting the transport to open."""
    STA5 = 5
    """Awaiting A-ASSOCIATE-AC or -RJ."""
    STA6 = 6
    """Established, ready for data transfer."""
    STA7 = 7
    """Awaiting A-RELEASE-RP."""
    STA8 = 8
    """Awaiting our own release response."""
    STA9 = 9
    """Release collision, requestor: awaiting our own release response."""
    STA10 = 10
    """Release collision, acceptor: awaiting A-RELEASE-RP."""
    STA11 = 11
    """Release collision, requestor: awaiting A-RELEASE-RP."""
    STA12 = 12
    """Release collision, acceptor: awaiting our own release response."""
    STA13 = 13
    """Awaiting the transport to close."""


class Event(IntEnum):
    """PS3.8 Table 9-10, left column."""

    ASSOCIATE_REQUEST = 1
    TRANSPORT_CONNECTED = 2
    AC_PDU = 3
    RJ_PDU = 4
    TRANSPORT_INDICATION = 5
    RQ_PDU = 6
    ACCEPT = 7
    REJECT = 8
    DATA_REQUEST = 9
    DATA_PDU = 10
    RELEASE_REQUEST = 11
    RELEASE_RQ_PDU = 12
    RELEASE_RP_PDU = 13
    RELEASE_RESPONSE = 14
    ABORT_REQUEST = 15
    ABORT_PDU = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU = 19


class Effect(Enum):
    """What an action asks of the association; carried out in the order given."""

    CONNECT = "open the transport"
    SEND_RQ = "send A-ASSOCIATE-RQ"
    SEND_AC = "send A-ASSOCIATE-AC"
    SEND_RJ = "send A-ASSOCIATE-RJ"
    SEND_DATA = "send P-DATA-TF"
    SEND_RELEASE_RQ = "send A-RELEASE-RQ"
    SEND_RELEASE_RP = "send A-RELEASE-RP"
    SEND_ABORT_USER = "send A-ABORT, source service-user"
    SEND_ABORT_PROVIDER = "send A-ABORT, source service-provider"
    INDICATE_REQUEST = "tell the user: association requested"
    INDICATE_ACCEPTED = "tell the user: association accepted"
    INDICATE_REJECTED = "tell the user: association rejected"
    INDICATE_DATA = "tell the user: data"
    INDICATE_RELEASE = "tell the user: release requested"
    CONFIRM_RELEASE = "tell the user: released"
    INDICATE_ABORT = "tell the user: the peer aborted"
    INDICATE_PROVIDER_ABORT = "tell the user: we had to abort"
    INDICATE_LOST = "tell the user: the transport is gone"
    CLOSE = "close the transport"
    START_ARTIM = "start ARTIM"
    STOP_ARTIM = "stop ARTIM"


S, F = State, Effect
Transition = tuple[tuple[Effect, ...], State]

AE_1: Transition = ((F.CONNECT,), S.STA4)
AE_2: Transition = ((F.SEND_RQ,), S.STA5)
AE_3: Transition = ((F.INDICATE_ACCEPTED,), S.STA6)
AE_4: Transition = ((F.INDICATE_REJECTED, F.CLOSE), S.STA1)
AE_5: Transition = ((F.START_ARTIM,), S.STA2)
AE_6: Transition = ((F.STOP_ARTIM, F.INDICATE_REQUEST), S.STA3)
AE_7: Transition = ((F.SEND_AC,), S.STA6)
AE_8: Transition = ((F.SEND_RJ, F.START_ARTIM), S.STA13)
DT_1: Transition = ((F.SEND_DATA,), S.STA6)
DT_2: Transition = ((F.INDICATE_DATA,), S.STA6)
AR_1: Transition = ((F.SEND_RELEASE_RQ,), S.STA7)
AR_2: Transition = ((F.INDICATE_RELEASE,), S.STA8)
AR_3: Transition = ((F.CONFIRM_RELEASE, F.CLOSE), S.STA1)
AR_4: Transition = ((F.SEND_RELEASE_RP, F.START_ARTIM), S.STA13)
AR_5: Transition = ((F.STOP_ARTIM,), S.STA1)
AR_6: Transition = ((F.INDICATE_DATA,), S.STA7)
AR_7: Transition = ((F.SEND_DATA,), S.STA8)
AR_8_REQUESTOR: Transition = ((F.INDICATE_RELEASE,), S.STA9)
AR_8_ACCEPTOR: Transition = ((F.INDICATE_RELEASE,), S.STA10)
AR_9: Transition = ((F.SEND_RELEASE_RP,), S.STA11)
AR_10: Transition = ((F.CONFIRM_RELEASE,), S.STA12)
AA_1: Transition = ((F.SEND_ABORT_USER, F.START_ARTIM), S.STA13)
AA_2: Transition = ((F.STOP_ARTIM, F.CLOSE), S.STA1)
AA_2_TIMEOUT: Transition = ((F.INDICATE_PROVIDER_ABORT, F.SEND_ABORT_USER, F.CLOSE), S.STA1)
AA_3: Transition = ((F.INDICATE_ABORT, F.CLOSE), S.STA1)
AA_4: Transition = ((F.INDICATE_LOST,), S.STA1)
AA_5: Transition = ((F.STOP_ARTIM,), S.STA1)
AA_6: Transition = ((), S.STA13)
AA_7: Transition = ((F.SEND_ABORT_PROVIDER,), S.STA13)
AA_8: Transition = ((F.SEND_ABORT_PROVIDER, F.INDICATE_PROVIDER_ABORT, F.START_ARTIM), S.STA13)
AA_2_CLOSE: Transition = ((F.CLOSE,), S.STA1)
"""Our own abort while the transport is still opening (Sta4): there is nobody to send it to."""


def _unexpected(event: Event, states: tuple[State, ...]) -> dict[tuple[State, Event], Transition]:
    return {(state, event): AA_8 for state in states}


_OPEN = (S.STA3, S.STA5, S.STA6, S.STA7, S.STA8, S.STA9, S.STA10, S.STA11, S.STA12)
E = Event

TRANSITIONS: dict[tuple[State, Event], Transition] = {
    (S.STA1, E.ASSOCIATE_REQUEST): AE_1,
    (S.STA4, E.TRANSPORT_CONNECTED): AE_2,
    **_unexpected(E.AC_PDU, _OPEN),
    (S.STA2, E.AC_PDU): AA_1,
    (S.STA5, E.AC_PDU): AE_3,
    (S.STA13, E.AC_PDU): AA_6,
    **_unexpected(E.RJ_PDU, _OPEN),
    (S.STA2, E.RJ_PDU): AA_1,
    (S.STA5, E.RJ_PDU): AE_4,
    (S.STA13, E.RJ_PDU): AA_6,
    (S.STA1, E.TRANSPORT_INDICATION): AE_5,
    **_unexpected(E.RQ_PDU, _OPEN),
    (S.STA2, E.RQ_PDU): AE_6,
    (S.STA13, E.RQ_PDU): AA_7,
    (S.STA3, E.ACCEPT): AE_7,
    (S.STA3, E.REJECT): AE_8,
    (S.STA6, E.DATA_REQUEST): DT_1,
    (S.STA8, E.DATA_REQUEST): AR_7,
    **_unexpected(E.DATA_PDU, _OPEN),
    (S.STA2, E.DATA_PDU): AA_1,
    (S.STA6, E.DATA_PDU): DT_2,
    (S.STA7, E.DATA_PDU): AR_6,
    (S.STA13, E.DATA_PDU): AA_6,
    (S.STA6, E.RELEASE_REQUEST): AR_1,
    **_unexpected(E.RELEASE_RQ_PDU, _OPEN),
    (S.STA2, E.RELEASE_RQ_PDU): AA_1,
    (S.STA6, E.RELEASE_RQ_PDU): AR_2,
    (S.STA7, E.RELEASE_RQ_PDU): AR_8_REQUESTOR,
    (S.STA13, E.RELEASE_RQ_PDU): AA_6,
    **_unexpected(E.RELEASE_RP_PDU, _OPEN),
    (S.STA2, E.RELEASE_RP_PDU): AA_1,
    (S.STA7, E.RELEASE_RP_PDU): AR_3,
    (S.STA10, E.RELEASE_RP_PDU): AR_10,
    (S.STA11, E.RELEASE_RP_PDU): AR_3,
    (S.STA13, E.RELEASE_RP_PDU): AA_6,
    (S.STA8, E.RELEASE_RESPONSE): AR_4,
    (S.STA9, E.RELEASE_RESPONSE): AR_9,
    (S.STA12, E.RELEASE_RESPONSE): AR_4,
    (S.STA4, E.ABORT_REQUEST): AA_2_CLOSE,
    **{(state, E.ABORT_REQUEST): AA_1 for state in _OPEN},
    (S.STA2, E.ABORT_PDU): AA_2,
    **{(state, E.ABORT_PDU): AA_3 for state in _OPEN},
    (S.STA13, E.ABORT_PDU): AA_2,
    (S.STA2, E.TRANSPORT_CLOSED): AA_5,
    (S.STA4, E.TRANSPORT_CLOSED): AA_4,
    **{(state, E.TRANSPORT_CLOSED): AA_4 for state in _OPEN},
    (S.STA13, E.TRANSPORT_CLOSED): AR_5,
    (S.STA2, E.ARTIM_EXPIRED): AA_2,
    (S.STA5, E.ARTIM_EXPIRED): AA_2_TIMEOUT,
    (S.STA7, E.ARTIM_EXPIRED): AA_2_TIMEOUT,
    (S.STA13, E.ARTIM_EXPIRED): AA_2,
    (S.STA2, E.INVALID_PDU): AA_1,
    **_unexpected(E.INVALID_PDU, _OPEN),
    (S.STA13, E.INVALID_PDU): AA_7,
}


def transition(state: State, event: Event, *, requestor: bool) -> Transition:
    """What happens on ``event`` in ``state``. Raises LocalProtocolError for a pair that the table leaves blank."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise LocalProtocolError(f"{event.name} cannot happen in {state.name}")
    if found is AR_8_REQUESTOR and not requestor:
        return AR_8_ACCEPTOR
    return found
