"""Bytes of a spool that stands still change: what was damaged is told and never sent, everything else is delivered.

A router with paused destinations has received; it is killed. Records are damaged where they lie: a bit flips, a block
reads as zeros, the end is cut off, a segment's file is gone, or two have each other's names. Or it is the ledger: lost,
noise, or an old copy; or both. Then it starts, and the destinations are resumed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.spool.record import FOOTER_SIZE, HEADER_SIZE
from router.spool.segment import FIRST_RECORD, read_mark
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle, lines

DESTINATIONS = 2
BLOCK = 4096
SMALL = """
[spool]
segment_size = "4MiB"
reserve_associations = "0B"
reserve_objects = "0B"
"""


@dataclass(frozen=True)
class Record:
    """Where the ledger says that an object lies."""

    uid: str
    segment: int
    epoch: int
    at: int
    length: int
    size: int

    @property
    def data(self) -> int:
        """Where the data set begins; the footer is behind it."""
        return self.at + self.length - self.size - FOOTER_SIZE


class Bench:
    def __init__(self, folder: Path, oracle: Oracle) -> None:
        self.oracle = oracle
        self.router = RouterProcess(folder / "router", oracle.urls, rules=oracle.rules, extra=SMALL)
        self.ledger = self.router.folder / "data" / "ledger.db"
        self.spool = self.router.folder / "data" / "spool"
        self.told: set[str] = set()
        """UIDs of all that was damaged so far."""

    def path(self, segment: int) -> Path:
        return self.spool / f"{segment:010d}.seg"

    def pause(self) -> None:
        for name in self.oracle.urls:
            self.router.post(f"/api/v1/destinations/{name}/pause", {"reason": "test"})

    def resume(self) -> None:
        for name in self.oracle.urls:
            self.router.post(f"/api/v1/destinations/{name}/resume", {})

    def receive(self, objects: int, seed: int) -> None:
        """Paused, so many more are answered and waiting; then it is killed."""
        before = len(self.oracle.answered())
        self.oracle.send(self.router.port, senders=1, seed=seed)
        wait_for(lambda: len(self.oracle.answered()) >= before + objects, 60, "answers")
        self.oracle.stop_sending()
        wait_for(lambda: len(self.undelivered()) == len(self.waiting()), 30, "the ledger")
        wait_for(lambda: all(map(self.known_to_be_synced, self.waiting())), 30, "sync marks")
        self.router.kill()

    def known_to_be_synced(self, record: Record) -> bool:
        """Its segment says so itself: else a record that does not read back would be taken for a torn one."""
        with self.path(record.segment).open("rb") as file:
            return read_mark(file.fileno(), record.epoch) >= record.at + record.length

    def undelivered(self) -> set[str]:
        """What was answered and is not everywhere, as far as nothing was damaged."""
        return self.oracle.lacking(self.told)

    def waiting(self) -> list[Record]:
        """Those that the ledger still owes to somebody, in the order of the log."""
        with contextlib.closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as ledger:
            return [
                Record(*row)
                for row in ledger.execute(
                    "select distinct i.sop, i.segment, i.epoch, i.at, i.length, i.size from instance i "
                    "join delivery d on d.instance_id = i.id where d.state in ('ready', 'leased') "
                    "order by i.epoch, i.at"
                )
            ]

    def deliver(self, damaged: set[str]) -> None:
        """Start, resume, and let everything else arrive."""
        self.told |= damaged
        self.router.start()
        self.resume()
        wait_for(lambda: not self.undelivered(), 60, "delivery of everything that is whole")

    def settle_alarms(self, dead: int, aside: int) -> None:
        """Until the metrics tell so many dead letters and records in quarantine."""
        names = ("dicom_router_dead_letters", "dicom_router_quarantined_records")
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: tuple(map(self.router.metric, names)) == (dead, aside), 20, "alarms")
        assert tuple(map(self.router.metric, names)) == (dead, aside)


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    with Oracle(folder / "books", destinations=DESTINATIONS, routed=True) as oracle:
        made = Bench(folder, oracle)
        try:
            yield made
        finally:
            made.router.kill()


def change(path: Path, at: int, how: Callable[[bytes], bytes], size: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(size)
        file.seek(at)
        file.write(how(before))


def flip(chance: random.Random) -> Callable[[bytes], bytes]:
    return lambda before: bytes([before[0] ^ 1 << chance.randrange(8)])


def damage(made: Bench, chance: random.Random, records: list[Record], count: int) -> set[Record]:
    """Damage so many records in all the ways there are, by turns; gives what was damaged."""
    hurt: set[Record] = set()
    files = {record.segment for record in records}
    for turn in range(count):
        record = chance.choice([one for one in records if one not in hurt])
        path = made.path(record.segment)
        match turn % 5:
            case 0:
                change(path, record.data + chance.randrange(record.size), flip(chance))
            case 1:
                change(path, record.at + chance.randrange(HEADER_SIZE), flip(chance))  # its header
            case 2:
                change(path, record.at, lambda before: bytes(len(before)), BLOCK)
            case 3:
                block = record.data + chance.randrange(record.size)
                change(path, block // BLOCK * BLOCK, lambda before: bytes(len(before)), BLOCK)
            case _:
                # All of the file behind that place; a segment of its own, so that not too much is hit.
                alone = [one for one in records if one not in hurt and one.at == FIRST_RECORD and one.size > 1 << 20]
                if not alone:
                    continue
                record = alone[-1]
                path = made.path(record.segment)
                if chance.random() < 0.5:
                    with path.open("r+b") as file:
                        file.truncate(record.data + chance.randrange(record.size))
                else:
                    path.unlink()
        hurt.add(record)
    first, second, *_ = [*sorted(files - {record.segment for record in hurt}), 0, 0]
    if first and second:
        swap(made.path(first), made.path(second))
    return hurt


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".swap")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.timeout(7200)
def test_what_is_damaged_is_told_and_never_sent_and_all_else_is_delivered(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    rounds = amount("damage", 1, 100)
    chance = random.Random(17)
    hurt = unsent = 0
    with bench(tmp_path) as made:
        made.router.start()
        for turn in range(rounds):
            made.pause()
            made.receive(60, seed=700 + turn)
            records = made.waiting()
            damaged = damage(made, chance, records, 10)
            gone = sum(not made.path(record.segment).exists() for record in damaged)
            already = len(list((made.spool / "quarantine").iterdir()))
            made.deliver({record.uid for record in damaged})
            hurt += len(damaged)
            unsent += made.oracle.deliveries(record.uid for record in damaged)
            made.settle_alarms(unsent, already + len(damaged) - gone)
        log = made.router.log.read_text()
        assert made.router.stop() == 0
        verdict = made.oracle.judge()
    assert log.count("stored record damaged") >= hurt
    assert (verdict.changed, verdict.astray, verdict.lost) == (0, 0, unsent), verdict
    report(
        Figure(
            test="T17",
            promise="records damaged where they lie: told and never sent, everything else delivered",
            goal="quarantined = damaged; 0 damaged objects sent; start never refused",
            found=f"{hurt:,} records damaged, {hurt:,} told, 0 sent; "
            f"{verdict.deliveries - verdict.lost:,} others delivered",
            n=hurt,
            command=f"make torture (tests/torture/test_damage.py, --amount damage={rounds})",
        ),
        keep=campaign,
    )


def parts(ledger: Path) -> list[Path]:
    return [path for path in ledger.parent.glob(f"{ledger.name}*") if "damaged" not in path.name]


def lose(made: Bench, copy: Path, chance: random.Random) -> None:
    for path in parts(made.ledger):
        path.unlink()


def make_noise_of(made: Bench, copy: Path, chance: random.Random) -> None:
    lose(made, copy, chance)
    made.ledger.write_bytes(chance.randbytes(100_000))


def put_back_an_old_copy(made: Bench, copy: Path, chance: random.Random) -> None:
    lose(made, copy, chance)
    for path in copy.iterdir():
        shutil.copy(path, made.ledger.with_name(path.name))


LEDGERS: dict[Callable[[Bench, Path, random.Random], None], str] = {
    make_noise_of: "the ledger is damaged and was set aside",
    lose: "the ledger is missing",
    put_back_an_old_copy: "the end of the spool's log was read",
}
"""What happens to a ledger, and the line of the log that tells it."""


@pytest.mark.timeout(7200)
def test_a_ledger_that_is_lost_or_damaged_or_old_costs_nothing_but_duplicates(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    rounds = amount("ledgers", 1, 60)
    deliveries = hurt = 0
    for turn in range(rounds):
        happens, told = list(LEDGERS.items())[turn % len(LEDGERS)]
        chance = random.Random(turn)
        folder = tmp_path / str(turn)
        with bench(folder) as made:
            made.router.start()
            made.pause()
            made.receive(20, seed=800 + turn)
            copy = folder / "copy"
            copy.mkdir()
            for path in parts(made.ledger):
                shutil.copy(path, copy)
            made.router.start()
            made.receive(20, seed=900 + turn)
            # Of the last ones: what is older may have been moved, and lie whole where it was before. Neighbours without
            # headers could not be told apart.
            last = {uid for uid, _ in lines(made.oracle.sent[-1])}
            damaged = damage(made, chance, [one for one in made.waiting() if one.uid in last][::2], 4)
            happens(made, copy, chance)
            made.deliver({record.uid for record in damaged})
            made.settle_alarms(0, len(damaged))
            log = made.router.log.read_text()
            assert made.router.stop() == 0
            unsent = made.oracle.deliveries(record.uid for record in damaged)
            verdict = made.oracle.judge()
        assert told in log
        assert (verdict.changed, verdict.astray, verdict.lost) == (0, 0, unsent), verdict
        hurt += len(damaged)
        deliveries += verdict.deliveries - verdict.lost
        shutil.rmtree(folder)
    report(
        Figure(
            test="T17",
            promise="ledger lost, damaged or an old copy, and damaged records: everything whole is delivered",
            goal="0 lost; quarantined = damaged; start never refused",
            found=f"0 of {deliveries:,} deliveries lost; {hurt:,} records damaged, {hurt:,} told, 0 sent",
            n=rounds,
            command=f"make torture (tests/torture/test_damage.py, --amount ledgers={rounds})",
        ),
        keep=campaign,
    )
