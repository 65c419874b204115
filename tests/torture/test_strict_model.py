"""A disk that keeps only what was synced: nothing answered is lost in any state that a power cut may leave.

A router runs on a file system that journals every change and every sync (``strict``), with senders and destinations
whose books lie on it too, so that the journal says what had been answered when. It is killed and started again now and
then. From the journal, states are made afterwards: the disk at some moment, unsynced bytes and names kept, dropped or
torn in sectors. Each is recovered by the production code and judged.

A sync that the program would not call is a sync that is left out of the journal: so the same run shows whether each of
them is needed, and whether this test would notice.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.mutants import MUTANTS, NEEDS_STRICT_DISK
from tests.torture.oracle import Oracle
from tests.torture.strict.disk import Event, StrictDisk, What, events
from tests.torture.strict.judge import Books, Finding, judge
from tests.torture.strict.mount import StrictMount, unable
from tests.torture.strict.scratch import scratch
from tests.torture.test_power_cut import Unrecovered

DESTINATIONS = 2
PER_RUN = 100
"""States of one recording."""
SMALL = """
[spool]
segment_size = "4MiB"
spare_segments = 2
reserve_associations = "0B"
reserve_objects = "0B"
keep_delivered = 0.1
"""
"""Segments are used again, deleted and made all the time."""


def record(
    folder: Path,
    *,
    seed: int,
    answers: int,
    kills: int,
    program: Sequence[str] = (sys.executable, "-m", "router.app.cli"),
) -> Path:
    """Run a router on the strict disk until so many objects are answered; gives the journal."""
    chance = random.Random(seed)
    with StrictMount(folder) as mount:
        (mount.path / "data").mkdir()
        (folder / "router").mkdir()
        (folder / "router" / "data").symlink_to(mount.path / "data")
        with Oracle(mount.path / "books", destinations=DESTINATIONS, routed=True) as oracle:
            router = RouterProcess(folder / "router", oracle.urls, rules=oracle.rules, extra=SMALL, program=program)
            try:
                router.start()
                oracle.send(router.port, senders=2, seed=seed)
                for _ in range(kills):
                    wanted = len(oracle.answered()) + answers // (kills + 1)
                    wait_for(lambda wanted=wanted: len(oracle.answered()) >= wanted, 120, "answers")  # type: ignore[misc]
                    oracle.stall(chance.randrange(DESTINATIONS))
                    router.kill()
                    try:
                        router.start()
                    except RuntimeError as error:
                        raise Unrecovered(str(error)) from error
                wait_for(lambda: len(oracle.answered()) >= answers, 120, "answers")
                if chance.random() < 0.5:
                    oracle.stop_sending()
                    router.stop()  # a drain, too, has moments
            finally:
                router.kill()
    return mount.journal


@dataclass
class State:
    """One state that was judged."""

    at: int
    fate: str
    found: Finding
    image: Path
    """As the power cut left it; there until the next state is asked for."""
    books: Books


def moments(journal: Path, count: int, chance: random.Random) -> list[int]:
    """Half of them right behind an answer, the others anywhere."""
    behind_answers, everywhere, books = [], [], Books()
    for at, event in enumerate(events(journal)):
        if event.path.startswith("data/"):
            everywhere.append(at)
        if books.feed(event):
            behind_answers.append(at)
    answers = count // 2 if behind_answers else 0
    return sorted(chance.choices(behind_answers, k=answers) + chance.choices(everywhere, k=count - answers))


def states(
    journal: Path,
    folder: Path,
    *,
    count: int,
    seed: int,
    leave_out: Callable[[Event], bool] = lambda event: False,
    fate: str | None = None,
    base: Path | None = None,
    books: Books | None = None,
) -> Iterator[State]:
    """Judge so many states of one recording.

    Args:
        base: What the disk held when it began.
        books: What had been written down before, if nobody went on writing.
    """
    chance = random.Random(seed)
    due = moments(journal, count, chance)[::-1]
    disk, page = StrictDisk(seed, leave_out, base), Books() if books is None else books
    for at, event in enumerate(events(journal)):
        disk.feed(event)
        page.feed(event)
        while due and due[-1] == at:
            due.pop()
            image, recovered = folder / "image", folder / "recovered"
            name = disk.image(image, "data", chance, fate)
            shutil.copytree(image, recovered)
            yield State(at, name, judge(recovered, page, DESTINATIONS), image, page)
            shutil.rmtree(image)
            shutil.rmtree(recovered)
        if not due:
            return


def states_of_the_next_start(before: State, folder: Path, *, count: int, seed: int) -> Iterator[State]:
    """The power goes again while a start makes the best of that state."""
    base, again = folder / "base", folder / "again"
    shutil.copytree(before.image, base / "data")
    with StrictMount(again) as mount:
        shutil.copytree(base, mount.backing, dirs_exist_ok=True)
        judge(mount.path / "data", before.books, DESTINATIONS)
    yield from states(mount.journal, folder, count=count, seed=seed, base=base, books=before.books)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a short run."""
    if why := unable():
        cannot(why)
    return record(tmp_path_factory.mktemp("recording"), seed=400, answers=60, kills=1)


@pytest.mark.timeout(7200)
def test_nothing_answered_is_lost_in_any_state_of_the_disk(
    recording: Path, tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    wanted = amount("states", 10, 5000)
    deliveries = owed = judged = again = run = 0

    def look(state: State) -> None:
        nonlocal deliveries, owed, judged
        assert not state.found.violations, (run, state)
        assert not state.found.alarms, (run, state)
        deliveries += state.found.answered
        owed += state.found.owed
        judged += 1

    while judged < wanted:
        journal = recording if run == 0 else record(tmp_path / f"run{run}", seed=400 + run, answers=300, kills=4)
        count = min(wanted - judged, PER_RUN)
        with scratch() as folder:
            for number, state in enumerate(states(journal, folder, count=count, seed=run)):
                look(state)
                if number % 10 == 9:
                    with scratch() as inner:
                        for later in states_of_the_next_start(state, inner, count=4, seed=number):
                            look(later)
                            again += 1
        run += 1
        shutil.rmtree(tmp_path / f"run{run - 1}", ignore_errors=True)
    assert owed, "a state in which nothing is owed shows nothing"
    report(
        Figure(
            test="T4",
            promise="a disk that keeps only what was synced: nothing answered is lost, nothing damaged is owed",
            goal="0 violations",
            found=f"0 violations in {judged:,} states, {again:,} of them of a start after a power cut; {deliveries:,} "
            f"deliveries looked for, {owed:,} still owed",
            n=judged,
            command=f"make torture (tests/torture/test_strict_model.py, --amount states={wanted})",
        ),
        keep=campaign,
    )


def of_the_folder(folder: str) -> Callable[[Event], bool]:
    return lambda event: event.what is What.SYNCDIR and event.path == folder


def of_files(suffix: str) -> Callable[[Event], bool]:
    return lambda event: event.what is What.SYNC and event.path.endswith(suffix)


LEFT_OUT = {
    "of segments": of_files(".seg"),
    "of the names of segments": of_the_folder("data/spool"),
    "of the names of spool and ledger": of_the_folder("data"),
    "of the ledger's log": of_files("-wal"),
    "of the ledger": of_files(".db"),
}


@pytest.mark.parametrize("syncs", LEFT_OUT)
def test_a_sync_that_were_not_called_would_be_noticed(recording: Path, syncs: str) -> None:
    """By what is lost; of the ledger, which can be rebuilt, by the alarm that it had to be."""
    with scratch() as folder:
        for state in states(
            recording, folder, count=20, seed=1, leave_out=LEFT_OUT[syncs], fate="nothing that was not synced"
        ):
            if state.found.violations or state.found.alarms:
                return
    pytest.fail("nothing was noticed")


@pytest.mark.timeout(3600)
def test_a_router_without_a_step_of_durability_is_found_out(tmp_path: Path, campaign: bool) -> None:
    """By the very program: the tests above leave the syncs out of the journal."""
    if why := unable():
        cannot(why)
    if not campaign:
        pytest.skip("a router each: only with --torture")
    names = [name for name in MUTANTS | NEEDS_STRICT_DISK if not name.startswith("files_")]  # in test_syncs
    told = []
    for seed, name in enumerate(names):
        program = (sys.executable, "-m", "tests.torture.mutants", name)
        try:
            journal = record(tmp_path / name, seed=450 + seed, answers=120, kills=2, program=program)
        except Unrecovered:
            told.append(name)
            continue
        with scratch() as folder:
            if any(state.found.violations for state in states(journal, folder, count=60, seed=seed)):
                told.append(name)
        shutil.rmtree(tmp_path / name)
    assert told == names, f"not found out: {set(names) - set(told)}"
    report(
        Figure(
            test="T5",
            promise="a step of durability taken out is found out by states of a disk that keeps only what was synced",
            goal="100 %",
            found=f"{len(told)} of {len(names)} mutants",
            n=len(names),
            command="make torture (tests/torture/test_strict_model.py)",
        ),
        keep=campaign,
    )
