"""The disk fills up while objects arrive: refused with "try again", never half kept; deliveries go on; it heals alone.

Spool and ledger lie on a small file system of their own, which something else fills to one level after the other, down
to the last byte, or takes the last inode of. Quotas, which not every kernel has, are played by the file system of
``strict``. What a sender may hear then is A-ASSOCIATE-RJ (2, 3, 1) and 0xA7xx.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.objects import encode, synthetic
from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.support.scu import RawSender
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle
from tests.torture.strict.mount import StrictMount, unable

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MIB = 1 << 20
SIZE = 96 * MIB
ASSOCIATIONS_FLOOR, OBJECTS_FLOOR = 32 * MIB, 16 * MIB
HEALED = 10.0
RESERVE = f"""
[spool]
segment_size = "4MiB"
reserve_associations = "{ASSOCIATIONS_FLOOR}B"
reserve_objects = "{OBJECTS_FLOOR}B"
keep_delivered = 0.1
"""
NO_RESERVE = """
[spool]
segment_size = "4MiB"
spare_segments = 0
reserve_associations = "0B"
reserve_objects = "0B"
keep_delivered = 0.1
"""
BODIES = [encode(synthetic(size=size, sop_instance="1" * 60)) for size in (2_000, 200_000, 1_500_000)]


class Disk:
    """A small file system in memory, and something else that takes its room."""

    def __init__(self, path: Path, *, inodes: int = 10_000) -> None:
        self.path = path
        self.inodes = inodes
        self._filler = path / "filler"
        self._many = path / "many"

    def __enter__(self) -> Disk:
        self.path.mkdir(parents=True, exist_ok=True)
        options = f"size={SIZE},nr_inodes={self.inodes},mode=700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            cannot(f"no file system can be mounted here: {done.stderr.strip()}")
        return self

    def __exit__(self, *exc: object) -> None:
        if subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)

    def leave(self, free: int) -> None:
        """So many bytes are free now; 0: the last one is taken, too."""
        with self._filler.open("ab") as filler:
            state = os.statvfs(self.path)
            taken = os.fstat(filler.fileno()).st_size
            wanted = max(0, taken + state.f_bavail * state.f_frsize - free)
            if wanted < taken:
                filler.truncate(wanted)
            else:
                with contextlib.suppress(OSError):  # somebody else was faster: it is as full as can be
                    os.posix_fallocate(filler.fileno(), 0, wanted or 1)

    def take_inodes(self) -> None:
        """All of them."""
        self._many.mkdir(exist_ok=True)
        for number in range(self.inodes):
            try:
                (self._many / str(number)).touch()
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return

    def give_back(self) -> None:
        self._filler.unlink(missing_ok=True)
        for path in self._many.iterdir() if self._many.exists() else ():
            path.unlink()


class Prober:
    """A sender that looks at every answer, and keeps a ledger as the oracle's senders do."""

    def __init__(self, port: int, oracle: Oracle) -> None:
        self._port = port
        self._book = oracle.book("prober")
        self.heard: Counter[str] = Counter()
        self._number = 0
        self._open: RawSender | None = None

    def associate(self) -> bool:
        """A new association, which takes the place of an old one."""
        for _ in range(10):
            fresh = RawSender(self._port, [(CT, EXPLICIT)], calling="PROBER", timeout=20)
            if fresh.established:
                if self._open is not None:
                    self._open.release()
                self._open = fresh
                return True
            answer = fresh.association.acceptor.primitive
            if answer is not None:
                self.heard[f"RJ {answer.result}/{answer.result_source}/{answer.diagnostic}"] += 1
                return False
            # pynetdicom forgets what it was told when the connection is closed at once.
        raise AssertionError("neither accepted nor rejected")

    def store(self) -> bool:
        """An object on the association that there is."""
        assert self._open is not None
        self._number += 1
        uid = f"2.25.77{self._number:053d}"
        body = BODIES[self._number % len(BODIES)].replace(b"1" * 60, uid.encode())
        self._book.intend(uid, body)
        status = self._open.store(CT, uid, EXPLICIT, body)
        assert status is not None, "an association ended without an answer"
        if status == 0x0000:
            self._book.answered(uid)
            return True
        self.heard[f"0x{status >> 8:02X}xx"] += 1
        return False

    def close(self) -> None:
        if self._open is not None:
            self._open.release()
        self._book.close()


@contextlib.contextmanager
def running(folder: Path, extra: str) -> Iterator[tuple[RouterProcess, Oracle, Prober]]:
    with Oracle(folder / "books", destinations=2, routed=True) as oracle:
        router = RouterProcess(folder / "router", oracle.urls, rules=oracle.rules, extra=extra)
        try:
            router.start()
            prober = Prober(router.port, oracle)
            yield router, oracle, prober
            prober.close()
        finally:
            router.kill()


def judged(router: RouterProcess, oracle: Oracle) -> int:
    """Drain, stop and judge; gives the number of deliveries."""
    oracle.stop_sending()
    wait_for(oracle.drained, 60, "delivery of everything answered")
    assert router.metric("dicom_router_dead_letters") == router.metric("dicom_router_quarantined_records") == 0
    assert router.stop() == 0
    verdict = oracle.judge()
    assert (verdict.wrong, verdict.unasked) == (0, 0), verdict
    return verdict.deliveries


def healed(prober: Prober) -> float:
    """Seconds until an association and an object are accepted again."""
    begun = time.monotonic()
    wait_for(lambda: prober.associate() and prober.store(), 30, "an object accepted again")
    return time.monotonic() - begun


@pytest.mark.timeout(7200)
def test_a_full_disk_refuses_with_try_again_goes_on_delivering_and_heals(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    levels = amount("levels", 4, 400)
    chance = random.Random(6)
    wanted = [OBJECTS_FLOOR + 4 * MIB, OBJECTS_FLOOR - 4 * MIB, MIB, 0]
    wanted += [chance.choice((0, chance.randrange(SIZE // 2), chance.randrange(MIB))) for _ in range(levels)]
    slowest = 0.0
    with Disk(tmp_path / "router" / "data") as disk, running(tmp_path, RESERVE) as (router, oracle, prober):
        assert prober.associate()
        oracle.send(router.port, senders=1, seed=1000)
        for level in wanted[:levels]:
            oracle.stall(chance.choice((0, 1)))
            for _ in range(6):
                assert prober.store(), "with room there is no reason to refuse"
            disk.leave(level)
            for _ in range(6):
                prober.store()
                prober.associate()
            if level < OBJECTS_FLOOR:
                wait_for(lambda: not prober.store(), 10, "a refused object")
            if level < ASSOCIATIONS_FLOOR:
                wait_for(lambda: not prober.associate(), 10, "a rejected association")
            oracle.stall(None)
            wait_for(oracle.drained, 60, "delivery with a full disk")
            disk.give_back()
            slowest = max(slowest, healed(prober))
            assert slowest <= HEALED
        deliveries = judged(router, oracle)
    assert set(prober.heard) == {"RJ 2/3/1", "0xA7xx"}, prober.heard
    report(
        Figure(
            test="T6",
            promise="disk filled to some level while objects arrive: refused with try again, deliveries go on, heals",
            goal="only RJ 2/3/1 and 0xA7xx; 0 lost; accepts again ≤ 10 s",
            found=f"{prober.heard['RJ 2/3/1']:,} × RJ 2/3/1, {prober.heard['0xA7xx']:,} × 0xA7xx, nothing else; 0 of "
            f"{deliveries:,} deliveries lost; accepts again after {slowest:.2f} s at most",
            n=levels,
            command=f"make torture (tests/torture/test_disk_full.py, --amount levels={levels})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_a_router_that_is_killed_on_a_full_disk_starts_there_and_delivers(tmp_path: Path) -> None:
    with Disk(tmp_path / "router" / "data") as disk, running(tmp_path, RESERVE) as (router, oracle, prober):
        assert prober.associate()
        oracle.stall(0)
        for _ in range(20):
            assert prober.store()
        disk.leave(0)
        wait_for(lambda: not prober.store(), 10, "a refused object")
        router.kill()  # which makes no room; what the ledger has given up by now must be left to it
        oracle.stall(None)
        router.launch()  # not ready: it takes nothing in
        wait_for(oracle.drained, 60, "delivery with a full disk")
        disk.give_back()
        assert healed(prober) <= HEALED
        judged(router, oracle)


@pytest.mark.timeout(600)
def test_a_router_that_is_killed_on_a_disk_without_inodes_starts_there_and_delivers(tmp_path: Path) -> None:
    with (
        Disk(tmp_path / "router" / "data", inodes=100) as disk,
        running(tmp_path, NO_RESERVE) as (router, oracle, prober),
    ):
        assert prober.associate()
        oracle.stall(0)
        for _ in range(20):
            assert prober.store()
        router.kill()
        disk.take_inodes()
        oracle.stall(None)
        router.launch()  # not ready: it takes nothing in
        wait_for(oracle.drained, 60, "delivery from a disk without inodes")
        disk.give_back()
        assert healed(prober) <= HEALED
        judged(router, oracle)


@pytest.mark.timeout(600)
def test_a_disk_without_inodes_refuses_with_try_again_and_heals(tmp_path: Path, campaign: bool) -> None:
    with (
        Disk(tmp_path / "router" / "data", inodes=100) as disk,
        running(tmp_path, NO_RESERVE) as (router, oracle, prober),
    ):
        assert prober.associate()
        assert prober.store()
        disk.take_inodes()
        wait_for(lambda: not prober.store(), 30, "a refused object")
        disk.give_back()
        took = healed(prober)
        assert took <= HEALED
        deliveries = judged(router, oracle)
    assert set(prober.heard) == {"0xA7xx"}
    report(
        Figure(
            test="T6",
            promise="a disk without a free inode: refused with try again, heals",
            goal="only 0xA7xx; 0 lost; accepts again ≤ 10 s",
            found=f"{prober.heard['0xA7xx']:,} × 0xA7xx, nothing else; 0 of {deliveries:,} deliveries lost; accepts "
            f"again after {took:.2f} s",
            n=1,
            command="make torture (tests/torture/test_disk_full.py)",
        ),
        keep=campaign,
    )


QUOTAS = (("write", "*.seg"), ("write", "*-wal"), ("allocate", "*.seg"), ("create", "*.seg"))
"""What meets the quota, and where."""


@pytest.mark.timeout(600)
def test_a_quota_that_is_used_up_refuses_with_try_again_and_heals(tmp_path: Path, campaign: bool) -> None:
    """Seen by nobody before the write that exceeds it; of the spool's files and of SQLite's."""
    if why := unable():
        cannot(why)
    with StrictMount(tmp_path / "disk") as mount:
        (mount.path / "data").mkdir()
        (tmp_path / "router").mkdir()
        (tmp_path / "router" / "data").symlink_to(mount.path / "data")
        with running(tmp_path, NO_RESERVE) as (router, oracle, prober):
            assert prober.associate()
            slowest = 0.0
            for kind, pattern in QUOTAS:
                assert prober.store()
                mount.fail(kind, pattern, number=errno.EDQUOT, times=0)
                wait_for(lambda: not prober.store(), 30, "a refused object")
                mount.heal()
                slowest = max(slowest, healed(prober))
                assert slowest <= HEALED
            deliveries = judged(router, oracle)
    assert set(prober.heard) == {"0xA7xx"}
    report(
        Figure(
            test="T6",
            promise="a disk quota that is used up (EDQUOT), met by the spool's writes, allocations and new files and "
            "by the ledger's writes: refused with try again, heals",
            goal="only 0xA7xx; 0 lost; accepts again ≤ 10 s",
            found=f"{prober.heard['0xA7xx']:,} × 0xA7xx, nothing else; 0 of {deliveries:,} deliveries lost; accepts "
            f"again after {slowest:.2f} s at most",
            n=len(QUOTAS),
            command="make torture (tests/torture/test_disk_full.py)",
        ),
        keep=campaign,
    )
