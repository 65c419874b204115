"""Statuses fall into five classes by their number (PS3.7 Annex C)."""

from __future__ import annotations

import pytest

from router.dimse.statuses import StatusClass, classify

SUCCESS, WARNING, FAILURE = StatusClass.SUCCESS, StatusClass.WARNING, StatusClass.FAILURE


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, SUCCESS),
        (0x0001, WARNING),
        (0x0107, WARNING),
        (0x0116, WARNING),
        (0xB000, WARNING),
        (0xB006, WARNING),
        (0xB007, WARNING),
        (0xBFFF, WARNING),
        (0x0105, FAILURE),
        (0x0110, FAILURE),
        (0x0111, FAILURE),
        (0x0117, FAILURE),
        (0x0122, FAILURE),
        (0x0124, FAILURE),
        (0x0210, FAILURE),
        (0x0211, FAILURE),
        (0x0213, FAILURE),
        (0xA700, FAILURE),
        (0xA702, FAILURE),
        (0xA900, FAILURE),
        (0xC000, FAILURE),
        (0xCFFF, FAILURE),
        (0xFE00, StatusClass.CANCEL),
        (0xFF00, StatusClass.PENDING),
        (0xFF01, StatusClass.PENDING),
        (0x0002, StatusClass.UNKNOWN),
        (0x1234, StatusClass.UNKNOWN),
        (0xFFFF, StatusClass.UNKNOWN),
    ],
    ids=lambda value: f"0x{value:04X}" if isinstance(value, int) else None,
)
def test_the_class_of_a_status(status: int, expected: StatusClass):
    assert classify(status) is expected


def test_every_number_has_a_class_and_only_one_means_success():
    assert [status for status in range(0x10000) if classify(status) is SUCCESS] == [0]
