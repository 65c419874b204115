"""What a start makes of spool and ledger that a crash, a loss or an old backup left behind."""

from __future__ import annotations

import asyncio
import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from router.app.recovery import reconcile
from router.ledger import Receipt, SqliteLedger
from router.model import OutcomeKind
from router.spool import Spool
from router.spool.segment import path_of
from tests.ledger.support import SilentLog, record, settle
from tests.spool.support import SMALL, Entry, Running, bytes_of, entry_of, found, info_of, live_of
from tests.spool.support import Log as SpoolLog


def opened(folder: Path) -> SqliteLedger:
    return SqliteLedger.open(folder / "ledger.db", node="n1", log=SilentLog())


def receipt_of(entry: Entry) -> Receipt:
    return Receipt(info=entry.info, decision=entry.decision, location=entry.place)


def start(folder: Path, policy: str = "version") -> SqliteLedger:
    """Spool and ledger brought together; the ledger, still open."""
    spool = Spool.open(folder / "s", SMALL, log=SilentLog())
    ledger = opened(folder)
    reconcile(spool, ledger, SilentLog(), policy)
    spool.close_files()
    return ledger


async def recorded(folder: Path, *entries: Entry, position: object = None) -> None:
    ledger = opened(folder)
    ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
    await record(ledger, *map(receipt_of, entries), position=position)  # type: ignore[arg-type]
    await ledger.close()


async def test_what_the_ledger_had_not_heard_is_owed(tmp_path: Path) -> None:
    entries = [entry_of(n, 9000) for n in range(1, 20)]
    async with Running(tmp_path / "s") as running:
        for entry in entries[:7]:
            await running.put(entry)
        place = running.position
        for entry in entries[7:]:
            await running.put(entry)
    await recorded(tmp_path, *entries[:7], position=place)
    for _ in range(2):
        ledger = start(tmp_path)
        assert all(ledger.knows(entry.info.id) for entry in entries)
        assert ledger.counts.open == {name: [19, 19 * 9000] for name in entries[0].decision.destinations}
        ledger.close_files()


async def test_a_policy_that_refuses_holds_at_a_start_what_may_have_been_answered(tmp_path: Path) -> None:
    first = entry_of(1)
    data = bytes_of(900, 2)
    second = Entry(info_of(2, data, sop_instance=first.info.sop_instance), first.decision, [data])
    async with Running(tmp_path / "s") as running:
        await running.put(first)
        await running.put(second)
    ledger = start(tmp_path, "reject")
    assert ledger.knows(2)
    assert ledger.counts.held == 1
    ledger.close_files()


async def test_a_streamed_object_that_an_old_ledger_does_not_know_is_owed(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        stream = running.spool.stream()
        data = bytes_of(100_000, 2)
        stream.write(data)
        while stream.segment is None:
            await asyncio.sleep(0.001)
        small = entry_of(1, 70_000)
        await running.put(small)
        later = entry_of(3, 100)
        await running.put(later)
        place = running.position
        large = Entry(info_of(2, data), small.decision, None)
        stream.finish(large)
        await running.ended(large)
    assert large.place.epoch < place.epoch
    await recorded(tmp_path, small, later, position=place)
    ledger = start(tmp_path)
    assert ledger.knows(2)
    ledger.close_files()


async def test_a_record_that_was_moved_after_the_backup_is_found_where_it_is(tmp_path: Path) -> None:
    async with Running(tmp_path / "s", replace(SMALL, spare_segments=5)) as running:
        entries = [entry_of(n, 9000) for n in range(1, 12)]
        for entry in entries:
            await running.put(entry)
        await recorded(tmp_path, *entries, position=running.position)
        shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
        moved = entries[0]
        new = await running.spool.move(moved.info, moved.decision, moved.place)
        same = [entry for entry in entries if entry.place.segment == moved.place.segment]
        running.spool.settled([entry.place for entry in same])
        await running.files_settled()
        for n in range(100, 130):
            await running.put(entry_of(n, 9000))
        assert running.pool.segments[moved.place.segment].epoch != moved.place.epoch
    (tmp_path / "ledger.db").unlink()
    shutil.move(tmp_path / "backup.db", tmp_path / "ledger.db")
    ledger = start(tmp_path)
    assert ledger.place(moved.info.id) == new
    ledger.close_files()


async def test_a_record_that_was_moved_and_still_lies_in_its_old_place_is_owed_once(tmp_path: Path) -> None:
    first, data = entry_of(1, 9000), bytes_of(9000, 2)
    changed = Entry(info_of(2, data, sop_instance=first.info.sop_instance), first.decision, [data])
    entries = [first, changed, entry_of(3, 9000)]
    async with Running(tmp_path / "s") as running:
        for entry in entries:
            await running.put(entry)
        for entry in entries:
            await running.spool.move(entry.info, entry.decision, entry.place)
    for _ in range(2):  # the ledger is lost, and then it is there
        ledger = start(tmp_path)
        assert all(ledger.knows(entry.info.id) for entry in entries)
        assert ledger.counts.open == {name: [3, 3 * 9000] for name in first.decision.destinations}
        ledger.close_files()


async def test_an_old_ledger_finds_what_was_written_after_the_spool_had_been_emptied(tmp_path: Path) -> None:
    settings = replace(SMALL, spare_segments=0)
    async with Running(tmp_path / "s", settings) as running:
        entries = [entry_of(n, 9000) for n in range(1, 20)]
        for entry in entries:
            await running.put(entry)
        await recorded(tmp_path, *entries, position=running.position)
        shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
        running.spool.settled([entry.place for entry in entries])
    (tmp_path / "ledger.db").unlink()
    await recorded(tmp_path, position=running.position)  # all that was owed has been delivered and let go
    spool = Spool.open(tmp_path / "s", settings, log=SilentLog())
    assert spool.empty
    ledger = opened(tmp_path)
    reconcile(spool, ledger, SilentLog(), "version")
    synced = asyncio.Event()
    spool.start(asyncio.get_running_loop(), synced=lambda entries, position: synced.set(), failed=lambda *_: None)
    later = entry_of(1000)
    spool.submit(later)
    await synced.wait()
    await spool.close()
    ledger.close_files()
    shutil.move(tmp_path / "backup.db", tmp_path / "ledger.db")
    ledger = start(tmp_path)
    assert ledger.knows(later.info.id)
    ledger.close_files()


async def test_the_number_of_a_missing_segment_is_not_used_again(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = entry_of(1)
        await running.put(entry)
    live = live_of(entry)
    shutil.rmtree(tmp_path / "s")
    async with Running(tmp_path / "s", live=live) as running:
        other = entry_of(2)
        await running.put(other)
        assert other.place.segment > entry.place.segment


async def test_a_streamed_record_that_nobody_needs_is_not_found_at_a_start(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        gone = await running.put_stream(1, 100_000)
        running.spool.settled([gone.place])
        await running.files_settled()
    assert found(tmp_path / "s") == [], "neither whole nor missed"
    ledger = start(tmp_path)
    assert not ledger.knows(1)
    ledger.close_files()


async def test_an_identical_duplicate_that_took_the_place_of_an_older_record_is_read(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entry = entry_of(1)
        again = Entry(replace(entry.info, id=2), entry.decision, entry.chunks)
        await running.put(again)
        data = b"".join(await running.spool.load(entry.info, again.place))
        assert data == entry.data()


async def given_up(ledger: SqliteLedger) -> None:
    """Everything that is owed becomes a dead letter."""
    for name in list(ledger.counts.open):
        for delivery in await ledger.lease(name, 10):
            settle(ledger, delivery, OutcomeKind.DEAD, reason="status 0xC000")
    await ledger.flush()


async def test_a_dead_letter_of_a_streamed_object_that_came_twice_stays_one_at_every_start(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        first = await running.put_stream(1, 300_000)
        stream = running.spool.stream()
        data = bytes_of(300_000, 1)
        stream.write(data)
        again = Entry(replace(first.info, id=2), first.decision, None)
        stream.finish(again)
        await running.ended(again)
        ledger = opened(tmp_path)
        ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
        await record(ledger, receipt_of(first))
        await given_up(ledger)
        (result,) = await record(ledger, receipt_of(again))
        assert (result.kind, result.unneeded) == ("duplicate", first.place)
        running.spool.settled([first.place])
        await running.files_settled()
        await given_up(ledger)
        await ledger.close()
    for _ in range(2):
        ledger = start(tmp_path)
        assert ledger.counts.dead == len(first.decision.destinations)
        assert not any(count for count, _ in ledger.counts.open.values())
        assert ledger.place(1) == again.place
        live = ledger.live()
        ledger.close_files()
    async with Running(tmp_path / "s", live=live) as running:
        assert b"".join(await running.spool.load(first.info, again.place)) == data


@pytest.mark.parametrize("text", ["ACC2026112301", "8" + "0" * 12, "ZZZZZZZZZZZZZ"])
def test_a_text_that_is_too_large_for_an_id_is_none(text: str) -> None:
    from router.model import parse_id

    with pytest.raises(ValueError, match="63 bits"):
        parse_id(text)


@pytest.mark.parametrize("step", ["_private", "read_at"], ids=["no file", "half a file"])
async def test_a_damaged_record_for_whose_copy_there_is_no_room_keeps_no_router_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    entries = [entry_of(n, 9000) for n in range(1, 4)]
    async with Running(tmp_path / "s") as running:
        await running.put(*entries)
    broken = entries[1].place
    with open(path_of(tmp_path / "s", broken.segment), "r+b") as file:
        file.seek(broken.offset + broken.length // 2)
        file.write(b"?" * 100)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = SpoolLog()
    spool, ledger = Spool.open(tmp_path / "s", SMALL, log=log), opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"router.spool.spool.{step}", full)
        reconcile(spool, ledger, log, "version")
    assert ledger.counts.open == {name: [2, 2 * 9000] for name in entries[0].decision.destinations}
    assert spool.quarantined() == 0
    assert [event for _, event, _ in log.lines if "not set aside" in event]
    assert spool._pool.segments[broken.segment].live == 3, "its place is not written over in this run"
    spool.close_files()
    ledger.close_files()
