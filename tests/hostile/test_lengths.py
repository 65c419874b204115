"""Every PDU type with every awkward length, before an association, within one and within a message: an answer or an
end, and never memory."""

from __future__ import annotations

import struct

import pytest

from tests.hostile.support import Victim, forget_peak, fresh_uid, resident
from tests.support.objects import encode, synthetic
from tests.support.plain_pdu import p_data
from tests.support.script import CT, EXPLICIT, store
from tests.support.seen import Seen
from tests.torture.figures import Figure, report

MIB = 1 << 20
NAMES = {1: "A-ASSOCIATE-RQ", 2: "A-ASSOCIATE-AC", 3: "A-ASSOCIATE-RJ", 4: "P-DATA-TF", 5: "A-RELEASE-RQ",
         6: "A-RELEASE-RP", 7: "A-ABORT"}  # fmt: skip
MAX_PDU = 131072
ASSOCIATE_PDU = 1 << 20
LIMITS = {1: ASSOCIATE_PDU, 2: ASSOCIATE_PDU, 4: MAX_PDU}
REFUSED, UNEXPECTED, RELEASED = (7, bytes(4)), (7, bytes((0, 0, 2, 2))), (6, bytes(4))
SHORT = {
    3: (REFUSED, UNEXPECTED, UNEXPECTED),
    5: (REFUSED, RELEASED, UNEXPECTED),
    6: (REFUSED, UNEXPECTED, UNEXPECTED),
    7: (None, None, None),
}
"""What is answered to those that carry nothing to speak of, by PS3.8 Table 9-10: before an association (Sta2: AA-1,
AA-2), within one (Sta6: AA-8, AR-2 and AR-4, AA-3), and within a message. None: closed without a word. Their type is
all that counts: any length that may be read is read over."""
PRESSED = 4 * MIB
"""Bytes sent behind a header, at most."""


def lengths(kind: int) -> list[int]:
    limit = LIMITS.get(kind, 4)
    return sorted({0, 3, 4, limit, limit + 1, 1 << 31, (1 << 32) - 1})


SEEN = Seen()
CASES = [(kind, length) for kind in NAMES for length in lengths(kind)]


@pytest.mark.parametrize(("kind", "length"), CASES, ids=[f"{NAMES[kind]} of {length}" for kind, length in CASES])
def test_a_pdu_of_any_length_ends_in_an_answer_or_an_end(victim: Victim, kind: int, length: int) -> None:
    before = resident(victim.pid)
    forget_peak(victim.pid)
    header = struct.pack(">BBI", kind, 0, length)
    uid = fresh_uid()
    half = store(uid, encode(synthetic(size=200_000, sop_instance=uid))[:120_000])[: -len(p_data(1, 2, bytes(60_000)))]
    for state, (associate, prologue) in enumerate(((None, b""), (((CT, EXPLICIT),), b""), (((CT, EXPLICIT),), half))):
        with victim.attack(associate=associate) as attacker:
            attacker.press(prologue + header + bytes(min(length, PRESSED)), 1)
            attacker.connection.settimeout(10)
            if length > LIMITS.get(kind, ASSOCIATE_PDU):
                assert attacker.answer() in (ABORTED, None)  # None: the last word was lost with a reset
            elif kind in SHORT:
                assert attacker.answer() == SHORT[kind][state]
            elif length and kind == 4 and associate is not None:
                attacker.answer()  # a PDV of length 0 is none, or the object is broken
            attacker.reset()
    assert victim.arrived(uid) == []
    assert resident(victim.pid, "VmHWM") - before <= 4 * MIB
    SEEN.add(f"{NAMES[kind]} of {length}")


def test_lengths_have_their_figure(campaign: bool) -> None:
    SEEN.all_of({f"{NAMES[kind]} of {length}" for kind, length in CASES})
    report(
        Figure(
            test="T23",
            promise="every PDU type with lengths 0, 3, 4, its limit, one more, 2^31 and 2^32 - 1: before an "
            "association, within one, within an object",
            goal="an answer or an end; memory ≤ 4 MiB more; nothing of it delivered",
            found="all of them so",
            n=3 * len(CASES),
            command="make torture (tests/hostile/test_lengths.py)",
        ),
        keep=campaign,
    )


ABORTED = (7, bytes((0, 0, 2, 6)))
