"""Segments: used again only when nothing in them is needed, named by numbers, readable by nobody else."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from router.errors import SpoolCorrupt, SpoolError, SpoolFull
from router.model import Location
from router.spool import Spool
from router.spool.segment import path_of
from tests.spool.faulty import Faulty
from tests.spool.support import SMALL, Entry, Log, Running, delivery_of, entry_of, found, live_of, streamed


async def fill(running: Running, count: int, size: int = 9000, start: int = 1) -> list[Entry]:
    entries = [entry_of(n, size) for n in range(start, start + count)]
    for entry in entries:
        await running.put(entry)
    return entries


def of_segment(entries: list[Entry], number: int) -> list[Entry]:
    return [entry for entry in entries if entry.place.segment == number]


async def test_a_segment_is_used_again_when_the_last_of_its_records_is_settled(tmp_path: Path) -> None:
    async with Running(tmp_path / "s", replace(SMALL, spare_segments=5)) as running:
        entries = await fill(running, 12)
        first = of_segment(entries, entries[0].place.segment)
        running.spool.settled([entry.place for entry in first[1:]])
        await fill(running, 20, start=100)
        assert await running.read(first[0]) == first[0].data()
        running.spool.settled([first[0].place])
        again = await fill(running, 20, start=200)
        assert first[0].place.segment in {entry.place.segment for entry in again}
        assert of_segment(again, first[0].place.segment)[0].place.epoch > first[0].place.epoch


async def test_settling_a_record_twice_never_frees_one_that_is_needed(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 12)
        first = of_segment(entries, entries[0].place.segment)
        assert len(first) > 2
        for _ in range(len(first)):
            running.spool.settled([first[0].place])
        await fill(running, 40, start=100)
        for entry in first[1:]:
            assert await running.read(entry) == entry.data()
        assert "records settled twice" in running.log.errors()


async def test_settling_what_lay_in_an_earlier_use_of_a_segment_changes_nothing(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        (entry,) = await fill(running, 1)
        place = entry.place
        running.spool.settled([Location(place.segment, place.epoch - 1, place.offset, place.length)])
        running.spool.settled([Location(4711, 1, 8192, 100)])
        assert running.segment(entry).live == 1


async def test_no_more_settled_segments_are_kept_than_asked_for(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 60)
        assert len(list((tmp_path / "s").glob("*.seg"))) > 8
        running.spool.settled([entry.place for entry in entries])
        await running.files_settled()
        kept = list((tmp_path / "s").glob("*.seg"))
        assert len(kept) <= SMALL.spare_segments + 2  # and the one being written, and the next
        assert running.spool.usage().live_bytes == 0
        assert running.spool.usage().bytes == sum(path.stat().st_size for path in kept)


async def test_a_start_frees_what_the_ledger_does_not_need_and_keeps_the_rest(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 40)
    needed = entries[3]
    async with Running(tmp_path / "s", live=live_of(needed)) as running:
        await running.files_settled()
        assert len(list((tmp_path / "s").glob("*.seg"))) <= 1 + SMALL.spare_segments
        await fill(running, 40, start=100)
        assert await running.read(needed) == needed.data()


async def test_a_segment_file_that_is_missing_is_told_and_not_waited_for(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 20)
    lost = entries[0]
    path_of(tmp_path / "s", lost.place.segment).unlink()
    async with Running(tmp_path / "s", live=live_of(lost, entries[-1])) as running:
        assert "segment file is missing" in running.log.errors()
        with pytest.raises(SpoolCorrupt):
            await running.read(lost)
        with pytest.raises(SpoolCorrupt):
            await streamed(running.spool, lost)
        assert running.spool.quarantine(lost.place) is None
        assert await running.read(entries[-1]) == entries[-1].data()


async def test_reading_what_was_settled_and_overwritten_is_no_damage(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 8)
        gone = entries[0]
        running.spool.settled([entry.place for entry in entries])
        for start in range(100, 200, 20):
            more = await fill(running, 20, start=start)
            running.spool.settled([entry.place for entry in more])
            for reading in (running.read(gone), streamed(running.spool, gone)):
                try:
                    assert await reading == gone.data()
                except SpoolError as error:
                    assert not isinstance(error, SpoolCorrupt)


async def test_a_deleted_file_can_be_read_to_its_end_by_who_has_begun(tmp_path: Path) -> None:
    async with Running(tmp_path / "s", replace(SMALL, spare_segments=0)) as running:
        entry = await running.put_stream(1, 3_000_000)
        pieces = running.spool.source(delivery_of(entry)).chunks()
        first = await anext(pieces)
        running.spool.settled([entry.place])
        await running.files_settled()
        assert not path_of(tmp_path / "s", entry.place.segment).exists()
        rest = b"".join([piece async for piece in pieces])
        assert len(first) + len(rest) == 3_000_000


async def test_only_this_user_can_read_the_spool_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with Running(tmp_path / "a" / "s") as running:
            entry = entry_of(1)
            await running.put(entry)
            await running.put_stream(2, 100_000)
            assert running.spool.quarantine(entry.place) is not None
    finally:
        os.umask(old)
    for path in [tmp_path / "a" / "s", *(tmp_path / "a" / "s").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


async def test_names_are_numbers_and_never_come_from_peers(tmp_path: Path) -> None:
    hostile = "../../../tmp/x"
    async with Running(tmp_path / "s") as running:
        entry = entry_of(1, sop_instance=hostile, study=hostile, patient_id=hostile)
        await running.put(entry)
        await running.put_stream(2, 100_000, sop_instance="/etc/passwd", accession="..")
        running.spool.quarantine(entry.place)
    names = {path.relative_to(tmp_path / "s").as_posix() for path in (tmp_path / "s").rglob("*")} - {
        "lock",
        "quarantine",
    }
    assert names
    assert all(set(name.removeprefix("quarantine/")) <= set("0123456789-.segrec") for name in names)


async def test_what_is_set_aside_is_the_raw_record(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 3)
        place = entries[1].place
        aside = running.spool.quarantine(place)
        assert aside is not None
        raw = path_of(tmp_path / "s", place.segment).read_bytes()[place.offset : place.offset + place.length]
        assert aside.read_bytes() == raw
        assert entries[1].data() in raw


def test_a_second_process_does_not_get_the_spool(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path / "s", SMALL, log=Log())
    try:
        code = (
            "import sys; from pathlib import Path; from router.spool import Spool;"
            "from router.errors import SpoolError; from router.model import SpoolSettings\n"
            "try: Spool.open(Path(sys.argv[1]), SpoolSettings(), log=None)\n"
            "except SpoolError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True
        )
        assert "in use by another process" in done.stdout
    finally:
        spool.close_files()
    Spool.open(tmp_path / "s", SMALL, log=Log()).close_files()


def test_a_folder_that_cannot_be_used_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpoolError, match="cannot use the spool"):
        Spool.open(tmp_path / "file", SMALL, log=Log())


async def test_a_folder_for_which_no_descriptor_is_left_refuses_what_needs_it_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
        real = os.open

        def without(path: Path, flags: int, *rest: int) -> int:
            if flags & os.O_DIRECTORY:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(path, flags, *rest)

        with monkeypatch.context() as none_left:
            none_left.setattr(os, "open", without)
            with pytest.raises(SpoolFull, match="no file descriptor left"):
                await running.put_stream(2, 100_000)
        assert not running.spool.failed
        await running.put_stream(3, 100_000)
    assert sorted(record.location.segment for record in found(tmp_path / "s")) == [1, 3]


async def test_a_spool_is_opened_on_a_disk_without_an_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
    real = os.open

    def without(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT and not path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", without)
    assert len(found(tmp_path / "s")) == 1


async def test_a_segment_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Running(tmp_path / "s") as running:
        await running.put(entry_of(1))
    monkeypatch.setattr("router.spool.segment.FORMAT", 0)
    with pytest.raises(SpoolError, match="newer version"):
        Spool.open(tmp_path / "s", SMALL, log=Log())
    monkeypatch.undo()
    Spool.open(tmp_path / "s", SMALL, log=Log()).close_files()  # the lock was given back


async def test_an_empty_spool_says_so(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        assert running.spool.empty
        await running.put(entry_of(1))
        assert not running.spool.empty


async def test_descriptors_do_not_grow_with_the_backlog(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with Running(tmp_path / "s") as running:
        await running.put_stream(1, 70_000)
        await fill(running, 3, start=1000)
        before = descriptors()
        for number in range(2, 30):
            await running.put_stream(number, 70_000)
        await fill(running, 50, start=2000)
        await running.files_settled()
        assert descriptors() <= before + 2


async def test_what_little_lives_in_a_segment_can_move_and_is_still_found_by_its_old_place(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        entries = await fill(running, 20)
        first = of_segment(entries, entries[0].place.segment)
        running.spool.settled([entry.place for entry in first[1:]])
        assert running.spool.compaction_candidates() == [first[0].place.segment]
        calls = len(running.told.calls)
        new = await running.spool.move(first[0].info, first[0].decision, first[0].place)
        assert len(running.told.calls) == calls, "a move is no news"
        assert new.segment != first[0].place.segment
        running.spool.moved(first[0].place, new)
        assert running.spool.compaction_candidates() == []
        await fill(running, 40, start=100)
        # A lane that leased it before still has the old place.
        assert await running.read(first[0]) == first[0].data()
        assert await streamed(running.spool, first[0]) == first[0].data()
        moved = replace(first[0], location=new)
        assert await running.read(moved) == first[0].data()


async def test_a_damaged_record_does_not_move(tmp_path: Path) -> None:
    async with Running(tmp_path / "s") as running:
        (entry,) = await fill(running, 1)
        with open(path_of(tmp_path / "s", entry.place.segment), "r+b") as file:
            file.seek(entry.place.offset + entry.place.length // 2)
            file.write(b"damage")
        with pytest.raises(SpoolCorrupt):
            await running.spool.move(entry.info, entry.decision, entry.place)


async def test_moves_fail_like_anything_else_when_the_disk_does(tmp_path: Path, faulty: type[Faulty]) -> None:
    async with Running(tmp_path / "s") as running:
        (entry,) = await fill(running, 1)
        faulty.sync_problem = errno.EIO
        with pytest.raises(SpoolError, match="sync failed"):
            await running.spool.move(entry.info, entry.decision, entry.place)
        with pytest.raises(SpoolError, match="sync failed"):
            await running.spool.move(entry.info, entry.decision, entry.place)
