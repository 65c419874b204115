"""The suite can fail: without any one step of durability, power cuts lose objects, or what had worked does not start.

A router that never gave an answer is a mutant that does not fit, and a failure of the test.

What no power cut of an image can show is not here: that a disk keeps what it has taken, and that a directory keeps a
name (``mutants.NEEDS_STRICT_DISK``).
"""

from __future__ import annotations

import glob
import sys
from pathlib import Path

import pytest

from tests.support.peers import cannot
from tests.torture.figures import Figure, report
from tests.torture.images import unable
from tests.torture.mutants import MUTANTS
from tests.torture.test_power_cut import Unrecovered, survive

CUTS = 4
SHARE = ("groups_are_not_synced",)
"""The rest is for the campaign."""


def found_out(folder: Path, rounds: int, **how: object) -> str:
    """What told it; empty if nothing did in so many rounds of cuts."""
    for number in range(rounds):
        try:
            verdict = survive(
                folder / str(number),
                "ext4",
                "apart",
                cuts=CUTS,
                seed=400 + number,
                patience=30,
                **how,  # type: ignore[arg-type]
            )
        except Unrecovered as error:
            return f"does not start after a cut: {str(error).splitlines()[0]}"
        if verdict.lost or verdict.changed:
            return f"{verdict.lost} of {verdict.deliveries} lost after {CUTS * (number + 1)} cuts"
    return ""


@pytest.mark.timeout(3600)
def test_a_router_without_a_step_of_durability_is_found_out(tmp_path: Path, campaign: bool) -> None:
    if why := unable("ext4"):
        cannot(why)
    told = {
        name: found_out(tmp_path / name, 12, program=[sys.executable, "-m", "tests.torture.mutants", name])
        for name in (MUTANTS if campaign else SHARE)
    }
    for name, how in told.items():
        print(f"\n{name}: {how or 'not found out'}")
    assert all(told.values()), "nothing was lost without it"
    report(
        Figure(
            test="T5",
            promise="a step of durability taken out is found out by power cuts",
            goal="100 %",
            found=f"{len(told)} of {len(told)} mutants: {', '.join(told)}".replace("_", " "),
            n=len(told),
            command="make torture (tests/torture/test_mutants.py)",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_without_any_sync_the_suite_fails(tmp_path: Path, campaign: bool) -> None:
    if why := unable("ext4"):
        cannot(why)
    libraries = glob.glob("/usr/lib/*/libeatmydata.so*")
    assert libraries, "libeatmydata is missing: sh tests/install-peers.sh"
    told = found_out(tmp_path, 3, environment={"LD_PRELOAD": libraries[0]})
    assert told, "nothing was lost without a single sync"
    report(
        Figure(
            test="T5",
            promise="a router none of whose syncs does anything (libeatmydata) is found out by power cuts",
            goal="found out",
            found=told,
            n=1,
            command="make torture (tests/torture/test_mutants.py)",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_a_mutant_that_does_not_fit_the_router_is_no_mutant_that_was_found_out(tmp_path: Path) -> None:
    if why := unable("ext4"):
        cannot(why)
    with pytest.raises(RuntimeError, match="router ended"):
        found_out(tmp_path, 1, program=[sys.executable, "-m", "tests.torture.mutants", "no_such_step"])
