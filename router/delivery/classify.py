"""What an answer, or the lack of one, means for the object and for the destination. Pure.

=========================== ============= =====================================================================
answer                      meaning       effect
=========================== ============= =====================================================================
0x0000                      DELIVERED
0xBxxx, 0001, 0107, 0116    WARNING       delivered, never repeated
0x0111                      DELIVERED     a repeat after a lost answer gives exactly this (switchable: REFUSED); said of
                                          other bytes under a UID that is there already: REFUSED
0xA7xx, 0213                BUSY          the destination rests; the object is not charged
0x0124, RJ permanent, TLS   MISCONFIGURED the destination rests and says so; nothing is given up
0xA9xx, Cxxx, 0117, 0122    REFUSED       3 attempts at least 10 minutes apart, then a dead letter
everything else             SUSPECT       10 attempts over at least 24 hours, then a dead letter
association lost            UNKNOWN       sent again; three times in a row: alone, and charged
no connection, RJ transient DOWN          the destination rests
=========================== ============= =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from router.dimse.statuses import StatusClass, classify
from router.errors import (
    AssociationAborted,
    AssociationRejected,
    DeliveryError,
    SpoolCorrupt,
    SpoolError,
    TlsFailure,
)
from router.model import Delivery


class Meaning(StrEnum):
    DELIVERED = "delivered"
    WARNING = "warning"
    SUSPECT = "suspect"
    REFUSED = "refused"
    NO_CONTEXT = "no context"
    UNKNOWN = "unknown"
    BUSY = "busy"
    MISCONFIGURED = "misconfigured"
    DOWN = "down"
    DAMAGED = "damaged"
    """Our own stored bytes do not read back."""
    LOCAL = "local"
    """Our own disk could not be read now."""


@dataclass(frozen=True, slots=True)
class Judgement:
    meaning: Meaning
    reason: str
    """Fixed words of ours, with numbers; nothing of the peer's text."""


_OBJECT_REFUSED = frozenset((0x0117, 0x0122))


@lru_cache(maxsize=256)
def judge_status(status: int, duplicate_is_done: bool = True) -> Judgement:
    """What a C-STORE-RSP's status means."""
    kind = classify(status)
    if kind is StatusClass.SUCCESS:
        return Judgement(Meaning.DELIVERED, "")
    reason = f"status 0x{status:04X}"
    if kind is StatusClass.WARNING:
        return Judgement(Meaning.WARNING, reason)
    if status == 0x0111 and duplicate_is_done:
        return Judgement(Meaning.DELIVERED, "already there (0x0111)")
    if status >> 8 == 0xA7 or status == 0x0213:
        return Judgement(Meaning.BUSY, f"out of resources, {reason}")
    if status == 0x0124:
        return Judgement(Meaning.MISCONFIGURED, f"not authorized, {reason}")
    if status >> 8 == 0xA9 or status >> 12 == 0xC or status in _OBJECT_REFUSED or status == 0x0111:
        return Judgement(Meaning.REFUSED, reason)
    return Judgement(Meaning.SUSPECT, reason)


def judge_error(error: BaseException) -> Judgement:
    """What a failed attempt to associate or to send means."""
    if isinstance(error, AssociationRejected):
        words = f"rejected ({error.result}, {error.source}, {error.reason})"
        if error.permanent:
            return Judgement(Meaning.MISCONFIGURED, f"association {words}: check AE titles on both sides")
        return Judgement(Meaning.DOWN, f"association {words}")
    if isinstance(error, SpoolCorrupt):
        return Judgement(Meaning.DAMAGED, f"stored record damaged: {error}")
    if isinstance(error, SpoolError):
        return Judgement(Meaning.LOCAL, str(error))
    if isinstance(error, AssociationAborted):
        return Judgement(Meaning.UNKNOWN, f"association lost: {error}")
    if isinstance(error, TlsFailure):
        return Judgement(Meaning.MISCONFIGURED, f"TLS: {error}")
    if isinstance(error, DeliveryError):
        return Judgement(Meaning.DOWN if error.temporary else Meaning.NO_CONTEXT, str(error))
    if isinstance(error, OSError):
        return Judgement(Meaning.DOWN, error.strerror or type(error).__name__)
    return Judgement(Meaning.SUSPECT, f"fault of ours: {type(error).__name__}")


# Object-level retries --------------------------------------------------------------------------------------

SUSPECT_DELAYS = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0)
"""Between 10 attempts: together a little over a day."""
REFUSED_DELAYS = (600.0, 600.0)
SUSPECT_SPAN = 86400.0


def retry_after(meaning: Meaning, delivery: Delivery, now: float) -> float | None:
    """Seconds until the object may be tried again, after an attempt that is charged to it; None: give it up.

    ``now`` is epoch seconds, as ``delivery.first_attempt``.
    """
    done = delivery.attempts  # charged before this one
    if meaning is Meaning.REFUSED:
        return REFUSED_DELAYS[done] if done < len(REFUSED_DELAYS) else None
    if done < len(SUSPECT_DELAYS):
        return SUSPECT_DELAYS[done]
    first = delivery.first_attempt
    return None if first is not None and now - first >= SUSPECT_SPAN else SUSPECT_DELAYS[-1]
