"""Refusals become alerts: the first of a kind and caller at once, what follows in sum, and never without end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.app import alerts as module
from router.app.alerts import AT_ONCE, Alerts
from router.errors import LedgerError


class Heard:
    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.blocked = False

    async def __call__(self, facts: dict[str, Any]) -> None:
        if self.blocked:
            raise LedgerError("not written: the ledger is in use by another program")
        self.facts.append(facts)


async def test_the_first_is_told_at_once_and_the_rest_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    alerts = Alerts(heard)
    for _ in range(5):
        alerts.refused("l", "calling_ae", "10.0.0.66", "WHO")
        await alerts.flush()
    assert [facts["count"] for facts in heard.facts] == [1]
    monkeypatch.setattr(module, "EVERY", 0.0)
    await alerts.flush()
    assert [facts["count"] for facts in heard.facts] == [1, 4]
    assert heard.facts[0] == {
        "listener": "l",
        "reason": "calling_ae",
        "address": "10.0.0.66",
        "calling": "WHO",
        "count": 1,
    }


async def test_at_the_end_everything_is_told() -> None:
    heard = Heard()
    alerts = Alerts(heard)
    for _ in range(3):
        alerts.refused("l", "address", "10.0.0.66", "")
        await alerts.flush()
    await alerts.flush(all_of_them=True)
    assert sum(facts["count"] for facts in heard.facts) == 3


async def test_what_cannot_be_written_waits_and_is_told_later() -> None:
    heard = Heard()
    heard.blocked = True
    alerts = Alerts(heard)
    running = asyncio.create_task(alerts.run())
    alerts.refused("l", "calling_ae", "10.0.0.66", "WHO")
    await asyncio.sleep(0)
    alerts.refused("l", "calling_ae", "10.0.0.66", "WHO")
    await asyncio.sleep(0)
    heard.blocked = False
    async with asyncio.timeout(10):
        while not heard.facts:
            await asyncio.sleep(0.05)
    assert [facts["count"] for facts in heard.facts] == [2]
    assert not running.done()
    running.cancel()


async def test_callers_beyond_number_count_together() -> None:
    heard = Heard()
    alerts = Alerts(heard)
    for number in range(AT_ONCE * 5):
        alerts.refused("l", "calling_ae", "10.0.0.66", f"WHO{number}")
    await alerts.flush()
    assert len(heard.facts) == AT_ONCE + 1
    assert sum(facts["count"] for facts in heard.facts) == AT_ONCE * 5


@pytest.mark.parametrize("reason", sorted(module.NOT_OURS))
async def test_what_is_our_own_trouble_is_no_alert(reason: str) -> None:
    heard = Heard()
    alerts = Alerts(heard)
    alerts.refused("l", reason, "10.0.0.66", "CT1")
    await alerts.flush()
    assert heard.facts == []
