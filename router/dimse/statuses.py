"""What a status means in general (PS3.7 Annex C): five classes by number."""

from __future__ import annotations

from enum import StrEnum


class StatusClass(StrEnum):
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"
    CANCEL = "cancel"
    PENDING = "pending"
    UNKNOWN = "unknown"


def classify(status: int) -> StatusClass:
    """The class of a status code, 0x0000 to 0xFFFF."""
    if status == 0x0000:
        return StatusClass.SUCCESS
    if status in (0x0001, 0x0107, 0x0116) or status >> 12 == 0xB:
        return StatusClass.WARNING
    if status >> 12 in (0xA, 0xC) or status >> 8 in (0x01, 0x02):
        return StatusClass.FAILURE
    if status == 0xFE00:
        return StatusClass.CANCEL
    if status in (0xFF00, 0xFF01):
        return StatusClass.PENDING
    return StatusClass.UNKNOWN
