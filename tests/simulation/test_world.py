"""Seeds of the simulation: whatever happens to destinations, router and clocks, everything arrives where it is owed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router.delivery import lane
from router.ledger.store import Store
from tests.simulation.world import Outcome, simulate
from tests.torture.figures import Figure, report

FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FOUND = (5, 13, 2059, 2089, 2291)
"""Seeds that once failed."""
AT_MOST = 150
"""Seeds within which a fault of the router's must be noticed."""


def run(seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        return simulate(seed, Path(folder))


@pytest.mark.timeout(7200)
def test_everything_arrives_where_it_is_owed(amount: Callable[[str, int, int], int], campaign: bool) -> None:
    seeds = amount("seeds", 24, 20_000)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(2 if campaign else 1) as pool:
        outcomes += pool.map(run, range(1000, 1000 + seeds), chunksize=5)
    took = time.monotonic() - started
    wrong = [outcome for outcome in outcomes if outcome.violations]
    assert not wrong, wrong[:5]
    years = sum(outcome.virtual_seconds for outcome in outcomes) / (365.25 * 86400)
    report(
        Figure(
            test="T8",
            promise="simulated weeks of destinations that are down, slow, refuse or lie, of crashes and clock steps",
            goal="0 violations",
            found=f"0 violations in {sum(outcome.deliveries for outcome in outcomes):,} deliveries, "
            f"{sum(outcome.kills for outcome in outcomes):,} crashes, {years:.1f} simulated years; "
            f"{seeds / took * 60:,.0f} seeds a minute",
            n=seeds,
            command=f"make torture (tests/simulation, --amount seeds={seeds})",
        ),
        keep=campaign,
    )


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    assert not run(seed).violations


@pytest.mark.parametrize("seed", [1, 7])
def test_a_seed_is_the_same_every_time(seed: int) -> None:
    assert run(seed) == run(seed)


# That it sees what is wrong ----------------------------------------------------------------------------------------


def _no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that failed is forgotten."""
    settle = Store.settle

    def forget(self: Store, outcome: Any, now: float) -> None:
        if outcome.kind != "retry":
            settle(self, outcome, now)

    monkeypatch.setattr(Store, "settle", forget)


def _no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions go as they come."""
    monkeypatch.setattr(Store, "_in_order", lambda *_: None)


def _busy_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that is busy costs objects attempts, and they are given up."""
    conclude = lane.Lane._conclude

    def charge(self: Any, delivery: Any, judgement: Any, status: int | None) -> None:
        if status == 0xA700:
            judgement = lane.Judgement(lane.Meaning.REFUSED, "busy")
        conclude(self, delivery, judgement, status)

    monkeypatch.setattr(lane.Lane, "_conclude", charge)


def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead destination is asked again and again."""
    rest = lane.Lane.rest

    def at_once(self: Any, judgement: Any) -> None:
        rest(self, judgement)
        self._cancel_timer()
        self.loop.call_later(0.5, self._on_timer)

    monkeypatch.setattr(lane.Lane, "rest", at_once)


def _leases_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start does not take over what the dead process had."""
    monkeypatch.setattr(Store, "take_over", lambda *_: 0)


@pytest.mark.parametrize("fault", [_no_retry, _no_order, _busy_is_charged, _no_rest, _leases_stay])
def test_a_router_with_a_fault_is_found_out(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fault(monkeypatch)
    assert next(_violations(), None), "no seed noticed"


def _violations() -> Iterator[tuple[str, ...]]:
    for seed in range(AT_MOST):
        if found := run(seed).violations:
            yield found
