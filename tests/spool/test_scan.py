"""What a start finds after a crash or after damage: torn is told from damaged, and neither hides the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.model import LogPosition
from router.spool import Spool
from router.spool.record import encode_record
from router.spool.segment import BLOCK, FIRST_RECORD, KIND_LOG, MARK_OFFSET, path_of
from tests.spool.support import SMALL, Entry, Log, Running, entry_of, found, info_of


async def spool_of(folder: Path, *groups: list[Entry]) -> None:
    async with Running(folder) as running:
        for group in groups:
            await running.put(*group)


def segment_of(folder: Path, entry: Entry) -> Path:
    return path_of(folder, entry.place.segment)


def forget_mark(path: Path) -> None:
    """As a power cut leaves it: the mark is not synced by anybody."""
    with open(path, "r+b") as file:
        file.seek(MARK_OFFSET)
        file.write(bytes(BLOCK))


def states(folder: Path) -> dict[int, str]:
    return {record.info.id if record.info else -1: record.state for record in found(folder)}


@contextmanager
def starting(folder: Path) -> Iterator[Spool]:
    """A spool that has been opened and reads its files anew whenever it is asked."""
    spool = Spool.open(folder, SMALL, log=Log())
    try:
        yield spool
    finally:
        spool.close_files()


async def test_everything_that_was_stored_is_found(tmp_path: Path) -> None:
    entries = [entry_of(n, n * 37) for n in range(1, 60)]
    await spool_of(tmp_path / "s", entries[:30], entries[30:])
    records = found(tmp_path / "s")
    assert [record.info for record in records] == [entry.info for entry in entries]
    assert all(record.ok and record.decision == entry.decision for record, entry in zip(records, entries, strict=True))
    assert [record.location for record in records] == [entry.location for entry in entries]


async def test_a_last_group_torn_at_any_byte_is_torn_and_what_was_before_is_whole(tmp_path: Path) -> None:
    first, second, third = entry_of(1, 300), entry_of(2, 40), entry_of(3, 10)
    folder = tmp_path / "s"
    await spool_of(folder, [first], [second, third])
    path = segment_of(folder, first)
    assert (first.place.epoch, second.place.epoch) == (third.place.epoch, third.place.epoch)
    forget_mark(path)
    whole = path.read_bytes()
    last = third.place.offset + third.place.length
    with starting(folder) as spool:
        for cut in range(second.place.offset, last):
            path.write_bytes(whole[:cut].ljust(len(whole), b"\0"))
            expected = {1}
            if cut >= second.place.offset + second.place.length:
                expected.add(2)
            records = list(spool.scan())
            assert {record.info.id for record in records if record.ok and record.info} == expected, cut
            assert all(record.ok or record.torn for record in records), cut


async def test_a_record_torn_in_the_middle_of_its_group_does_not_hide_those_behind(tmp_path: Path) -> None:
    # Blocks of one write reach the disk in any order.
    entries = [entry_of(n, 6000) for n in range(1, 5)]
    folder = tmp_path / "s"
    await spool_of(folder, entries)
    path = segment_of(folder, entries[0])
    forget_mark(path)
    with open(path, "r+b") as file:
        file.seek(entries[1].place.offset // 512 * 512)
        file.write(bytes(1024))
    got = states(folder)
    assert {number for number, state in got.items() if state == "ok"} >= {3, 4}


async def test_a_flipped_bit_anywhere_below_the_sync_mark_is_damage_to_that_record_alone(tmp_path: Path) -> None:
    entries = [entry_of(n, 150) for n in range(1, 4)]
    folder = tmp_path / "s"
    await spool_of(folder, entries)
    path = segment_of(folder, entries[0])
    whole = path.read_bytes()
    victim = entries[1].place
    with starting(folder) as spool:
        for at in range(victim.offset, victim.offset + victim.length):
            damaged = bytearray(whole)
            damaged[at] ^= 0x04
            path.write_bytes(damaged)
            assert sorted(record.state for record in spool.scan()) == ["damaged", "ok", "ok"], at


async def test_damage_to_the_very_last_record_is_not_taken_for_a_torn_write(tmp_path: Path) -> None:
    last = entry_of(2, 500)
    folder = tmp_path / "s"
    await spool_of(folder, [entry_of(1)], [last])
    path = segment_of(folder, last)
    with open(path, "r+b") as file:
        file.seek(last.place.offset + 20)
        file.write(b"\xff")
    assert sorted(record.state for record in found(folder)) == ["damaged", "ok"]


async def test_every_other_damaged_region_is_found_once(tmp_path: Path) -> None:
    entries = [entry_of(n, 2000) for n in range(1, 11)]
    folder = tmp_path / "s"
    await spool_of(folder, entries)
    path = segment_of(folder, entries[0])
    with open(path, "r+b") as file:
        for entry in entries[1::2]:
            file.seek(entry.place.offset)
            file.write(bytes(40))
    got = [record.state for record in found(folder)]
    assert (got.count("ok"), got.count("damaged")) == (5, 5)


async def test_a_record_of_an_earlier_use_of_the_segment_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    old = [entry_of(n, 9000) for n in range(1, 8)]
    new = entry_of(100, 50)
    async with Running(folder) as running:
        await running.put(*old)
        number = old[0].place.segment
    path_of(folder, number + 1).unlink()  # made ahead
    async with Running(folder) as running:
        await running.put(new)
    assert new.place.segment == number
    assert new.place.epoch > old[0].place.epoch
    assert [r.info.id for r in found(folder) if r.info and r.location.segment == number] == [100]


async def test_a_data_set_that_holds_what_looks_like_a_record_is_just_data(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    first = entry_of(1, 100)
    await spool_of(folder, [first])
    # The best forgery there is: a whole record, with the number that the epoch counts from.
    inner = entry_of(666, 64)
    forged: list[bytes] = []
    for epoch in (first.place.epoch >> 31, first.place.epoch + 1, 0):
        forged += encode_record(inner.info, inner.decision, inner.chunks or [], epoch=epoch, synced=FIRST_RECORD)[0]
    data = b"".join(forged)
    carrier = Entry(info_of(2, data), inner.decision, [data])
    folder = tmp_path / "t"
    await spool_of(folder, [carrier])
    path = segment_of(folder, carrier)
    with open(path, "r+b") as file:
        file.seek(carrier.place.offset)
        file.write(b"\0")
    assert [record.info for record in found(folder)] == [None]


async def test_a_damaged_segment_header_is_read_by_its_records(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    entries = [entry_of(1), entry_of(2)]
    await spool_of(folder, entries)
    with open(segment_of(folder, entries[0]), "r+b") as file:
        file.write(b"\0" * 100)
    assert states(folder) == {1: "ok", 2: "ok"}


async def test_segments_whose_names_were_swapped_are_told_apart_by_their_headers(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    entries = [entry_of(n, 40_000) for n in range(1, 5)]
    async with Running(folder) as running:
        for entry in entries:
            await running.put(entry)
    a, b = path_of(folder, entries[0].place.segment), path_of(folder, entries[-1].place.segment)
    assert a != b
    os.rename(a, tmp_path / "aside")
    os.rename(b, a)
    os.rename(tmp_path / "aside", b)
    by_id = {record.info.id: record for record in found(folder) if record.info}
    assert {number: record.location for number, record in by_id.items()} == {e.info.id: e.location for e in entries}
    assert all(record.ok for record in by_id.values())


async def test_a_streamed_record_is_torn_without_its_header_and_damaged_when_it_was_whole_once(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    async with Running(folder) as running:
        entry = await running.put_stream(1, 300_000)
    path = segment_of(folder, entry)
    whole = path.read_bytes()
    headless = bytearray(whole)
    headless[FIRST_RECORD : FIRST_RECORD + 64] = bytes(64)
    path.write_bytes(headless)
    assert [record.state for record in found(folder)] == ["damaged"]
    forget_mark(path)
    assert found(folder) == []
    path.write_bytes(whole)
    assert [record.state for record in found(folder)] == ["ok"]


@pytest.mark.parametrize("junk", [b"", b"\0" * 5000, b"DRsegmnt" * 1000, os.urandom(20_000)])
async def test_a_file_that_is_no_segment_stops_nothing(tmp_path: Path, junk: bytes) -> None:
    folder = tmp_path / "s"
    entry = entry_of(1)
    await spool_of(folder, [entry])
    (folder / "0000000099.seg").write_bytes(junk)
    (folder / "notes.seg").write_bytes(junk)
    assert states(folder) == {1: "ok"}


async def test_the_tail_is_what_lies_behind_a_place_in_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    places: list[LogPosition] = []
    entries = [entry_of(n, 20_000) for n in range(1, 12)]
    async with Running(folder) as running:
        for entry in entries:
            await running.put(entry)
            places.append(running.position)
    assert len({entry.place.segment for entry in entries}) > 2
    with starting(folder) as spool:
        for after, place in [(0, LogPosition()), *enumerate(places, 1)]:
            behind = [record.info.id for record in spool.tail(place) if record.ok and record.info]
            assert behind == list(range(after + 1, 12)), after
        assert list(spool.tail(spool.end())) == []


async def test_streamed_records_are_in_the_tail_unless_they_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    async with Running(folder) as running:
        earlier = await running.put_stream(1, 100_000)
        small = entry_of(2)
        await running.put(small)
        place = running.position
        later = await running.put_stream(3, 100_000)
    assert earlier.place.epoch < small.place.epoch < later.place.epoch
    with starting(folder) as spool:
        assert [record.info.id for record in spool.tail(place) if record.info] == [1, 3]
        assert [record.info.id for record in spool.tail(place, lambda number, _: number == 1) if record.info] == [3]


async def test_places_go_on_behind_where_the_ledger_stands_even_if_its_segments_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    async with Running(folder) as running:
        await running.put(entry_of(1))
        place = running.position
    for path in folder.glob("*.seg"):
        path.unlink()
    spool = Spool.open(folder, SMALL, log=Log())
    spool.adopt({}, place)
    segment, file = spool._pool.take(KIND_LOG)
    assert segment.epoch > place.epoch
    file.close()
    spool.close_files()
