"""What the router promises, tried on DCMTK, pynetdicom and Orthanc too: the same bytes, the same disks, one table.

Only the router is judged. The others are told as they are found, with their defaults.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.peers import cannot
from tests.torture.figures import Figure, report
from tests.torture.peers.scenarios import SCENARIOS
from tests.torture.peers.subjects import subjects


@pytest.mark.peer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", subjects())
def test_what_becomes_of_it(tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, name: str) -> None:
    subject = subjects()[name]()
    for number, scenario in enumerate(SCENARIOS[: amount("misfortunes", 1, len(SCENARIOS))]):
        if reason := scenario.unable():
            if os.environ.get("CI") == "true":
                cannot(f"{scenario.promise}: {reason}")
            print(f"\n{scenario.promise}: not here: {reason}")
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        seen = scenario.run(subject, folder)
        report(
            Figure(
                test=scenario.test,
                promise=scenario.promise,
                goal=scenario.goal,
                found=seen.found,
                n=seen.n,
                command="make torture (tests/torture/peers)",
                subject=subject.name,
                met=seen.good,
            ),
            keep=campaign and (seen.good or not subject.ours),
        )
        assert seen.good or not subject.ours, f"{scenario.promise}: {seen.found}"
