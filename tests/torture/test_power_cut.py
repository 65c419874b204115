"""The power goes at any moment: nothing that was answered 0x0000 is lost, on ext4 and on XFS.

Spool and ledger lie on file systems of their own, where neither's log carries the other's changes to the disk, or
together on one; the folder of a file destination on another. The router is stopped, all file systems lose what they had
not synced, the router is killed, they are mounted again, and it starts from what there is; every fifth time the power
goes again while it does. Senders, the other destinations and their ledgers lie elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.images import Image, unable
from tests.torture.oracle import Oracle, Verdict, left_nothing, owes_nothing

SMALL_DISK = """
[spool]
segment_size = "4MiB"
reserve_associations = "16MiB"
reserve_objects = "8MiB"
keep_delivered = 0.1
"""
"""Segments are used again all the time, and the reserve of a large disk does not fit here."""


@contextlib.contextmanager
def disks(folder: Path, data: Path, kind: str, layout: str, files: Path) -> Iterator[list[Image]]:
    """Mounted under the data folder: one for everything, or one for the ledger and in it one for the spool. And one for
    what is delivered as files."""
    with contextlib.ExitStack() as stack:
        # The audit file grows with every start, by what had begun before and has not come to its end.
        images = [stack.enter_context(Image(folder / "disk", data, kind, 4 << 30))]
        if layout == "apart":
            images.append(stack.enter_context(Image(folder / "spool-disk", data / "spool", kind, 512 << 20)))
        images.append(stack.enter_context(Image(folder / "files-disk", files, kind, 4 << 30)))
        yield images


def cut(router: RouterProcess, images: Sequence[Image], between: Callable[[], object] = lambda: None) -> None:
    """Power off, and on again. ``between``: what happens to the disks while they are off."""
    if router.process is not None:
        router.process.send_signal(signal.SIGSTOP)  # both disks at one moment, as seen by the router
    for image in images:
        image.cut()
    router.kill()
    for image in reversed(images):
        image.detach()
    between()
    for image in images:
        image.attach()


class Unrecovered(Exception):
    """A router that had answered before the power went does not start any more."""


class Idle:
    """Whether a router has not had anything to deliver for some seconds."""

    ENOUGH = 3.0

    def __init__(self, router: RouterProcess) -> None:
        self._router = router
        self._since = time.monotonic()

    def long_enough(self) -> bool:
        if self._router.metric("dicom_router_queue_depth"):
            self._since = time.monotonic()
        return time.monotonic() - self._since > self.ENOUGH


def survive(
    folder: Path,
    kind: str,
    layout: str,
    *,
    cuts: int,
    seed: int,
    program: Sequence[str] | None = None,
    environment: dict[str, str] | None = None,
    patience: float = 120,
) -> Verdict:
    """Cut the power so many times under load, let it drain, and judge.

    Raises:
        Unrecovered: It worked, and did not start again after a cut. That it never worked is another error.
    """
    randomness = random.Random(seed)
    files = folder / "files"
    with (
        Oracle(folder, destinations=2, routed=True, files=files / "archive") as oracle,
        disks(folder, folder / "router" / "data", kind, layout, files) as images,
    ):
        more = {} if program is None else {"program": program}
        router = RouterProcess(
            folder / "router",
            oracle.urls,
            rules=oracle.rules,
            extra=SMALL_DISK,
            environment=environment,
            **more,  # type: ignore[arg-type]
        )
        try:
            router.start()
            oracle.send(router.port, seed=seed)
            for number in range(cuts):
                wanted = len(oracle.answered()) + randomness.randint(1, 60)
                wait_for(lambda wanted=wanted: len(oracle.answered()) >= wanted, 60, "answers")  # type: ignore[misc]
                cut(router, images)
                oracle.killed()
                if number % 5 == 4:
                    router.launch()
                    time.sleep(randomness.uniform(0.1, 0.9))  # somewhere in its start
                    cut(router, images)
                    oracle.killed()
                try:
                    router.start()
                except RuntimeError as error:
                    raise Unrecovered(str(error)) from error
            oracle.stop_sending()
            # What is lost never comes: when nothing has been owed for a while, what came is judged.
            idle = Idle(router)
            with contextlib.suppress(TimeoutError):
                wait_for(
                    lambda: (oracle.drained() and owes_nothing(router) and oracle.complete()) or idle.long_enough(),
                    patience,
                    "delivery of everything answered",
                )
            verdict = oracle.judge()
            if not verdict.wrong:
                left_nothing(router, [files])
            return verdict
        finally:
            router.kill()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("layout", ["apart", "together"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_nothing_answered_is_lost_over_power_cuts(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, kind: str, layout: str
) -> None:
    cuts = amount("cuts", 1, 250)
    if why := unable(kind):
        cannot(why)
    verdict = survive(tmp_path, kind, layout, cuts=cuts, seed=300)
    assert (verdict.wrong, verdict.unexplained) == (0, 0), verdict
    assert verdict.answered > cuts
    report(
        Figure(
            test="T3",
            promise=f"power cut, {kind}, spool and ledger {layout}, to peers and to files: nothing answered is lost",
            goal="0 lost, changed or astray; nothing left behind",
            found=f"0 of {verdict.deliveries:,} deliveries lost, changed or astray, 0 files left; {verdict.repeated}",
            n=cuts,
            command=f"make torture (tests/torture/test_power_cut.py, --amount cuts={cuts})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(600)
def test_the_disks_of_this_test_do_lose_what_was_not_synced(tmp_path: Path) -> None:
    for kind in ("ext4", "xfs"):
        if why := unable(kind):
            cannot(why)
        with Image(tmp_path / kind, tmp_path / f"{kind}-mount", kind) as image:
            synced, other = image.mount / "synced", image.mount / "other"
            for path in (synced, other):
                path.write_bytes(b"x" * 10_000)
            for path in (synced, image.mount):
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            later = image.mount / "later"
            later.write_bytes(b"x" * 10_000)
            image.cut()
            image.detach()
            image.attach()
            assert synced.read_bytes() == b"x" * 10_000
            assert not later.exists() or later.read_bytes() != b"x" * 10_000
