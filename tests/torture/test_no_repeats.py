"""Where nothing goes wrong, a destination is sent each object once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import flow
from tests.torture.figures import Figure, report

EACH = 100_000
"""Objects of one run of the router."""
SIZE = 2048


@pytest.mark.timeout(3600)
def test_without_a_fault_nothing_is_lost_and_nothing_is_sent_twice(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    sends = amount("sends", 4_000, 1_000_000)
    tools = flow.build_tools(tmp_path / "tools")
    seconds = 0.0
    for first in range(0, sends, EACH):
        work = flow.Work(
            folder=tmp_path / f"from-{first}",
            tools=tools,
            size=SIZE,
            objects=min(EACH, sends - first),
            associations=16,
            destinations=1,
            per_association=200,
            first=first,
        )
        seen = flow.run(flow.router, work)
        assert (seen.failures, seen.lost, seen.damaged, seen.duplicates) == (0, 0, 0, 0), f"from {first}: {seen}"
        seconds += seen.seconds
    report(
        Figure(
            test="T11",
            promise="without a fault nothing is lost, changed or sent twice",
            goal="0 in 1,000,000 sends",
            found=f"0 of {sends:,} objects of {SIZE} bytes over 16 associations, {sends / seconds:,.0f} a second",
            n=sends,
            command=f"make torture (tests/torture/test_no_repeats.py, --amount sends={sends})",
            met=sends >= 1_000_000,
        ),
        keep=campaign,
    )
