"""What the audit trail has to tell stands in the ledger by the commit of what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from router.ledger import SqliteLedger, queries
from router.model import Decision, Delivery, Outcome, OutcomeKind, Verdict
from tests.ledger.support import SilentLog, receipt, record, settle

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    opened = SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog(), audit=True)
    opened.start(asyncio.get_running_loop(), failed=lambda error: None)
    yield opened
    await opened.close()


async def told(ledger: SqliteLedger) -> list[tuple[str, dict[str, Any]]]:
    return [(row.what, row.facts) for row in await ledger.audit_rows(0, 1000)]


async def test_many_rows_that_wait_are_told_by_their_ids(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a week without its collector, a count of each step's rest held everybody up who asked anything."""
    monkeypatch.setattr(queries, "AUDIT_COUNTED", 6)
    for _ in range(9):
        await ledger.audit("started", {})
    ids = [row.id for row in await ledger.audit_rows(0, 100)]
    await ledger.audit_settle([ids[0], ids[4]], [])
    assert (await ledger.audit_waiting())[0] == 8, "nine but for the first"
    await ledger.audit_settle(ids[1:3], [])
    assert (await ledger.audit_waiting())[0] == 5, "counted"


async def test_one_row_for_all_that_one_sender_sent_of_one_study(ledger: SqliteLedger) -> None:
    await record(ledger, receipt(), receipt(), receipt())
    assert await told(ledger) == [
        (
            "received",
            {
                "calling": "CT1", "called": "ROUTER", "address": "127.0.0.1", "study": "2.25.9",
                "patient": "SYNTHETIC1", "accession": "A1", "classes": {CT: 3}, "failed": False,
            },
        )
    ]  # fmt: skip


async def test_held_and_repeated_ones_came_too_and_refused_ones_failed(ledger: SqliteLedger) -> None:
    await record(ledger, receipt("1.2.3", verdict=Verdict.HOLD), receipt("1.2.3", verdict=Verdict.HOLD))
    await record(ledger, receipt("1.2.3", content=b"y", on_duplicate="reject"))
    assert [(facts["classes"][CT], facts["failed"]) for _, facts in await told(ledger)] == [(2, False), (1, True)]


async def test_what_rules_discard_is_a_row_of_its_own(ledger: SqliteLedger) -> None:
    for one in (receipt(), receipt()):
        ledger.discarded(one.info)
    await ledger.flush()
    [(what, facts)] = await told(ledger)
    assert (what, facts["calling"], facts["patient"], facts["classes"]) == ("discarded", "CT1", "SYNTHETIC1", {CT: 2})


async def test_what_rules_discard_that_was_held_has_been_told_of(ledger: SqliteLedger) -> None:
    held = [receipt(uid, verdict=Verdict.HOLD) for uid in ("1.2.3", "1.2.4", "1.2.5")]
    await record(ledger, *held)
    decisions = [Decision(verdict=Verdict.ROUTE, destinations=("a",)), *2 * [Decision(verdict=Verdict.DISCARD)]]
    numbers = [one.info.id for one in held]
    assert await ledger.route_held(list(zip(numbers, decisions, strict=True)), "rules changed") == set(numbers)
    assert [(what, facts.get("action"), facts.get("count")) for what, facts in await told(ledger)] == [
        ("received", None, None),
        ("operator", "release held instances", 1),
        ("operator", "discard held instances", 2),
    ]


async def test_what_rules_discard_waits_while_the_ledger_is_held(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger._connection.set_busy_timeout(50)
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("begin immediate")
    ledger.discarded(receipt().info)
    async with asyncio.timeout(10):
        while not ledger.blocked:
            await asyncio.sleep(0.02)
    other.execute("rollback")
    async with asyncio.timeout(10):
        while not await told(ledger):
            await asyncio.sleep(0.02)


async def test_what_arrived_is_one_row_a_destination(ledger: SqliteLedger) -> None:
    results = await record(ledger, receipt(direct=("a", "b")), receipt(direct=("a", "b")))
    for result in results:
        for delivery in result.deliveries:
            settle(ledger, delivery, status=0)
    await ledger.flush()
    rows = [facts for what, facts in await told(ledger) if what == "sent"]
    assert sum(facts["classes"][CT] for facts in rows if facts["destination"] == "a") == 2
    assert sum(facts["classes"][CT] for facts in rows if facts["destination"] == "b") == 2
    assert {(facts["study"], facts["patient"]) for facts in rows} == {("2.25.9", "SYNTHETIC1")}


async def test_operators_leave_a_trace(ledger: SqliteLedger) -> None:
    await record(ledger, receipt("1.2.3", to=("a",), direct=("a",)))
    await ledger.set_paused("a", "why")
    await ledger.set_paused("a", None)
    await ledger.resend({"uid": "1.2.3"}, "b")
    actions = [(facts["action"], facts["destination"]) for what, facts in await told(ledger) if what == "operator"]
    assert actions == [("pause", "a"), ("resume", "a"), ("resend", "b")]


async def test_rows_stand_until_they_are_told_and_their_numbers_rise(tmp_path: Path, ledger: SqliteLedger) -> None:
    await ledger.audit("started", {})
    await ledger.audit("stopped", {})
    first, second = await ledger.audit_rows(0, 10)
    assert [row.what for row in await ledger.audit_rows(first.id, 10)] == ["stopped"]
    count, oldest = await ledger.audit_waiting()
    assert (count, oldest) == (2, first.at)
    await ledger.audit_settle([first.id, second.id], [])
    assert await ledger.audit_waiting() == (0, None)
    await ledger.audit("started", {})
    (third,) = await ledger.audit_rows(0, 10)
    assert third.id > second.id, "a number is never used again: who reads on from one misses none"


async def test_a_transfer_whose_beginning_was_told_bears_a_mark(ledger: SqliteLedger) -> None:
    await record(ledger, receipt("1.2.3"), receipt("1.2.4"))
    (row,) = await ledger.audit_rows(0, 10)
    assert not row.begun
    await ledger.audit_settle([], [row.id])
    (again,) = await ledger.audit_rows(0, 10)
    assert again.begun
    assert again.facts == row.facts


async def test_without_a_trail_nothing_is_written(tmp_path: Path) -> None:
    ledger = SqliteLedger.open(tmp_path / "other.db", node="n1", log=SilentLog())
    ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
    await record(ledger, receipt())
    await ledger.audit("started", {})
    assert await told(ledger) == []
    await ledger.close()


async def test_what_was_sent_is_told_once_although_the_disk_was_full_in_between(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, full = ledger._store.audit.received, [apsw.FullError("database or disk is full")]

    def first_without_room(*arguments: Any) -> None:
        if full:
            raise full.pop()
        received(*arguments)

    monkeypatch.setattr(ledger._store.audit, "received", first_without_room)
    new = receipt(to=("a",))
    delivery = Delivery(ledger.next_delivery(), "a", new.info, new.location, fence=1)
    recorded = asyncio.ensure_future(record(ledger, replace(new, sent=(delivery,)), owed=True))
    await asyncio.sleep(0)
    ledger.settle(Outcome(delivery.id, "a", new.info, 1, OutcomeKind.DELIVERED, 0))
    await recorded
    await ledger.flush()
    assert [(what, facts["classes"]) for what, facts in await told(ledger)] == [
        ("received", {CT: 1}),
        ("sent", {CT: 1}),
    ]
