"""Refusals become alerts: the first of a kind and caller at once, what follows in sum, and never without end."""

from __future__ import annotations

from typing import Any

import pytest

from router.app import alerts as module
from router.app.alerts import AT_ONCE, Alerts


class Heard:
    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    async def __call__(self, facts: dict[str, Any]) -> None:
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
