"""What is owed to whom, and how it changes: every transition of an instance and its deliveries."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from router.errors import LedgerError, LedgerTooNew
from router.ledger import Receipt, SqliteLedger
from router.ledger.queries import TRACED
from router.ledger.store import HISTORY_SECONDS, Store
from router.model import Decision, Delivery, Location, LogPosition, OutcomeKind, Priority, Verdict, format_id
from tests.ledger.support import SilentLog, counted, open_ledger, receipt, record, recount, settle


async def test_a_new_instance_owes_one_delivery_per_destination(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    (result,) = await record(ledger, receipt(to=("a", "b", "c"), direct=("a",)))
    assert result.kind == "new"
    assert [delivery.destination for delivery in result.deliveries] == ["a"], "the lane with room gets it at once"
    assert result.backlog == {"b", "c"}
    assert len(await ledger.lease("a", 10)) == 0, "born leased: nobody else gets it"
    assert len(await ledger.lease("b", 10)) == 1
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_leases_come_by_priority_then_arrival(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    low, normal, stat = (receipt(to="a", priority=p) for p in (Priority.LOW, Priority.NORMAL, Priority.STAT))
    second = receipt(to="a")
    await record(ledger, low, normal, stat, second)
    found = [delivery.instance.id for delivery in await ledger.lease("a", 10)]
    assert found == [stat.info.id, normal.info.id, second.info.id, low.info.id]
    await ledger.close()


async def test_a_lease_takes_no_longer_for_all_that_wait_for_their_time(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, *(receipt(to="a") for _ in range(1000)))
    later = time.time() + 1000
    for delivery in [*await ledger.lease("a", 1000)]:
        settle(ledger, delivery, OutcomeKind.RETRY, charge=True, not_before=later, reason="status 0x0110")
    due = receipt(to="a", priority=Priority.LOW)
    await record(ledger, due)
    steps: list[int] = []
    ledger._connection.trace_v2(
        apsw.SQLITE_TRACE_PROFILE,
        lambda event: steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]),
    )
    (delivery,) = await ledger.lease("a", 10)
    seconds = await ledger.next_ready_in("a")
    ledger._connection.trace_v2(0)
    assert delivery.instance.id == due.info.id
    assert seconds is not None
    assert 900 < seconds <= 1000
    assert max(steps) < 1000, "no statement has looked at all of them"
    await ledger.close()


async def test_a_late_outcome_of_a_lost_lease_changes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a"))
    (first,) = await ledger.lease("a", 1)
    await ledger.release([first])
    (second,) = await ledger.lease("a", 1)
    assert second.fence == first.fence + 1
    settle(ledger, first)
    await ledger.flush()
    assert ledger.counts.open["a"][0] == 1, "still owed"
    settle(ledger, second)
    await ledger.flush()
    assert ledger.counts.open["a"][0] == 0
    await ledger.close()


async def test_a_newer_version_waits_for_the_older_one(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.77", to="a", content=b"1"))
    (result,) = await record(ledger, receipt("2.25.77", to="a", direct=("a",), content=b"2"))
    assert result.kind == "version"
    assert not result.deliveries, "never straight into the window: it would overtake"
    (older,) = await ledger.lease("a", 10)
    assert older.instance.checksum == b"1" * 16
    assert await ledger.lease("a", 10) == []
    settle(ledger, older)
    (newer,) = await ledger.lease("a", 10)
    assert newer.instance.checksum == b"2" * 16
    assert (older.changed, newer.changed) == (False, True)
    await ledger.close()


@pytest.mark.parametrize("kind", [OutcomeKind.DELIVERED, OutcomeKind.WARNING, OutcomeKind.DEAD])
async def test_what_waited_for_an_older_version_is_told_of_as_soon_as_it_may_leave(
    tmp_path: Path, kind: OutcomeKind
) -> None:
    ledger = open_ledger(tmp_path)
    woken: list[str] = []
    ledger.ready = woken.append
    await record(ledger, receipt("2.25.77", to=("a", "b"), content=b"1"))
    await record(ledger, receipt("2.25.77", to=("a", "b"), content=b"2"))
    (older,) = await ledger.lease("a", 10)
    assert woken == []
    settle(ledger, older, kind)
    await ledger.flush()
    await asyncio.sleep(0)
    assert woken == ["a"], "its lane would look a minute later"
    (newer,) = await ledger.lease("a", 10)
    settle(ledger, newer)
    await ledger.flush()
    await asyncio.sleep(0)
    assert woken == ["a"], "nothing waits any more"
    await ledger.close()


async def test_an_identical_duplicate_is_owed_only_where_it_never_was(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.5", to=("a",)))
    again = receipt("2.25.5", to=("a", "b"))
    (result,) = await record(ledger, again)
    assert result.kind == "duplicate"
    assert result.unneeded == again.location
    assert result.backlog == {"b"}
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_an_identical_duplicate_gives_a_dead_letter_another_chance_with_the_new_bytes(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first = receipt("2.25.5", to="a")
    await record(ledger, first)
    (delivery,) = await ledger.lease("a", 1)
    settle(ledger, delivery, OutcomeKind.DEAD, reason="stored record damaged")
    await ledger.flush()
    assert ledger.counts.dead == 1
    again = receipt("2.25.5", to="a")
    (result,) = await record(ledger, again)
    assert result.unneeded == first.location
    (delivery,) = await ledger.lease("a", 1)
    assert delivery.location == again.location
    assert ledger.counts.dead == 0
    await ledger.close()


@pytest.mark.parametrize(("policy", "kind"), [("reject", "rejected"), ("hold", "held"), ("version", "version")])
async def test_other_bytes_under_a_known_uid(tmp_path: Path, policy: str, kind: str) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.5", to="a", content=b"1"))
    (result,) = await record(ledger, receipt("2.25.5", to="a", content=b"2", on_duplicate=policy))
    assert result.kind == kind
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_a_retry_waits_for_its_time_and_a_dead_letter_for_a_person(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a"))
    (delivery,) = await ledger.lease("a", 1)
    settle(ledger, delivery, OutcomeKind.RETRY, charge=True, not_before=9e9, reason="status 0xC000", status=0xC000)
    assert await ledger.lease("a", 1) == []
    seconds = await ledger.next_ready_in("a")
    assert seconds is not None
    assert seconds > 1000
    (letter,) = await ledger.queue("a", 10)
    assert letter["last_error"] == "status 0xC000"
    await ledger.resend({"uid": delivery.instance.sop_instance}, None)
    assert await ledger.lease("a", 1) == [], "a resend leaves alone what is still owed"
    await ledger.close()


async def test_the_story_says_why_an_object_that_came_again_is_owed_to_more(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.8", to="a"))
    await record(ledger, receipt("2.25.8", to="a"))
    (story,) = await ledger.trace("2.25.8")
    assert story["events"] == [], "nothing has become of it"
    await record(ledger, again := receipt("2.25.8", to="ab"))
    (story,) = await ledger.trace("2.25.8")
    ((what, destination, detail),) = [(e["what"], e["destination"], e["detail"]) for e in story["events"]]
    assert (what, destination) == ("came again", "b")
    assert again.decision.version in detail
    assert all(rule in detail for rule in again.decision.rules)
    await ledger.close()


async def test_nothing_becomes_owed_again_to_whom_nobody_sends(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="ab"))
    (dead,), (sent,) = await ledger.lease("a", 1), await ledger.lease("b", 1)
    settle(ledger, dead, OutcomeKind.DEAD, reason="no presentation context accepted", charge=True)
    settle(ledger, sent, OutcomeKind.DELIVERED)
    await ledger.flush()
    uid = {"uid": sent.instance.sop_instance}
    assert await ledger.retry_dead(None, None, ["b"]) == {}
    assert len(await ledger.dead_letters("a", 10)) == 1, "it can still be discarded"
    assert await ledger.resend(uid, None, ["b"]) == {"b": 1}
    assert counted(ledger) == recount(ledger)
    assert await ledger.retry_dead(None, None, ["a", "b"]) == {"a": 1}
    await ledger.close()


async def test_dead_letters_are_kept_retried_and_discarded(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a"), receipt(to="a"))
    for delivery in await ledger.lease("a", 2):
        settle(ledger, delivery, OutcomeKind.DEAD, reason="no presentation context accepted", charge=True)
    await ledger.flush()
    letters = await ledger.dead_letters(None, 10)
    assert len(letters) == 2
    assert await ledger.expire(0, 0) == [], "never deleted for their age"
    assert await ledger.retry_dead([letters[0]["delivery"]], None) == {"a": 1}
    assert await ledger.discard_dead([letters[1]["delivery"]]) == 1
    assert counted(ledger) == recount(ledger)
    (again,) = await ledger.lease("a", 10)
    assert again.attempts == 0
    await ledger.close()


async def test_while_many_dead_letters_are_retried_others_are_served_and_lanes_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.writer.RETRIED_AT_ONCE", 10)
    ledger = open_ledger(tmp_path)
    woken: list[str] = []
    ledger.ready = woken.append
    await record(ledger, *(receipt(to=("a", "b")) for _ in range(50)))
    for name in ("a", "b"):
        for delivery in await ledger.lease(name, 50):
            settle(ledger, delivery, OutcomeKind.DEAD, reason="status 0xC000", charge=True)
    await ledger.flush()
    retrying = asyncio.create_task(ledger.retry_dead(None, "a"))
    left = set()
    while not retrying.done():
        await ledger.flush()
        left.add(ledger.counts.dead)
    assert await retrying == {"a": 50}
    assert len(left) > 3, "others had their turn in between"
    assert set(woken) == {"a"}
    assert len(await ledger.lease("a", 100)) == 50
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_held_instances_are_routed_later(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    held = receipt(verdict=Verdict.HOLD)
    (result,) = await record(ledger, held)
    assert result.kind == "held"
    assert ledger.counts.held == 1
    assert [info.id for info, _ in await ledger.held_instances(0, 10)] == [held.info.id]
    decision = Decision(verdict=Verdict.ROUTE, destinations=("a",), version="v2")
    assert await ledger.route_held([(held.info.id, decision)], "rules changed") == {held.info.id}
    assert await ledger.route_held([(held.info.id, decision)], "again") == set(), "once"
    assert len(await ledger.lease("a", 10)) == 1
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_settled_instances_leave_by_age_or_by_room_and_history_remembers(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first, second = receipt(to="a"), receipt(to="a")
    await record(ledger, first, second)
    for delivery in await ledger.lease("a", 2):
        settle(ledger, delivery)
    await ledger.flush()
    assert ledger.counts.kept_bytes == 400
    assert await ledger.expire(3600, 10_000) == []
    assert [number for number, _ in await ledger.expire(3600, 200)] == [first.info.id], "the oldest, as far as needed"
    assert [number for number, _ in await ledger.expire(0, 10_000)] == [second.info.id]
    (story,) = await ledger.trace(first.info.sop_instance)
    assert story["deliveries"][0]["state"] == "done"
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_letting_go_takes_no_longer_for_all_that_history_remembers(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, *(receipt(to="a") for _ in range(20)))
    for delivery in await ledger.lease("a", 20):
        settle(ledger, delivery)
    now = time.time()
    old = now - HISTORY_SECONDS - 60

    def remember(store: Store, _: float) -> None:
        for number, at in enumerate(3000 * [old] + 3000 * [now], 1 << 40):
            store.connection.execute(
                "insert into history(id, sop, study, accession, received, settled, delivered) "
                "values(?, '', '', '', 0, ?, '{}')",
                (number, at),
            )
            store.connection.execute("insert into event(at, what, detail) values(?, '', '')", (at,))

    await ledger._call(remember)
    looked_at: list[int] = []
    ledger._connection.trace_v2(
        apsw.SQLITE_TRACE_PROFILE,
        lambda event: looked_at.append(event["stmt_status"]["SQLITE_STMTSTATUS_FULLSCAN_STEP"]),
    )
    assert len(await ledger.expire(0, 0)) == 20
    ledger._connection.trace_v2(0)
    assert max(looked_at) < 100, "no statement has looked at every row of a table"
    count = "select (select count(*) from history), (select count(*) from event)"
    assert await ledger._call(lambda store, _: store._one(count)) == (3020, 3000), "what is old has gone"
    await ledger.close()


async def test_a_resend_also_goes_where_it_was_never_owed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    sent = receipt(to="a")
    await record(ledger, sent)
    (delivery,) = await ledger.lease("a", 1)
    settle(ledger, delivery)
    assert await ledger.resend({"uid": "2.25.9"}, "b") == {"b": 1}
    assert await ledger.resend({"uid": sent.info.sop_instance}, "a") == {"a": 1}
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_trace_tells_who_decided_and_what_happened(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    sent = receipt(to="a")
    await record(ledger, sent)
    (delivery,) = await ledger.lease("a", 1)
    settle(ledger, delivery, OutcomeKind.RETRY, charge=True, reason="status 0x0110", status=0x0110)
    await ledger.flush()
    for key in (sent.info.sop_instance, "2.25.9", "A1"):
        stories = await ledger.trace(key)
        story = next(story for story in stories if story["sop_instance"] == sent.info.sop_instance)
        assert story["rules"] == ["r"]
        assert story["rule_version"] == "v1"
        assert story["deliveries"][0]["attempts"] == 1
        assert story["events"][0]["what"] == "retry"
    await ledger.close()


async def test_of_a_large_study_the_trace_tells_of_what_is_not_delivered(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    receipts = [receipt(to="a") for _ in range(TRACED + 20)]
    await record(ledger, *receipts)
    for delivery in await ledger.lease("a", len(receipts)):
        last = delivery.instance.id == receipts[-1].info.id
        settle(ledger, delivery, OutcomeKind.DEAD if last else OutcomeKind.DELIVERED)
    await ledger.flush()
    stories = await ledger.trace("2.25.9")
    assert await ledger.named("2.25.9") == TRACED + 20
    assert len(stories) == TRACED
    assert [story["deliveries"][0]["state"] for story in stories[-2:]] == ["done", "dead"], "in order all the same"
    await ledger.close()


async def test_what_has_left_the_spool_is_known_by_its_study_and_id_and_never_called_delivered_in_vain(
    tmp_path: Path,
) -> None:
    ledger = open_ledger(tmp_path)
    good, bad = receipt(to="a"), receipt(to="a")
    await record(ledger, good, bad)
    for delivery in await ledger.lease("a", 2):
        settle(ledger, delivery, OutcomeKind.DEAD if delivery.instance.id == bad.info.id else OutcomeKind.DELIVERED)
    await ledger.flush()
    (letter,) = await ledger.dead_letters(None, 10)
    await ledger.discard_dead([letter["delivery"]])
    (study,) = await ledger.studies("2.25.9", 10)
    assert (study["instances"], study["delivered"]) == (2, 1)
    await ledger.expire(-1.0, 0)
    stories = await ledger.trace("2.25.9")
    assert [[delivery["state"] for delivery in story["deliveries"]] for story in stories] == [["done"], []]
    assert "dead letter discarded" in [event["what"] for event in stories[1]["events"]]
    assert await ledger.trace(format_id(good.info.id)) == stories[:1]
    await ledger.close()


async def test_a_restart_takes_over_the_leases_of_the_run_before(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a", direct=("a",)))
    await ledger.set_paused("a", "weekend")
    await ledger.close()
    ledger = open_ledger(tmp_path)
    assert not ledger.fresh
    assert ledger.counts.open["a"][0] == 1
    assert ledger.paused() == {"a": "weekend"}
    assert len(await ledger.lease("a", 10)) == 1
    await ledger.close()


async def test_a_moved_record_is_found_at_its_new_place_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    sent = receipt(to="a")
    await record(ledger, sent)
    new = Location(9, 9, 4096, 200)
    assert await ledger.relocate(sent.info.id, sent.location, new)
    assert not await ledger.relocate(sent.info.id, sent.location, Location(10, 9, 0, 200)), "it lies elsewhere by now"
    (delivery,) = await ledger.lease("a", 1)
    assert delivery.location == new
    await ledger.close()


async def test_a_lost_ledger_is_rebuilt_and_everything_is_owed_again(tmp_path: Path) -> None:
    ledger = SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog())
    records = [receipt(to=("a", "b")) for _ in range(20)]
    twice = receipt(records[0].info.sop_instance, to=("a", "b"))
    ledger.follow([*records, twice], LogPosition(7, 99))
    assert ledger.position() == LogPosition(7, 99)
    assert ledger.knows(records[0].info.id)
    assert not ledger.knows(twice.info.id), "an identical duplicate is not kept"
    assert ledger.counts.open == {"a": [20, 2000], "b": [20, 2000]}
    ledger.close_files()


async def test_the_place_in_the_log_is_committed_with_what_lies_before_it(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a"), position=LogPosition(5, 1000))
    await record(ledger, receipt(to="a"))
    await record(ledger, receipt(to="a"), receipt(to="a"), position=LogPosition(6, 20))
    await ledger.close()
    again = SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog())
    assert again.position() == LogPosition(6, 20)
    again.close_files()


async def test_what_was_delivered_and_let_go_is_still_known(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    old = receipt(to="a", direct=("a",))
    (result,) = await record(ledger, old)
    settle(ledger, result.deliveries[0])
    await ledger.flush()
    assert len(await ledger.expire(-1, 0)) == 1
    assert ledger.knows(old.info.id)
    assert not ledger.knows(old.info.id + 1)
    await ledger.close()


async def test_many_new_ones_and_some_known_ones_in_one_transaction(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    known = receipt("1.2.5", to=("a",))
    await record(ledger, known)
    twin = receipt("1.2.6", to=("a",), content=b"1")
    group = [receipt(to=("a", "b"), direct=("a",)) for _ in range(150)]
    group[70:70] = [receipt("1.2.5", to=("a",)), twin, receipt("1.2.6", to=("a",), content=b"2")]
    results = await record(ledger, *group)
    kinds = [result.kind for result in results]
    assert kinds[70:73] == ["duplicate", "new", "version"]
    assert set(kinds[:70] + kinds[73:]) == {"new"}
    for one, result in zip(group[:70], results[:70], strict=True):
        assert [(d.destination, d.instance.id) for d in result.deliveries] == [("a", one.info.id)]
        assert result.backlog == {"b"}
    assert counted(ledger) == recount(ledger)
    for delivery in [d for result in results for d in result.deliveries]:
        settle(ledger, delivery)
    settle(ledger, results[0].deliveries[0])  # twice: the lease is gone
    await ledger.flush()
    assert counted(ledger) == recount(ledger)
    assert ledger.counts.open["a"][0] == 3
    await ledger.close()


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    ledger = SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog())
    ledger.close_files()
    connection = apsw.Connection(str(tmp_path / "ledger.db"))
    connection.execute("update schema_version set version=999")
    connection.close()
    with pytest.raises(LedgerTooNew, match="newer version"):
        SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog())


async def fill_disk(ledger: SqliteLedger) -> None:
    """Until there is no room for another transaction of some size."""
    pages = next(ledger._connection.execute("pragma page_count"))[0]
    ledger._connection.execute(f"pragma max_page_count={pages}")
    with pytest.raises(LedgerError, match="out of disk space"):
        for _ in range(2000):
            await record(ledger, *(receipt(to=("a", "b", "c")) for _ in range(50)))


async def test_a_full_disk_refuses_what_may_be_refused_and_the_ledger_lives_on(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to="a"))
    await fill_disk(ledger)
    assert ledger.blocked == "out of disk space"
    ledger._connection.execute("pragma max_page_count=1000000")
    (result,) = await record(ledger, receipt(to="a"))
    assert result.kind == "new"
    assert not ledger.blocked
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_what_was_answered_waits_for_room_and_keeps_its_order(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    (result,) = await record(ledger, receipt(to="a", direct=("a",)))
    await fill_disk(ledger)
    groups = [[receipt(to=("a", "b", "c")) for _ in range(50)] for _ in range(4)]
    waiting = [
        asyncio.ensure_future(record(ledger, *group, position=LogPosition(9, n), owed=True))
        for n, group in enumerate(groups, 1)
    ]
    settle(ledger, result.deliveries[0])
    done, _ = await asyncio.wait(waiting, timeout=0.5)
    assert not done, "neither refused nor recorded"
    ledger._connection.execute("pragma max_page_count=1000000")
    assert [len(results) for results in await asyncio.gather(*waiting)] == [50] * 4
    assert not ledger.blocked
    assert ledger.position() == LogPosition(9, 4)
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_a_full_ledger_without_work_finds_out_itself_that_there_is_room(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await fill_disk(ledger)
    ledger._connection.execute("pragma max_page_count=1000000")
    async with asyncio.timeout(10):
        while ledger.blocked:
            await asyncio.sleep(0.02)
    await ledger.close()


async def test_another_program_that_writes_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("begin immediate")
    waiting = asyncio.ensure_future(record(ledger, receipt(), owed=True))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    other.execute("rollback")
    (result,) = await waiting
    assert result.kind == "new"
    assert not ledger.blocked and not ledger.failed
    await ledger.close()


async def test_while_another_program_holds_it_what_was_answered_waits_and_nothing_else_is_taken(tmp_path: Path) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    ledger = open_ledger(tmp_path)
    ledger._connection.set_busy_timeout(50)
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("begin immediate")
    with pytest.raises(LedgerError, match="in use by another program"):
        await record(ledger, receipt())
    assert ledger.blocked == "the ledger is in use by another program"
    await asyncio.sleep(0.5)  # it looks whether it still is
    owed = asyncio.ensure_future(record(ledger, receipt(), owed=True))
    done, _ = await asyncio.wait([owed], timeout=0.5)
    assert not done, "neither refused nor recorded"
    other.execute("rollback")
    (result,) = await owed
    assert result.kind == "new"
    assert not ledger.blocked and not ledger.failed
    assert counted(ledger) == recount(ledger)
    await ledger.close()
    assert not faults


async def test_while_it_is_held_nobody_waits_for_all_that_was_answered_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.writer.GROUP_JOBS", 50)
    ledger = open_ledger(tmp_path)
    results = await record(ledger, *(receipt(to="a", direct=("a",)) for _ in range(100)))
    ledger._connection.set_busy_timeout(50)
    other = apsw.Connection(str(tmp_path / "ledger.db"))
    other.execute("begin immediate")
    for result in results:
        settle(ledger, result.deliveries[0])
    async with asyncio.timeout(6):
        with pytest.raises(LedgerError, match="in use by another program"):
            await ledger.flush()
    other.execute("rollback")
    await ledger.flush()
    assert counted(ledger) == recount(ledger)
    assert counted(ledger)["open"] == {}
    await ledger.close()


async def test_after_a_failed_commit_nobody_is_told_success(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger._connection.execute("create table other(x)")

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise apsw.IOError("disk I/O error")

    store, ledger._store = ledger._store, Broken()  # type: ignore[assignment]
    with pytest.raises(LedgerError):
        await record(ledger, receipt(to="a"))
    ledger._store = store
    with pytest.raises(LedgerError, match="failed"):
        await record(ledger, receipt(to="a"))
    await ledger.close()


@pytest.mark.parametrize("seed", range(8))
async def test_counters_agree_with_the_tables_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Random receipts, leases and outcomes; after each burst the counters are what a recount says."""
    chance = random.Random(seed)
    ledger = open_ledger(tmp_path)
    leased = []
    for _ in range(25):
        uids = [f"2.25.{chance.randrange(12)}" for _ in range(chance.randrange(4))]
        results = await record(
            ledger,
            *(
                receipt(
                    uid, to=chance.sample(["a", "b", "c"], 2), direct=chance.sample(["a", "b"], 1),
                    content=chance.choice([b"1", b"2"]), verdict=chance.choice([Verdict.ROUTE] * 4 + [Verdict.HOLD]),
                    on_duplicate=chance.choice(["version", "reject", "hold"]),
                )
                for uid in uids
            ),
        )  # fmt: skip
        leased += [delivery for result in results for delivery in result.deliveries]
        leased += await ledger.lease(chance.choice("abc"), chance.randrange(1, 4))
        chance.shuffle(leased)
        for delivery in [leased.pop() for _ in range(min(len(leased), chance.randrange(4)))]:
            kind = chance.choice(list(OutcomeKind))
            settle(ledger, delivery, kind, charge=chance.random() < 0.5, reason="r")
        if chance.random() < 0.3:
            await ledger.retry_dead(None, chance.choice([None, "a"]))
        if chance.random() < 0.3:
            await ledger.resend({"uid": f"2.25.{chance.randrange(12)}"}, chance.choice([None, "c"]))
        if chance.random() < 0.3:
            await ledger.expire(0, 0)
        await ledger.flush()
        assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_a_fault_in_what_somebody_asks_is_his_alone(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(LedgerError, match="OverflowError"):
        await ledger.find({"id": 1 << 70, "uid": "x"})
    (result,) = await record(ledger, receipt(to="a"))
    assert result.kind == "new"
    assert not ledger.failed
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_a_commit_that_fails_by_a_fault_of_ours_says_where_and_not_on_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)

    def fail(*_: object) -> None:
        int("DOE^JANE")

    monkeypatch.setattr(Store, "record", fail)
    with pytest.raises(LedgerError, match=r"commit failed: ValueError at test_ledger\.py:\d+$"):
        await record(ledger, receipt(to="a"))
    assert ledger.failed
    await ledger.close()


async def test_a_fault_in_the_ledgers_thread_is_told_and_everybody_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(tmp_path)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    ledger._on_failure = lambda problem: loop.call_soon_threadsafe(told.set)
    gather, faults = ledger._gather, iter([ValueError("DOE^JANE")])

    def gather_and_fail(until: float) -> list[object]:
        for fault in faults:
            raise fault
        return gather(until)

    monkeypatch.setattr(ledger, "_gather", gather_and_fail)
    asked = [asyncio.ensure_future(ledger.flush()) for _ in range(2)]  # the first wakes the thread
    await asyncio.wait_for(told.wait(), 10)
    results = await asyncio.wait_for(asyncio.gather(*asked, ledger.flush(), return_exceptions=True), 10)
    assert isinstance(results[-1], LedgerError)
    assert ledger.failed
    await ledger.close()


async def test_a_changed_version_that_is_held_stays_held_when_it_is_merely_repeated(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.5", to=("a",), content=b"1"))
    for _ in range(2):
        await record(ledger, receipt("2.25.5", to=("a", "b"), content=b"2", on_duplicate="hold"))
    assert ledger.counts.held == 1
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_a_changed_version_for_which_there_was_no_rule_is_owed_when_it_is_repeated_and_there_is_one(
    tmp_path: Path,
) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.5", to=("a",), content=b"1"))
    await record(ledger, receipt("2.25.5", content=b"2", verdict=Verdict.HOLD))
    (result,) = await record(ledger, receipt("2.25.5", to=("b",), content=b"2"))
    assert (result.kind, result.backlog) == ("duplicate", {"b"})
    assert ledger.counts.held == 0
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_held_instances_of_other_rules_and_without_changes_can_be_asked_for(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first = receipt("2.25.5", verdict=Verdict.HOLD, content=b"1")
    change = receipt("2.25.5", to=("a",), content=b"2", on_duplicate="hold")
    await record(ledger, first, change)
    version = first.decision.version

    async def ids(**which: Any) -> list[int]:
        return [info.id for info, _ in await ledger.held_instances(0, 10, **which)]

    assert await ids() == [first.info.id, change.info.id]
    assert await ids(changes=False) == [first.info.id]
    assert await ids(other_than=version) == []
    assert await ids(other_than="another", changes=False) == [first.info.id]
    await ledger.close()


async def test_a_checkpoint_without_room_is_tried_again(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)

    class Full:
        def wal_checkpoint(self, **_: object) -> None:
            raise apsw.FullError("database or disk is full")

    real, ledger._connection = ledger._connection, Full()  # type: ignore[assignment]
    ledger._checkpoint(force=True)
    ledger._connection = real
    assert ledger.blocked == "out of disk space"
    assert not ledger.failed
    await ledger.close()


def at_once(ledger: SqliteLedger, to: Sequence[str] = ("a", "b"), sent: Sequence[str] = ("a", "b")) -> Receipt:
    """A receipt of a new instance that lanes have already."""
    new = receipt(to=to)
    return replace(
        new,
        sent=tuple(
            Delivery(id=ledger.next_delivery(), destination=name, instance=new.info, location=new.location, fence=1)
            for name in sent
        ),
    )


async def told_together(ledger: SqliteLedger, new: Receipt, *outcomes: Delivery) -> None:
    """One transaction for an instance and what became of its deliveries."""
    results: list[object] = []
    with ledger_resting(ledger):
        ledger.record([new], results.append, position=None, owed=True)
        for delivery in outcomes:
            settle(ledger, delivery)
    await ledger.flush()
    assert [result.kind for result in results[0]] == ["new"]  # type: ignore[attr-defined]


async def test_a_transaction_that_takes_long_is_told(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await ledger.flush()
    with ledger_resting(ledger):
        first = ledger.stuck_for
        assert 0 < first < ledger.stuck_for
    await ledger.close()
    assert ledger.stuck_for == 0


@contextmanager
def ledger_resting(ledger: SqliteLedger) -> Iterator[None]:
    """What is said meanwhile comes into one transaction."""
    began, go_on = threading.Event(), threading.Event()

    def rest(store: Store, now: float) -> None:
        began.set()
        go_on.wait(10)

    ledger._call(rest)
    began.wait(10)
    yield
    go_on.set()


@pytest.mark.parametrize("done", [0, 1, 2])
async def test_an_instance_and_its_deliveries_in_one_transaction(tmp_path: Path, done: int) -> None:
    ledger = open_ledger(tmp_path)
    new = at_once(ledger)
    await told_together(ledger, new, *new.sent[:done])
    (story,) = await ledger.trace(new.info.sop_instance)
    assert [row["state"] for row in story["deliveries"]] == ["done"] * done + ["leased"] * (2 - done)
    assert [row["attempts"] for row in story["deliveries"]] == [1] * done + [0] * (2 - done)
    assert {name: count for name, (count, _) in ledger.counts.open.items() if count} == dict.fromkeys("ab"[done:], 1)
    assert ledger.counts.kept_bytes == (200 if done == 2 else 0)
    for delivery in new.sent[done:]:
        settle(ledger, delivery)
    await ledger.flush()
    assert ledger.counts.kept_bytes == 200
    assert not any(count for count, _ in ledger.counts.open.values())
    assert counted(ledger) == recount(ledger)
    await ledger.close()


async def test_what_no_lane_took_at_once_is_ready(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    new = at_once(ledger, sent=("a",))
    await told_together(ledger, new, *new.sent)
    assert [delivery.instance.id for delivery in await ledger.lease("b", 10)] == [new.info.id]
    assert await ledger.lease("a", 10) == []
    await ledger.close()


async def test_what_was_sent_at_once_and_failed_is_tried_again(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    new = at_once(ledger, to=("a",), sent=("a",))
    with ledger_resting(ledger):
        ledger.record([new], lambda results: None, position=None, owed=True)
        settle(ledger, new.sent[0], OutcomeKind.RETRY, charge=True)
    await ledger.flush()
    (again,) = await ledger.lease("a", 10)
    assert (again.id, again.attempts, again.fence) == (new.sent[0].id, 1, 2)
    await ledger.close()


async def test_a_restart_owes_what_was_sent_at_once_without_an_answer(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    new = at_once(ledger, to=("a",), sent=("a",))
    await told_together(ledger, new)
    await ledger.close()
    ledger = open_ledger(tmp_path)
    assert [delivery.id for delivery in await ledger.lease("a", 10)] == [new.sent[0].id]
    assert ledger.next_delivery() > new.sent[0].id
    await ledger.close()


async def test_the_uids_of_all_instances_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.ledger.queries.PAGE", 3)
    ledger = open_ledger(tmp_path)
    made = [receipt() for _ in range(7)]
    await record(ledger, *made)
    assert sorted(ledger.sop_instances()) == sorted(one.info.sop_instance for one in made)
    assert ledger.instances() == 7
    await ledger.close()


# Versions keep their order, whatever people and repeated objects ask for -----------------------------------------


async def arrive(ledger: SqliteLedger, destination: str) -> list[int]:
    """Deliver until nothing may be leased; the versions in the order in which they arrived."""
    arrived = []
    while found := await ledger.lease(destination, 1):
        arrived.append(found[0].instance.checksum[0])
        settle(ledger, found[0])
        await ledger.flush()
    return arrived


async def versions_of(ledger: SqliteLedger, *destinations: str) -> None:
    """Two of one object."""
    await record(ledger, receipt("2.25.5", to=destinations, content=b"1"))
    await record(ledger, receipt("2.25.5", to=destinations, content=b"2"))


async def test_a_repeated_newer_version_that_is_owed_to_more_does_not_overtake_the_older_one(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt("2.25.5", to=("a", "b"), content=b"1"))
    await record(ledger, receipt("2.25.5", to=("a",), content=b"2"))
    await record(ledger, receipt("2.25.5", to=("a", "b"), content=b"2"))
    (older,) = await ledger.lease("b", 10)
    assert older.instance.checksum[:1] == b"1"
    settle(ledger, older)
    assert await arrive(ledger, "b") == [ord("2")]
    await ledger.close()


async def test_both_versions_sent_again_arrive_in_their_order(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await versions_of(ledger, "a")
    assert await arrive(ledger, "a") == [ord("1"), ord("2")]
    await ledger.resend({"uid": "2.25.5"}, None)
    assert len(await ledger.lease("a", 10)) == 1, "one after the other"
    await ledger.close()


@pytest.mark.parametrize("again", ["2.25.5", "b"])
async def test_sent_again_over_and_over_the_newest_is_always_the_last(tmp_path: Path, again: str) -> None:
    ledger = open_ledger(tmp_path)
    await versions_of(ledger, "a")
    await arrive(ledger, "a")
    for _ in range(3):
        await ledger.resend({"uid": "2.25.5"}, None if again == "2.25.5" else "b")
        for destination in ("a", "b"):
            arrived = await arrive(ledger, destination)
            assert not arrived or arrived[-1] == ord("2")
    assert counted(ledger) == recount(ledger)
    assert not any(count for count, _ in ledger.counts.open.values())
    await ledger.close()


async def test_an_older_version_that_was_given_up_and_is_retried_is_followed_by_the_newest(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await versions_of(ledger, "a")
    (older,) = await ledger.lease("a", 10)
    settle(ledger, older, OutcomeKind.DEAD, reason="status 0xC000", charge=True)
    await ledger.flush()
    assert await arrive(ledger, "a") == [ord("2")]
    await ledger.retry_dead(None, "a")
    assert await arrive(ledger, "a") == [ord("1"), ord("2")]
    await ledger.close()


async def test_what_waits_behind_an_older_version_is_looked_for_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.ledger.store.JUST_NOW", 0.0)
    ledger = open_ledger(tmp_path)
    await versions_of(ledger, "a")
    (older,) = await ledger.lease("a", 10)
    settle(ledger, older, OutcomeKind.RETRY, charge=True, not_before=9e9, reason="status 0x0110", status=0x0110)
    seconds = await ledger.next_ready_in("a")
    assert seconds is not None
    assert 50 < seconds <= 60
    await ledger.close()


# Clocks ------------------------------------------------------------------------------------------------------------


class SetClock:
    """Stands for the module ``time``; the time of day can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


async def waiting_to_try_again(folder: Path, not_before: float) -> SqliteLedger:
    """A ledger with one delivery to ``a``, which is due then."""
    ledger = open_ledger(folder)
    await record(ledger, receipt(to=("a",)))
    (delivery,) = await ledger.lease("a", 1)
    settle(
        ledger, delivery, OutcomeKind.RETRY,
        charge=True, not_before=not_before, reason="status 0x0110", status=0x0110,
    )  # fmt: skip
    await ledger.flush()
    return ledger


@pytest.mark.parametrize("days", [-10, 10])
async def test_a_clock_that_is_set_neither_delays_a_retry_nor_hurries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    clock = SetClock()
    monkeypatch.setattr("router.ledger.writer.time", clock)
    ledger = await waiting_to_try_again(tmp_path, clock.time() + 100.0)
    clock.ahead = days * 86400.0
    seconds = await ledger.next_ready_in("a")
    assert seconds is not None
    assert 90 < seconds <= 101
    assert await ledger.lease("a", 1) == []
    await ledger.close()


async def test_a_clock_that_is_set_while_the_ledger_finds_no_room_delays_no_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SetClock()
    monkeypatch.setattr("router.ledger.writer.time", clock)
    ledger = await waiting_to_try_again(tmp_path, clock.time() + 100.0)

    def full() -> None:
        raise apsw.FullError

    with monkeypatch.context() as without_room:
        without_room.setattr(ledger._store, "commit", full)
        clock.ahead = -10 * 86400.0
        with pytest.raises(LedgerError, match="out of disk space"):
            await ledger.flush()
    seconds = await ledger.next_ready_in("a")
    assert seconds is not None
    assert 80 < seconds <= 101
    await ledger.close()


async def test_after_a_start_nothing_waits_for_longer_than_five_minutes(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await record(ledger, receipt(to=("a",)))
    (delivery,) = await ledger.lease("a", 1)
    settle(ledger, delivery, OutcomeKind.RETRY, charge=True, not_before=9e9, reason="status 0x0110", status=0x0110)
    await ledger.close()
    ledger = open_ledger(tmp_path)
    seconds = await ledger.next_ready_in("a")
    assert seconds is not None
    assert 290 < seconds <= 300
    await ledger.close()
