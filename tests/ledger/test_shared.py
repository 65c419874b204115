"""One ledger, two processes that write to it: ids, leases, positions, counters, and versions in order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from router.errors import LedgerTooNew
from router.ledger import Receipt, SqliteLedger, shared, store, writer
from router.ledger.schema import MACROS, STEPS, immediate, migrate
from router.ledger.store import Store
from router.model import LOG_SEGMENTS, LogPosition, OutcomeKind, Share, Verdict
from tests.ledger.support import SilentLog, receipt, record, settle

Open = Callable[[int], SqliteLedger]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Makes the ledger of worker 0 or 1 of two."""
    path = tmp_path / "ledger.db"
    shared.prepare(path, node="n1", log=SilentLog())
    ledgers = []

    def make(worker: int) -> SqliteLedger:
        ledger = SqliteLedger.open(path, node="n1", log=SilentLog(), share=Share(worker, 2))
        ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
        ledgers.append(ledger)
        return ledger

    yield make
    for ledger in ledgers:
        await ledger.close()


@contextmanager
def shared_turn(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has its turn until the block is left."""
    program = (
        "import sys, time; from pathlib import Path; from router.ledger.shared import Turn\n"
        "with Turn(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "ledger.db")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]


async def both(*work: Awaitable[object]) -> None:
    async with asyncio.timeout(30):
        await asyncio.gather(*work)


async def test_two_that_write_at_once_never_give_a_number_twice(opened: Open) -> None:
    first, second = opened(0), opened(1)

    async def fill(ledger: SqliteLedger) -> None:
        for _ in range(40):
            results = await record(ledger, receipt(to=("a", "b")), receipt(to=("a",)))
            assert [result.kind for result in results] == ["new", "new"]

    await both(fill(first), fill(second))
    counts = await first.counted()
    assert counts.open["a"] == [160, 160 * 100]
    assert counts.open["b"] == [80, 80 * 100]
    assert (await second.counted()).open == counts.open
    rows = await first.queue(None, 1000)
    assert len({row["delivery"] for row in rows}) == 240


async def test_a_delivery_is_leased_to_one_of_them_only(opened: Open) -> None:
    first, second = opened(0), opened(1)
    await record(first, *(receipt(to=("a",)) for _ in range(50)))
    got: list[int] = []

    async def take(ledger: SqliteLedger) -> None:
        while found := await ledger.lease("a", 3):
            got.extend(delivery.id for delivery in found)
            for delivery in found:
                settle(ledger, delivery)
        await ledger.flush()

    await both(take(first), take(second))
    assert len(got) == len(set(got)) == 50
    assert (await first.counted()).open["a"] == [0, 0]
    assert sum((await second.counted()).kept.values()) == 50 * 200


async def test_a_worker_that_starts_again_takes_its_own_leases_over_and_no_others(opened: Open) -> None:
    first, second = opened(0), opened(1)
    await record(first, *(receipt(to=("a",)) for _ in range(4)))
    mine, other = await first.lease("a", 2), await second.lease("a", 2)
    assert await first.ready_among(["a", "b"]) == []
    again = opened(1)  # as a new process would
    assert [delivery.id for delivery in await again.lease("a", 9)] == [delivery.id for delivery in other]
    settle(second, other[0])  # late: the lease is lost
    settle(first, mine[0])
    await second.flush()
    await first.flush()
    assert (await first.counted()).open["a"][0] == 3


async def test_expired_leases_of_a_worker_that_does_not_come_back_are_taken_over(opened: Open) -> None:
    first, second = opened(0), opened(1)
    await record(first, receipt(to=("a",)))
    await second.lease("a", 1)
    assert await first._call(lambda store, now: store.take_over_expired(now)) == 0
    assert await first._call(lambda store, now: store.take_over_expired(now + 61)) == 1
    assert await first.ready_among(["a"]) == ["a"]
    assert len(await first.lease("a", 1)) == 1


async def test_leases_that_nobody_could_renew_stay_with_who_has_them(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RENEW_EVERY", 0.4)
    monkeypatch.setattr(store, "LEASE_SECONDS", 2.0)
    first, second = opened(0), opened(1)
    await record(first, *(receipt(to=("a",)) for _ in range(4)))
    await first.lease("a", 2)
    await second.lease("a", 2)
    with shared_turn(tmp_path):
        await asyncio.sleep(3)  # as behind a worker that hangs, or a program that copies the ledger
    await asyncio.sleep(2)
    assert (len(await first.leases()), len(await second.leases())) == (2, 2)
    await second.close()
    async with asyncio.timeout(20):
        while not await first.ready_among(["a"]):
            await asyncio.sleep(0.1)


async def test_a_late_outcome_of_a_delivery_that_is_gone_is_taken_for_no_other(opened: Open) -> None:
    first, second = opened(0), opened(1)
    (result,) = await record(first, receipt(to=("a",), direct=("a",)))
    (lost,) = result.deliveries
    await second._call(lambda store, now: store.take_over_expired(now + 61))
    (delivery,) = await second.lease("a", 1)
    settle(second, delivery)
    await second.flush()
    assert len(await first.expire(0, 0)) == 1
    (result,) = await record(second, receipt(to=("a",), direct=("a",)))
    settle(first, lost)
    await first.flush()
    assert (await first.counted()).open["a"] == [1, 100]
    (other,) = result.deliveries
    assert other.id != lost.id


async def test_each_has_its_place_in_its_own_log(opened: Open, tmp_path: Path) -> None:
    first, second = opened(0), opened(1)
    await record(first, receipt(), position=LogPosition(5, 100))
    await record(second, receipt(), position=LogPosition(3, 900))
    await first.close()
    await second.close()
    again = SqliteLedger.open(tmp_path / "ledger.db", node="n1", log=SilentLog())
    assert [again.position(log) for log in range(3)] == [LogPosition(5, 100), LogPosition(3, 900), LogPosition()]
    again.close_files()


async def test_versions_are_delivered_in_the_order_of_their_arrival_whoever_got_them(opened: Open) -> None:
    first, second = opened(0), opened(1)
    versions = [receipt("1.2.3", content=bytes([n]), to=("a",)) for n in range(6)]
    for number, one in enumerate(versions):
        [result] = await record((first, second)[number % 2], one)
        assert result.kind == ("version" if number else "new")
    for number, one in enumerate(versions):
        ledger = (second, first)[number % 2]
        [delivery] = await ledger.lease("a", 9)
        assert delivery.instance.id == one.info.id
        assert await first.lease("a", 9) == await second.lease("a", 9) == []
        settle(ledger, delivery)
        await ledger.flush()


async def test_an_older_version_recorded_late_goes_before_the_newer_that_waits(opened: Open) -> None:
    first, second = opened(0), opened(1)
    older, newer = (receipt("1.2.3", content=bytes([n]), to=("a",)) for n in (1, 2))
    await record(second, newer)
    [result] = await record(first, older)
    assert result.kind == "version"
    for one in (older, newer):
        [delivery] = await second.lease("a", 9)
        assert delivery.instance.id == one.info.id
        settle(second, delivery)
        await second.flush()
    assert await first.lease("a", 9) == []


@pytest.mark.parametrize("delivered_before", [True, False])
async def test_the_newer_version_is_the_last_to_arrive_though_it_went_first(
    opened: Open, delivered_before: bool
) -> None:
    first, second = opened(0), opened(1)
    woken: list[str] = []
    first.ready = woken.append
    older, newer = (receipt("1.2.3", content=bytes([n]), to=("a",)) for n in (1, 2))
    await record(second, newer)
    [delivery] = await second.lease("a", 9)
    if delivered_before:
        settle(second, delivery)
        await second.flush()
    await record(first, older)
    if not delivered_before:
        assert await first.lease("a", 9) == [], "not beside the one in flight"
        settle(second, delivery)
        await second.flush()
    for one in (older, newer):
        [delivery] = await first.lease("a", 9)
        assert delivery.instance.id == one.info.id
        settle(first, delivery)
        await first.flush()
    assert woken == ["a"]
    assert await first.lease("a", 9) == []
    counts = await first.counted()
    assert counts.open["a"] == [0, 0]
    assert counts.kept_bytes == 400


async def test_an_identical_object_is_owed_once_whoever_gets_it(opened: Open) -> None:
    first, second = opened(0), opened(1)
    one = receipt("1.2.3", content=b"1", to=("a",))
    same = receipt("1.2.3", content=b"1", to=("a",))
    other = receipt("1.2.3", content=b"2", to=("a",))
    late = receipt("1.2.3", content=b"1", to=("a",))
    results: list[str] = []

    async def put(ledger: SqliteLedger, given: Receipt) -> None:
        results.extend(result.kind for result in await record(ledger, given))

    await both(put(first, one), put(second, same))
    assert sorted(results) == ["duplicate", "new"]
    await put(second, other)
    assert results[-1] == "version"
    await put(first, late)  # not what came last: a version of its own
    assert results[-1] == "version"
    assert (await first.counted()).open["a"][0] == 3


@pytest.mark.parametrize(("policy", "kind"), [("reject", "rejected"), ("hold", "held")])
async def test_other_bytes_are_refused_or_held_whoever_gets_them(opened: Open, policy: str, kind: str) -> None:
    first, second = opened(0), opened(1)
    for number, ledger in enumerate((first, second, first)):
        given = receipt("1.2.3", content=bytes([number]), to=("a",), on_duplicate=policy)
        [result] = await record(ledger, given)
        assert result.kind == (kind if number else "new")
    assert (await second.counted()).held == (2 if policy == "hold" else 0)


async def test_each_lets_go_of_its_own_records_only(opened: Open) -> None:
    ledgers = opened(0), opened(1)
    for worker, ledger in enumerate(ledgers):
        await record(ledger, *(receipt(to=("a",), segment=worker * LOG_SEGMENTS + 1) for _ in range(10)))
        for delivery in await ledger.lease("a", 99):
            settle(ledger, delivery)
        await ledger.flush()
    assert (await ledgers[0].counted()).kept == {0: 2000, 1: 2000}
    gone = await ledgers[1].expire(3600, 2000)  # two thousand bytes too many, half of them ours
    assert len(gone) == 5
    assert {place.segment for _, place in gone} == {LOG_SEGMENTS + 1}
    assert await ledgers[1].expire(3600, 3000) == []
    assert len(await ledgers[0].expire(-1, 0)) == 10
    assert (await ledgers[0].counted()).kept == {0: 0, 1: 1000}


async def test_the_counters_are_counted_anew_when_the_router_starts(opened: Open, tmp_path: Path) -> None:
    first = opened(0)
    await record(first, receipt(to=("a",)), receipt(verdict=Verdict.HOLD))
    await first.lease("a", 1)
    await first.close()
    connection = apsw.Connection(str(tmp_path / "ledger.db"))
    connection.execute("update counter set number=7")
    connection.close()
    assert shared.prepare(tmp_path / "ledger.db", node="n1", log=SilentLog()) is False
    second = opened(1)
    counts = await second.counted()
    assert (counts.open, counts.held) == ({"a": [1, 100]}, 1)
    assert await second.ready_among(["a"]) == ["a"], "leases of the last run are ready"


async def test_a_lock_is_free_when_its_process_is_killed(opened: Open, tmp_path: Path) -> None:
    ledger = opened(0)
    with shared_turn(tmp_path) as holder:
        waiting = asyncio.create_task(record(ledger, receipt(to=("a",))))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done, "it wrote out of turn"
        holder.kill()
    async with asyncio.timeout(10):
        assert [result.kind for result in await waiting] == ["new"]


def test_a_ledger_of_one_process_becomes_one_of_several(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    connection = apsw.Connection(str(path))
    for step in STEPS[:2]:
        for macro, text in MACROS.items():
            step = step.replace(macro, text)
        connection.execute(step)
    connection.execute("create table schema_version(version integer not null); insert into schema_version values(2)")
    connection.execute("update log_position set epoch=9, at=4096")
    assert migrate(connection) is False
    store = Store(connection, "n1/0/1", Share(0, 2))
    assert [store.position(log) for log in (0, 1)] == [LogPosition(9, 4096), LogPosition()]
    with immediate(connection):
        store.reach(LogPosition(2, 8), 1)
        store.reach(LogPosition(9, 8192), 0)
    assert [store.position(log) for log in (0, 1)] == [LogPosition(9, 8192), LogPosition(2, 8)]
    connection.execute("update schema_version set version=99")
    with pytest.raises(LedgerTooNew):
        migrate(connection)
    connection.close()


async def test_what_became_of_an_attempt_counts_for_all(opened: Open) -> None:
    first, second = opened(0), opened(1)
    await record(first, receipt(to=("a",)), receipt(to=("a",)))
    one, other = await second.lease("a", 2)
    settle(second, one, OutcomeKind.DEAD, reason="refused")
    settle(second, other, OutcomeKind.RETRY, not_before=time.time() + 3600)
    await second.flush()
    assert (await first.counted()).dead == 1
    assert await first.ready_among(["a"]) == [], "not before its time"
    assert await first.retry_dead(None, "a") == {"a": 1}
    assert (await second.counted()).dead == 0
    assert await second.ready_among(["a"]) == ["a"]
