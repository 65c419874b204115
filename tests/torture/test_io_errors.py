"""The disk fails an operation: nothing is acknowledged on doubt, and the router ends instead of going on.

A router runs on the file system of ``strict``, which fails the n-th write, sync, directory sync, allocation or creation
of a file, of the spool's or of SQLite's, with the error that the kernel would give. It has to end with exit code 3
within two seconds. Then the disk is looked at as after a power cut in which half of what the failed sync was to save
is gone, since the kernel takes pages for clean after a failed sync; and the router is started again on what there is.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle
from tests.torture.strict.disk import Journal, StrictDisk, What, events
from tests.torture.strict.judge import Books, judge
from tests.torture.strict.mount import StrictMount, short_writes, unable
from tests.torture.strict.scratch import scratch

DESTINATIONS = 2
EXIT_STORAGE = 3
EXIT_LIMIT = 2.0
SMALL = """
[spool]
segment_size = "4MiB"
spare_segments = 0
reserve_associations = "0B"
reserve_objects = "0B"
keep_delivered = 0.1
"""
"""Segments are made and deleted all the time."""


@dataclass(frozen=True)
class Fault:
    kind: str
    pattern: str
    number: int = errno.EIO
    times: int = 1

    def __str__(self) -> str:
        return f"{errno.errorcode[self.number]} at a {self.kind} of {self.pattern}"


FATAL = (
    Fault("sync", "*.seg"),
    Fault("sync", "*-wal"),
    Fault("syncdir", "data/spool"),
    Fault("change", "data/*", errno.EROFS, 0),
    Fault("write", "*.seg", errno.EIO, 2),
    Fault("write", "*-wal", errno.EIO, 2),
    Fault("sync", "*.seg", errno.ENOSPC),
    Fault("create", "*.seg"),
    Fault("allocate", "*.seg"),
    Fault("sync", "*.db"),
    Fault("write", "*.db", errno.EIO, 2),
)
"""Errors after which nothing of what was written can be believed. A write fails twice, as one to a bad sector does: the
kernel splits what crosses a page, tells of the first error as a short write, and may take the rest when it is tried."""


class Bench:
    """A router on a disk that can fail, senders that go on over all that happens to it, and what the disk has seen."""

    def __init__(self, folder: Path, mount: StrictMount, oracle: Oracle, environment: Mapping[str, str]) -> None:
        self.mount = mount
        self.oracle = oracle
        self.router = RouterProcess(
            folder / "router", oracle.urls, rules=oracle.rules, extra=SMALL, environment=environment
        )
        self.failed_at: list[float] = []
        self.books = Books()
        self.disk = StrictDisk()
        self._journal = Journal(mount.journal)

    def read(self) -> None:
        """What has happened on the disk since the last time."""
        for event in self._journal.events():
            self.disk.feed(event)
            self.books.feed(event)
            if event.what is What.FAILED:
                self.failed_at.append(event.seconds)

    def ended(self, seconds: float) -> float | None:
        """Wait for the end of the process; the moment, or None if it did not come."""
        process = self.router.process
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: process is None or process.poll() is not None, seconds, "end of the router")
            return time.monotonic()
        return None


@contextlib.contextmanager
def bench(folder: Path, environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[Bench]:
    with StrictMount(folder) as mount:
        (mount.path / "data").mkdir()
        (folder / "router").mkdir()
        (folder / "router" / "data").symlink_to(mount.path / "data")
        with Oracle(mount.path / "books", destinations=DESTINATIONS, routed=True) as oracle:
            made = Bench(folder, mount, oracle, environment)
            try:
                yield made
            finally:
                made.router.kill()


def drained(made: Bench) -> None:
    made.oracle.stop_sending()
    with contextlib.suppress(TimeoutError):
        wait_for(made.oracle.drained, 60, "delivery of everything answered")


@pytest.mark.timeout(7200)
def test_after_the_first_error_of_the_disk_nothing_is_answered_and_the_router_ends(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    points = amount("io-errors", 4, 330)
    if why := unable():
        cannot(why)
    chance = random.Random(7)
    slowest, met = 0.0, 0
    with bench(tmp_path) as made, scratch() as images:
        made.router.start()
        made.oracle.send(made.router.port, senders=2, seed=500)
        for point in range(points):
            fault = FATAL[point % len(FATAL)]
            at = 1 + point // len(FATAL)
            answered = len(made.oracle.answered())
            wait_for(lambda answered=answered: len(made.oracle.answered()) > answered + 5, 60, "answers")  # type: ignore[misc]
            made.read()
            made.failed_at.clear()
            made.mount.fail(fault.kind, fault.pattern, at=at, number=fault.number, times=fault.times)
            moment = made.ended(20)
            if moment is None and made.mount.seen()[1]:
                moment = made.ended(20)  # it had failed just now
            if moment is None:
                assert made.mount.seen()[1] == 0, f"{fault} at {at}: it went on\n{made.router.log.read_text()[-3000:]}"
                made.mount.heal()
                continue
            code = made.router.process.returncode  # type: ignore[union-attr]
            made.read()
            assert code == EXIT_STORAGE, f"{fault} at {at}: exit code {code}\n{made.router.log.read_text()[-3000:]}"
            took = moment - made.failed_at[0]
            assert took < EXIT_LIMIT, f"{fault} at {at}: ended {took:.2f} s later"
            slowest = max(slowest, took)
            image = images / str(point)
            made.disk.image(image, "data", chance)
            found = judge(image, made.books, DESTINATIONS)
            assert not found.violations, f"{fault} at {at}: {found}"
            made.oracle.killed()
            made.mount.heal()
            made.router.start()
            met += 1
        drained(made)
        assert made.router.stop() == 0
        verdict = made.oracle.judge()
    assert verdict.wrong == 0, verdict
    assert met >= points // 2
    report(
        Figure(
            test="T7",
            promise="the disk fails an operation: nothing is answered on doubt, the router ends with code 3",
            goal="0 false successes; exit ≤ 2 s",
            found=f"0 of {verdict.deliveries:,} deliveries lost; ended {slowest:.2f} s after the error at the latest",
            n=met,
            command=f"make torture (tests/torture/test_io_errors.py, --amount io-errors={points})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_a_write_that_takes_less_than_it_got_is_no_error(tmp_path: Path, campaign: bool) -> None:
    if why := unable():
        cannot(why)
    with bench(tmp_path, short_writes()) as made:
        made.router.start()
        made.oracle.send(made.router.port, senders=2, seed=600)
        wait_for(lambda: len(made.oracle.answered()) >= 60, 60, "answers")
        drained(made)
        assert made.router.stop() == 0
        verdict = made.oracle.judge()
    kinds = Counter(event.what for event in events(made.mount.journal) if event.path.endswith(".seg"))
    assert kinds[What.WRITE] > 3 * kinds[What.SYNC], "no write was cut short"
    assert verdict.wrong == 0, verdict
    report(
        Figure(
            test="T7",
            promise="writes of the spool that take less than they got",
            goal="0 lost, 0 changed, 0 astray",
            found=f"0 of {verdict.deliveries:,} deliveries lost, changed or astray; {kinds[What.WRITE]:,} writes for "
            f"{kinds[What.SYNC]:,} syncs",
            n=kinds[What.WRITE],
            command="make torture (tests/torture/test_io_errors.py)",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ledger", ["there", "lost"])
def test_a_sector_that_cannot_be_read_keeps_nothing_else_from_being_delivered(tmp_path: Path, ledger: str) -> None:
    if why := unable():
        cannot(why)
    with bench(tmp_path) as made:
        router, oracle = made.router, made.oracle
        router.start()
        for name in oracle.urls:
            router.post(f"/api/v1/destinations/{name}/pause", {"reason": "test"})
        oracle.send(router.port, senders=1, seed=650)
        wait_for(lambda: len(oracle.answered()) >= 20, 60, "answers")
        oracle.stop_sending()
        data = made.mount.path / "data"
        segment = min((data / "spool").glob("*.seg"))
        router.kill()
        if ledger == "lost":
            for path in data.glob("ledger.db*"):
                path.unlink()
        # The header of the segment, or something in its first record.
        made.mount.fail("sector", f"data/spool/{segment.name}", at=0 if ledger == "there" else 2 * 4096 + 100)
        router.start()
        for name in oracle.urls:
            router.post(f"/api/v1/destinations/{name}/resume", {})
        missing = 0 if ledger == "there" else 1
        with contextlib.suppress(TimeoutError):
            wait_for(oracle.drained if not missing else lambda: len(oracle.lacking()) == missing, 60, "delivery")
        assert router.metric("dicom_router_quarantined_records") == missing
        assert router.stop() == 0
        verdict = oracle.judge()
    assert (verdict.lost, verdict.changed, verdict.astray) == (missing * DESTINATIONS, 0, 0), verdict
    told = "segment header damaged, read by its records" if ledger == "there" else "damaged record set aside"
    assert told in router.log.read_text()
