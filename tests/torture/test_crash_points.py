"""kill -9 at every single write, sync, new name, change of size and send: nothing that was answered 0x0000 is lost.

A preloaded library ends the router instead of letting it make the n-th call of a kind. First a run without an end
counts the calls; then each of them, in turn, is where the router dies. It is started again, the sender sends what was
not answered, everything drains, and the destinations are judged.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle, left_nothing

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
KINDS = ("write", "sync", "name", "size", "send")
OF_RECOVERY = ("sync", "name")
"""Outside of campaigns."""
SIZES = (2_000, 700_000, 20_000, 1_500_000, 2_000, 700_000, 700_000, 20_000, 1_200_000, 700_000, 2_000, 700_000)
"""Small ones, streamed ones, and together more than a segment of the log holds."""
RECOVERIES = 5
"""Times a recovery may be tried until the router has died in it, each with more to recover."""
MORE = 4
"""Times the same work may be given again until the router has died."""
SPOOL = '\n[spool]\nsegment_size = "4MiB"\nkeep_delivered = 0.1\n'


class Scene:
    """Senders, destinations and what was answered, over many deaths of the router."""

    def __init__(self, folder: Path, oracle: Oracle, library: Path) -> None:
        self.folder = folder
        self.oracle = oracle
        self.library = library
        self.callers = [oracle.calling(number) for number in range(2)]
        self.books = [oracle.book(f"sender-{calling}", calling) for calling in self.callers]
        self._objects = 0

    def router(self, name: str, kind: str = "", at: int = 0) -> RouterProcess:
        folder = self.folder / name
        return RouterProcess(
            folder,
            self.oracle.urls,
            rules=self.oracle.rules,
            extra=SPOOL,
            environment={
                "LD_PRELOAD": str(self.library),
                "CRASH_FOLDER": str(folder / "data"),
                "CRASH_KIND": kind,
                "CRASH_AT": str(at),
                "CRASH_COUNTS": str(folder / "counts"),
            },
        )

    def objects(self) -> dict[str, bytes]:
        """New ones; by SOP Instance UID."""
        made = {}
        for size in SIZES:
            self._objects += 1
            uid = f"2.25.7{self._objects:09d}"
            made[uid] = encode(synthetic(size=size, sop_instance=uid))
        return made

    def send(self, router: RouterProcess, objects: dict[str, bytes]) -> bool:
        """On two associations; takes out what was answered. False if the router went away."""
        with contextlib.ExitStack() as stack:
            try:
                senders: list[WireSender] = []
                for calling in self.callers:
                    senders.append(WireSender(router.port, (CT, EXPLICIT), calling=calling))
                    stack.callback(senders[-1].close)
                for uid, data in list(objects.items()):
                    number = int(uid[-1]) % 2  # each object is one sender's, however often it is tried
                    self.books[number].intend(uid, data)
                    if senders[number].store(uid, data) != 0x0000:
                        return False
                    self.books[number].answered(uid)
                    del objects[uid]
            except (OSError, AssertionError):  # it is gone: no answer
                return False
        return True

    def finish(self, router: RouterProcess, objects: dict[str, bytes]) -> None:
        """The router lives again: send the rest, drain, judge."""
        router.environment["CRASH_AT"] = "0"
        router.kill()
        self.oracle.killed()
        router.start()
        assert self.send(router, objects), "the rest was not taken"
        wait_for(self.oracle.drained, 60, "delivery of everything answered")
        verdict = self.oracle.judge()
        assert (verdict.wrong, verdict.unexplained) == (0, 0), verdict
        left_nothing(router)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("native") / "crash.so"
    source = Path(__file__).parent / "native" / "crash.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"], check=True)
    return built


def counts(router: RouterProcess) -> dict[str, int]:
    lines = (router.folder / "counts").read_text().splitlines()
    return {kind: int(number) for kind, number in (line.split() for line in lines)}


def ended(router: RouterProcess) -> bool:
    return router.process is not None and router.process.poll() is not None


def died_at_last(router: RouterProcess) -> bool:
    """Whether it has died, or dies in the calls of its orderly end."""
    return ended(router) or router.stop() == -signal.SIGKILL


def points(found: dict[str, int], share: int | None, kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, int]]:
    """Every one, or so many of each kind, spread over its calls."""
    for kind in kinds:
        last = found[kind]
        numbers: Sequence[int] = range(1, last + 1)
        if share is not None and last > share:
            numbers = [1 + last * (2 * step + 1) // (2 * share) for step in range(share)]
        yield from ((kind, number) for number in numbers)


@pytest.mark.timeout(7200)
def test_a_router_that_dies_at_any_call_while_it_works_loses_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, library: Path
) -> None:
    with Oracle(tmp_path, destinations=2, routed=True) as oracle:
        scene = Scene(tmp_path, oracle, library)
        whole = scene.router("whole")
        whole.start()
        assert scene.send(whole, scene.objects())
        wait_for(oracle.drained, 60, "delivery")
        whole.stop()
        found = counts(whole)
        assert all(found[kind] for kind in KINDS), found
        died = dict.fromkeys(KINDS, 0)
        share = amount("points", 1, 0)
        tried = list(points(found, share or None))
        for kind, number in tried:
            router = scene.router(f"{kind}-{number}", kind, number)
            objects: dict[str, bytes] = {}
            with contextlib.suppress(RuntimeError):  # it died in its start
                router.start()
                for _ in range(MORE):  # how many calls the same work takes depends on how it falls into groups
                    objects |= scene.objects()
                    if scene.send(router, objects):
                        wait_for(lambda router=router: ended(router) or oracle.drained(), 60, "delivery")  # type: ignore[misc]
                    if ended(router):
                        break
            if died_at_last(router):
                died[kind] += 1
                oracle.killed()
            scene.finish(router, objects)
        verdict = oracle.judge()
    assert sum(died.values()) >= 0.8 * len(tried), "hardly ever did the router die where it should"
    report(
        Figure(
            test="T1",
            promise="process killed at a chosen system call while it receives and delivers: nothing answered is lost",
            goal="0 lost, changed or astray; at every call",
            met=sum(died.values()) == len(tried),
            found=f"0 of {verdict.deliveries:,} deliveries lost, changed or astray; {verdict.repeated}; died at "
            + ", ".join(f"{died[kind]} of {sum(one == kind for one, _ in tried)} calls of {kind}" for kind in KINDS)
            + f" ({sum(found.values())} in all)",
            n=len(tried),
            command="make torture (tests/torture/test_crash_points.py)",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(7200)
def test_a_router_that_dies_at_any_call_of_its_recovery_loses_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, library: Path
) -> None:
    with Oracle(tmp_path, destinations=2, routed=True) as oracle:
        scene = Scene(tmp_path, oracle, library)

        def left_behind(name: str, rounds: int, kind: str = "", at: int = 0) -> RouterProcess:
            """Killed right behind an answer: the ledger has not heard of the last records. After more than one round of
            objects most are still to be delivered."""
            router = scene.router(name)
            router.start()
            oracle.stall(0 if rounds > 1 else None)
            for _ in range(rounds):
                assert scene.send(router, scene.objects())
            router.kill()
            oracle.killed()
            oracle.stall(None)
            router.environment |= {"CRASH_KIND": kind, "CRASH_AT": str(at)}
            return router

        whole = left_behind("whole", 1)
        whole.start()
        wait_for(oracle.drained, 60, "delivery")
        whole.stop()
        found = counts(whole)
        died = dict.fromkeys(KINDS, 0)
        share = amount("points", 1, 0)
        tried = list(points(found, share or None, KINDS if campaign else OF_RECOVERY))
        for kind, number in tried:
            for again in range(RECOVERIES if campaign else 2):  # how many calls it takes depends on what it finds
                router = left_behind(f"{kind}-{number}-{again}", again + 1, kind, number)
                with contextlib.suppress(RuntimeError):
                    router.start()
                    wait_for(lambda router=router: ended(router) or oracle.drained(), 60, "delivery")  # type: ignore[misc]
                dead = died_at_last(router)
                if dead:
                    died[kind] += 1
                    oracle.killed()
                scene.finish(router, {})
                if dead:
                    break
        verdict = oracle.judge()
    assert sum(died.values()) >= (0.8 if campaign else 0.5) * len(tried), (
        "hardly ever did the router die where it should"
    )
    report(
        Figure(
            test="T1",
            promise="process killed at a chosen system call of its recovery: nothing answered is lost",
            goal="0 lost, changed or astray; at every call",
            met=sum(died.values()) == len(tried),
            found=f"0 of {verdict.deliveries:,} deliveries lost, changed or astray; {verdict.repeated}; died at "
            + ", ".join(f"{died[kind]} of {sum(one == kind for one, _ in tried)} calls of {kind}" for kind in KINDS)
            + f" ({sum(found.values())} in all)",
            n=len(tried),
            command="make torture (tests/torture/test_crash_points.py)",
        ),
        keep=campaign,
    )
