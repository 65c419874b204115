"""What was answered survives SIGKILL at any moment, and a power cut that keeps, drops or tears what was not synced."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from router.errors import SpoolError
from router.model import InstanceInfo, Location, LogPosition
from router.ports import SpoolEntry
from router.spool import Spool, durable
from router.spool.source import read_whole
from tests.spool.crash_writer import Books, info_in_books
from tests.spool.support import SMALL, Log, Running, entry_of
from tests.support.plain_committer import PlainCommitter

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
STATES_PER_RUN = 40
SECTOR = 512


def test_nothing_answered_is_lost_to_sigkill(tmp_path: Path) -> None:
    folder, books_path = tmp_path / "s", tmp_path / "books"
    chance = random.Random(20)
    answered = 0
    for turn in range(1, KILLS + 1):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.spool.crash_writer", str(folder), str(books_path), str(turn)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", process.communicate()[1].decode()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.01, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        books = Books(books_path)
        answered += len(books.rows)
        check(folder, {n: (info_in_books(n), place) for n, place in books.rows.items()})
    assert answered > KILLS


def check(
    folder: Path,
    answered: dict[int, tuple[InstanceInfo, Location]],
    position: LogPosition | None = None,
    known: Collection[int] = (),
) -> set[int]:
    """Start over: everything answered is there. Gives the ids of all that is whole.

    Args:
        position: Behind what was answered: nothing there is damaged, only torn.
        known: Ids ever answered; they may be needed no more.
    """
    log = Log()
    spool = Spool.open(folder, SMALL, log=log)
    try:
        for info, place in answered.values():
            assert sum(map(len, read_whole(spool._pool, info, place))) == info.size
        # The same without a ledger.
        whole = {record.info.id for record in spool.tail(LogPosition()) if record.ok and record.info is not None}
        assert set(answered) <= whole
        if position is not None:
            behind = list(spool.tail(position, lambda number, _: number in known))
            new = [record for record in behind if record.info is None or record.info.id not in known]
            assert "damaged" not in {record.state for record in new}
            in_log = {number for number, (_, place) in answered.items() if place.epoch <= position.epoch}
            assert not in_log & {record.info.id for record in behind if record.info is not None}
        return whole
    finally:
        spool.close_files()


class PowerCut:
    """Remembers what was durable, file by file and name by name, and makes up what a disk may hold after a cut.

    A strict disk: only bytes covered by a sync, and names covered by a sync of the directory, are sure to survive.
    Every other sector holds its new or its old content, each for itself.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, str] | None) -> None:
        self.folder = folder
        self.durable: dict[str, bytes] = {}
        self.names: set[str] = set()
        sync_data, sync_directory = durable.sync_data, durable.sync_directory

        def is_left_out(name: str) -> bool:
            thread = threading.current_thread().name
            return left_out is not None and name == left_out[0] and left_out[1] in (thread.split("_")[0], "")

        def data(descriptor: int) -> None:
            file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if file.parent != folder:
                sync_data(descriptor)  # a start that looks at a cut
                return
            if threading.current_thread().name.split("_")[0] in ("spool", "spool-stream"):
                self.before_sync()
            if is_left_out("sync_data"):
                return
            # What is written while the sync runs may or may not be covered; what was before must be.
            content = self.read(descriptor)
            sync_data(descriptor)
            self.durable[file.name] = content

        def directory(path: Path) -> None:
            if is_left_out("sync_directory"):
                return
            names = {file.name for file in folder.glob("*.seg")}
            sync_directory(path)
            self.names |= names

        class Committer(PlainCommitter):
            def sync(self, descriptor: int) -> None:
                data(descriptor)

        self.before_sync: Callable[[], None] = lambda: None
        monkeypatch.setattr(durable, "sync_data", data)
        monkeypatch.setattr(durable, "Committer", Committer)
        monkeypatch.setattr(durable, "sync_directory", directory)

    @staticmethod
    def read(descriptor: int) -> bytes:
        return Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def image(self, target: Path, chance: random.Random) -> None:
        target.mkdir()
        for path in self.folder.glob("*.seg"):
            if path.name not in self.names and chance.random() < 0.5:
                continue
            before = self.durable.get(path.name, b"")
            try:
                now = path.read_bytes()
            except FileNotFoundError:  # deleted this moment, as it would be after the cut, or not
                continue
            size = chance.choice((len(now), len(before)))
            keep_new = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
            content = bytearray()
            for at in range(0, size, SECTOR):
                old, new = (image[at : at + SECTOR].ljust(SECTOR, b"\0") for image in (before, now))
                content += new if old == new or chance.random() < keep_new else old
            (target / path.name).write_bytes(content[:size])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("streamed", [False, True])
async def test_nothing_answered_is_lost_to_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, streamed: bool
) -> None:
    torn = await campaign(tmp_path, monkeypatch, seed, streamed)
    assert torn, "no state in which there was anything to find out"


async def campaign(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    streamed: bool,
    left_out: tuple[str, str] | None = None,
) -> int:
    """Cut the power between write and sync of a group, and right after its answer, again and again."""
    folder = tmp_path / "s"
    chance = random.Random(seed)
    disk = PowerCut(folder, monkeypatch, left_out)
    answered: dict[int, tuple[InstanceInfo, Location]] = {}
    pending: set[int] = set()
    """Written, perhaps."""
    known: set[int] = set()
    problems: list[Exception] = []
    torn = 0
    states = 0

    def cut() -> None:
        nonlocal torn, states
        states += 1
        # What had been told before the power went; more may be told meanwhile.
        told, expected, before = running.position, dict(answered), set(known)
        target = tmp_path / f"cut{states}"
        disk.image(target, chance)
        try:
            torn += len(pending - check(target, expected, told, before))
        except (AssertionError, SpoolError) as error:
            problems.append(error)
        shutil.rmtree(target)

    def synced(entries: Sequence[SpoolEntry]) -> None:
        for entry in entries:
            assert entry.location is not None
            answered[entry.info.id] = entry.info, entry.location
            pending.discard(entry.info.id)
            known.add(entry.info.id)
        if chance.random() < 0.5:
            cut()

    disk.before_sync = cut
    async with Running(folder, on_synced=synced) as running:
        number = 0
        while states < STATES_PER_RUN and not problems and not running.spool.failed:
            number += 10
            group = [entry_of(number + n, chance.choice((0, 100, 3000, 20_000))) for n in range(chance.randint(1, 4))]
            pending.clear()
            pending.update(entry.info.id for entry in group)
            waiting = [running.put(*group)]
            if streamed:
                waiting.append(put_stream(running, number + 9, chance.randint(1, 90_000)))
            await asyncio.gather(*waiting, return_exceptions=True)
            # Segments are used again while others are still needed.
            if chance.random() < 0.7:
                for gone in chance.sample(sorted(answered), len(answered) * 3 // 4):
                    running.spool.settled([answered.pop(gone)[1]])
        assert running.log.errors() == []
    if problems:
        raise AssertionError("something answered was lost") from problems[0]
    return torn


async def put_stream(running: Running, number: int, size: int) -> None:
    await running.put_stream(number, size)


# Left out syncs: which function, and in threads of what name (any, if empty).
MUTANTS = {
    "of the log": ("sync_data", "spool"),
    "of streamed data": ("sync_data", "spool-stream"),
    "of the directory": ("sync_directory", ""),
}


@pytest.mark.parametrize("left_out", MUTANTS)
async def test_a_power_cut_would_tell_if_a_sync_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    noticed = 0
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with monkeypatch.context() as patch:
            try:
                await campaign(folder, patch, seed, streamed=True, left_out=MUTANTS[left_out])
            except AssertionError:
                noticed += 1
    assert noticed
