"""Each call that syncs, left out, is noticed: by states of a disk that keeps only what was synced.

Every writer of the router (``writers``: the spool, its recovery and its quarantine, folder destinations, the audit
file, the export) runs by itself on the file system of ``strict``. Then the disk is looked at as a power cut would have
left it at many moments: what a writer had told by then must be there, whole, and nothing may be there by half under
its final name.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from router.errors import RouterError
from router.model import LogPosition
from router.spool import Spool
from tests.spool.crash_writer import Books, info_in_books
from tests.spool.support import SMALL, Log
from tests.spool.test_crash import check
from tests.support.peers import cannot, wait_for
from tests.torture import writers
from tests.torture.books import files
from tests.torture.figures import Figure, report
from tests.torture.strict.disk import Event, StrictDisk, What, events
from tests.torture.strict.mount import StrictMount, unable
from tests.torture.strict.scratch import scratch
from tests.torture.sync_sites import PRIMITIVES, REACHED, ROOT, leave_out, sites

WORST = "nothing that was not synced"
POOL, STREAM, SPOOL = "router.spool.pool SegmentPool", "router.spool.stream SpoolStream", "router.spool.spool Spool"
FOLDER, AUDIT = "router.delivery.folder_sender FolderSender", "router.audit.sinks FileSink"
NOTICED = {
    f"{POOL}._create sync_directory 1": "spool",
    f"{POOL}._blank sync_data 1": "spool",
    f"{POOL}.take sync_data 1": "spool",
    f"{STREAM}._end sync_data 1": "spool",
    f"{STREAM}._end sync_data 2": "spool",
    f"{SPOOL}.tail sync_data 1": "tail",
    f"{SPOOL}.quarantine sync_data 1": "quarantine",
    f"{SPOOL}.quarantine sync_directory 1": "quarantine",
    f"{FOLDER}._create sync_folder 1": "files",
    f"{FOLDER}._complete fdatasync 1": "files",
    f"{FOLDER}._complete sync_folder 1": "files",
    "router.folders make_folder sync_folder 1": "files",
    "router.folders make_folder sync_folder 2": "files",
    f"{AUDIT}._write fsync 1": "audit",
    f"{AUDIT}._write sync_folder 1": "audit",
    "router.app.cli.spool _export sync_data 1": "export",
    "router.app.cli.spool _export sync_directory 1": "export",
    "groups_are_not_synced": "spool",
    "files_are_named_before_they_are_synced": "files",
}
"""Every sync that is left out, and the order of the folder's steps; and the writer that shows it. That a stream's data
comes before its header is the first sync of ``_end``."""
UNNOTICED = {
    f"{STREAM}._write sync_data 1": "the sync at the end covers the same bytes; this one leaves it little to do, "
    "and meets a failing disk early",
    f"{POOL}._create sync_data 1": "the first sync of a group carries the file's size too; this one takes the "
    "work of the new blocks out of it, and meets a full disk before a group",
    "router.app.cli.doctor sync_time fdatasync 1": "it measures the disk, and nothing is kept",
}
"""What no state of a disk can tell, and why it is there."""


def test_every_sync_of_the_router_is_in_one_of_the_lists() -> None:
    """One that is new has to be shown to be needed."""
    assert set(sites()) == {site for site in NOTICED if site not in writers.OTHERS} | set(UNNOTICED)
    assert (ROOT / "router" / "_disk.pyx").read_text().count("while fdatasync(") == 1, (
        "groups_are_not_synced is all of it"
    )


def test_a_place_that_there_is_not_cannot_be_left_out() -> None:
    for site in ("router.spool.stream SpoolStream._end sync_data 3", "router.spool.gone Gone.sync sync_data 1"):
        with pytest.raises((LookupError, RuntimeError)):
            leave_out(site)
    assert not PRIMITIVES & set(sites())


# What a power cut has left ---------------------------------------------------------------------------------


def judge_spool(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    book = image.parent / "book"
    book.write_text("".join(f"{line}\n" for line in told))
    books = Books(book)
    answered = {number: (info_in_books(number), place) for number, place in books.rows.items()}
    try:
        check(image / "s", answered, books.position, books.known)
    except (AssertionError, RouterError) as error:
        return f"lost, or a false alarm: {error!r}"
    return ""


def judge_tail(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    spool = Spool.open(image / "s", SMALL, log=Log())
    try:
        there = {str(record.info.id) for record in spool.tail(LogPosition()) if record.ok and record.info is not None}
    finally:
        spool.close_files()
    return _missing(set(told) - there)


def judge_quarantine(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    there = {f"{path.name} {_digest(path)}" for path in image.rglob("*.rec")}
    return _missing(set(told) - there)


def judge_files(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    there = {f"{uid} {digest}" for uid, digests in files(image).items() for digest in digests}
    return _missing(set(told) - there) or _half(there - set(final))


def judge_audit(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    there = {
        line for path in image.rglob("audit-*.log") for line in path.read_bytes().decode(errors="replace").split("\n")
    }
    return _missing(set(told) - there)


def judge_export(image: Path, told: Sequence[str], final: Sequence[str]) -> str:
    there = {f"{path.relative_to(image)} {_digest(path)}" for path in image.rglob("*.dcm")}
    return _missing(set(told) - there) or _half(there - set(final))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _missing(what: set[str]) -> str:
    return f"not there: {sorted(what)[0][:80]}" if what else ""


def _half(what: set[str]) -> str:
    return f"there by half: {sorted(what)[0][:80]}" if what else ""


JUDGES: dict[str, Callable[[Path, Sequence[str], Sequence[str]], str]] = {
    "spool": judge_spool,
    "tail": judge_tail,
    "quarantine": judge_quarantine,
    "files": judge_files,
    "audit": judge_audit,
    "export": judge_export,
}


def record(program: str, folder: Path, without: str = "", lines: int = 1500) -> Path:
    """The journal of one run. The spool's, which has no end, is killed after so many lines."""
    with StrictMount(folder) as mount:
        for name in ("data", "books"):
            (mount.path / name).mkdir()
        book, mark = mount.path / "books" / "book", folder / "reached"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.writers", program, str(mount.path / "data"), str(book)]
            + [without] * bool(without),
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", REACHED: str(mark)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            if program == "spool":
                wait_for(
                    lambda: process.poll() is not None or (book.exists() and book.read_bytes().count(b"\n") >= lines),
                    60,
                    "so many answers",
                )
                assert process.poll() is None, process.communicate()[1].decode()
            else:
                assert process.wait(60) == 0, process.communicate()[1].decode()
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
        if without and without not in writers.OTHERS:
            assert mark.exists(), f"{program} never came to {without}"
    return mount.journal


def _told(event: Event) -> bytes:
    return event.data if event.what is What.WRITE and event.path == "books/book" else b""


def states(program: str, journal: Path, count: int, seed: int) -> Iterator[str]:
    """What is wrong with each of so many states; a third of them right behind something that was told."""
    chance = random.Random(seed)
    behind, everywhere, book = [], [], b""
    for at, event in enumerate(events(journal)):
        book += _told(event)
        if _told(event):
            behind.append(at)
        elif event.path.startswith("data/"):
            everywhere.append(at)
    final = book.decode().splitlines()
    due = [(at, WORST) for at in chance.sample(behind, min(len(behind), count // 3))]
    due += [(at, None) for at in chance.choices(everywhere, k=count - len(due))]
    due.sort(key=lambda moment: -moment[0])
    disk, told = StrictDisk(seed), b""
    with scratch() as folder:
        for at, event in enumerate(events(journal)):
            disk.feed(event)
            told += _told(event)
            while due and due[-1][0] == at:
                fate = due.pop()[1]
                disk.image(folder / "image", "data", chance, fate)
                whole = told[: told.rfind(b"\n") + 1]
                yield JUDGES[program](folder / "image", whole.decode().splitlines(), final)
                shutil.rmtree(folder / "image")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("program", writers.PROGRAMS)
def test_what_a_writer_told_is_there_after_a_power_cut(
    program: str, tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    wanted = amount("writer_states", 60, 2000)
    if why := unable():
        cannot(why)
    judged = 0
    while judged < wanted:
        journal = record(program, tmp_path / str(judged))
        for problem in states(program, journal, min(200, wanted - judged), seed=judged):
            assert not problem, problem
            judged += 1
        shutil.rmtree(tmp_path / str(judged), ignore_errors=True)
    report(
        Figure(
            test="T4",
            promise=f"a disk that keeps only what was synced, {program} alone: what was told is there, nothing by half",
            goal="0 violations",
            found=f"0 violations in {judged:,} states",
            n=judged,
            command=f"make torture (tests/torture/test_syncs.py, --amount writer_states={wanted})",
        ),
        keep=campaign,
    )


def noticed(without: str, program: str, folder: Path, *, rounds: int, count: int = 300) -> str:
    """What was wrong with some of ``count`` states of each run without it; empty if nothing was."""
    for number in range(rounds):
        journal = record(program, folder / str(number), without)
        for problem in states(program, journal, count, seed=number):
            if problem:
                return problem
    return ""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("without", NOTICED)
def test_a_sync_that_is_left_out_is_noticed(without: str, tmp_path: Path, told_of: list[str]) -> None:
    if why := unable():
        cannot(why)
    assert noticed(without, NOTICED[without], tmp_path, rounds=5), "no state of the disk told it"
    told_of.append(without)


def test_a_sync_that_is_said_to_make_no_difference_makes_none(
    tmp_path: Path, amount: Callable[[str, int, int], int]
) -> None:
    if why := unable():
        cannot(why)
    count = amount("no_difference", 100, 300)
    assert not noticed(f"{POOL}._create sync_data 1", "spool", tmp_path, rounds=1, count=count)


@pytest.fixture(scope="module")
def told_of(campaign: bool) -> Iterator[list[str]]:
    """The figure of the test above, when all of it was seen."""
    found: list[str] = []
    yield found
    if len(found) == len(NOTICED):
        report(
            Figure(
                test="T5",
                promise="each call that syncs, left out by itself, is found out by states of a strict disk",
                goal="100 %",
                found=f"{len(found)} of {len(NOTICED)}; {len(UNNOTICED)} more make no difference to what is durable, "
                "with the reason for each",
                n=len(found),
                command="make torture (tests/torture/test_syncs.py)",
            ),
            keep=campaign,
        )
