"""What people ask: the right rows in the right order, and little work however much there ever was."""

from __future__ import annotations

import apsw
import pytest

from router.ledger import SqliteLedger, queries
from router.model import InstanceInfo, OutcomeKind
from tests.ledger.support import open_ledger, receipt, record, settle


@pytest.fixture
async def ledger(tmp_path):
    ledger = open_ledger(tmp_path)
    yield ledger
    await ledger.close()


async def of_study(ledger: SqliteLedger, study: str, count: int = 1) -> list[InstanceInfo]:
    """So many that go to a destination ``a``."""
    receipts = [receipt(to=("a",)) for _ in range(count)]
    for one in receipts:
        one.info.study, one.info.series = study, f"{study}.1"
    await record(ledger, *receipts)
    return [one.info for one in receipts]


def steps(connection: apsw.Connection) -> list[int]:
    """Filled with what each statement of the connection takes, from now on."""
    found: list[int] = []
    connection.trace_v2(
        apsw.SQLITE_TRACE_PROFILE, lambda event: found.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
    )
    return found


async def test_the_queue_of_all_destinations_is_in_the_order_of_arrival(ledger: SqliteLedger) -> None:
    receipts = [receipt(to=to) for to in ("b", "a", "c", "ab", "a")]
    await record(ledger, *receipts)
    rows = await ledger.queue(None, 4)
    assert [row["sop_instance"] for row in rows] == [receipts[number].info.sop_instance for number in (0, 1, 2, 3)]
    assert [row["destination"] for row in rows[:3]] == ["b", "a", "c"]
    assert len(await ledger.queue(None, 100)) == 6
    assert [row["destination"] for row in await ledger.queue("b", 100)] == ["b", "b"]


async def test_the_dead_letters_of_all_destinations_are_in_their_order(ledger: SqliteLedger) -> None:
    await record(ledger, *(receipt(to=to) for to in ("b", "a", "b")))
    for name in ("b", "a"):
        for delivery in await ledger.lease(name, 9):
            settle(ledger, delivery, OutcomeKind.DEAD)
    await ledger.flush()
    letters = await ledger.dead_letters(None, 9)
    assert [letter["destination"] for letter in letters] == ["b", "a", "b"]
    assert [letter["delivery"] for letter in await ledger.dead_letters(None, 2)] == [
        letter["delivery"] for letter in letters[:2]
    ]


async def test_who_asks_again_and_again_does_not_look_at_all_that_was_delivered(ledger: SqliteLedger) -> None:
    await record(ledger, *(receipt() for _ in range(500)))
    for name in ("a", "b"):
        for delivery in await ledger.lease(name, 500):
            settle(ledger, delivery)
    await record(ledger, receipt(to="a"))
    await ledger.flush()
    taken = steps(ledger._queries._connection)
    assert len(await ledger.queue(None, 100)) == 1
    assert await ledger.dead_letters(None, 100) == []
    assert max(taken) < 500


async def test_studies_are_those_that_something_came_of_last(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 3)
    for study, count in (("2.25.1", 5), ("2.25.2", 1), ("2.25.3", 4), ("2.25.2", 2)):
        await of_study(ledger, study, count)
    for limit in (1, 2, 3, 9):
        found = [(row["study"], row["instances"]) for row in await ledger.studies("", limit)]
        assert found == [("2.25.2", 3), ("2.25.3", 4), ("2.25.1", 5)][:limit]
    assert [row["instances"] for row in await ledger.studies("2.25.1", 9)] == [5]
    assert len(await ledger.studies("2.25.*", 9)) == 3
    assert len(await ledger.studies("SYNTHETIC1", 9)) == 3


async def test_instances_are_named_by_what_has_an_index_first_and_else_by_their_series(ledger: SqliteLedger) -> None:
    first, second = [await of_study(ledger, study, 300) for study in ("2.25.1", "2.25.2")]
    searched, written = steps(ledger._queries._searching), steps(ledger._connection)
    assert len(await ledger.trace(first[0].sop_instance)) == 1
    assert await ledger.named("2.25.1") == 300
    assert (await ledger.find({"uid": second[0].sop_instance}))[0].id == second[0].id  # type: ignore[index]
    assert max(searched + written) < 300 * 20, "nothing has looked at all of them"
    assert await ledger.named("2.25.1.1") == 300
    assert {story["study"] for story in await ledger.trace("2.25.1.1")} == {"2.25.1"}
    assert (await ledger.find({"uid": "2.25.1.1"}))[0].id == first[-1].id  # type: ignore[index]
    assert await ledger.trace("2.25.9.9") == []
