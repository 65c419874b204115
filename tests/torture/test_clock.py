"""Clocks jump by ten days and drift, while a destination is down and comes back: nothing is late, lost or repeated.

The time of day jumps alone, as it does when somebody sets it; or what is monotonic jumps with it, which no kernel does
but which shows that timers that are all due at once make no burst. Steps back are for the time of day: of a monotonic
clock that goes back nothing can be demanded, as every timer of the loop then waits for the old time to come again. Over
a start it may be anything, as after a boot: that is tried in a time namespace.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import apsw
import pytest

from router.delivery.backoff import rest_seconds
from router.ledger.store import LONGEST_WAIT
from tests.support.objects import encode, synthetic
from tests.support.peers import cannot, wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender
from tests.torture.clock import TEN_DAYS, FakeClock, in_another_time, steps, unable, uptime
from tests.torture.figures import Figure, report
from tests.torture.gate import Gate
from tests.torture.oracle import Oracle, Verdict, lines

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
LIVE = 10.0
"""Seconds within which a destination that is up has what was sent to the router: in truth it takes some 30 ms."""
LATEST = 300.0
"""Seconds after a destination's return."""
AT_ONCE = 4
"""Associations to one destination."""
DOWN, UP = "d1", "d0"


def most_attempts(seconds: float) -> int:
    """To a destination that is dead for so long: one at once, and one after each rest if all are as short as can be."""
    count, passed = 1, 0.0
    while (passed := passed + rest_seconds(count, 0.0)) < seconds:
        count += 1
    return count


class Scene:
    """A router whose clock is ours, a destination that is up, and one behind a gate that is shut at first."""

    def __init__(self, folder: Path, stack: ExitStack, *, monotonic: bool = False, workers: int = 1) -> None:
        self.oracle = stack.enter_context(Oracle(folder, destinations=2))
        self.gate = stack.enter_context(Gate(self.oracle.ports[1]))
        self.clock = FakeClock(folder / "clock", monotonic=monotonic)
        urls = {**self.oracle.urls, DOWN: f"dicom://RECORDER@127.0.0.1:{self.gate.port}"}
        self.router = RouterProcess(folder / "router", urls, workers=workers, environment=self.clock.environment)
        self.book = self.oracle.book("sender")
        self._data = encode(synthetic(size=16384, sop_instance="1" * 60))
        self._numbers = itertools.count(10**9)
        self._sender: WireSender | None = None
        self.associations = 0
        """That were needed for all that was sent."""
        self.shut_at = time.monotonic()
        self.shut_after = 0
        stack.callback(self._end)
        stack.enter_context(self.router)

    def _end(self) -> None:
        self._close()
        self.book.close()

    def _close(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def store(self) -> None:
        """One object, on the association that there is; on a new one if it has ended."""
        uid = f"2.25.{next(self._numbers)}{'0' * 45}"
        data = self._data.replace(b"1" * 60, uid.encode())
        for _ in range(2):
            if self._sender is None:
                self._sender = WireSender(self.router.port, (CT, EXPLICIT))
                self.associations += 1
            with suppress(OSError, AssertionError):
                self.book.intend(uid, data)
                assert self._sender.store(uid, data) == 0x0000
                self.book.answered(uid)
                return
            self._close()
        raise AssertionError("the router takes nothing")

    def live_traffic(self, seconds: float = 0.0) -> None:
        """Some objects, one after the other, for so long at least; what is up has them soon."""
        until = time.monotonic() + seconds
        for number in itertools.count():
            self.store()
            time.sleep(0.05)  # a pace, not a wait
            if number >= 2 and time.monotonic() >= until:
                break
        arrived = self.oracle.arrivals[0]
        wait_for(lambda: set(self.oracle.answered()) <= set(lines(arrived)), LIVE, "what is up to have all")

    def shut(self) -> None:
        self.shut_after = len(self.gate.calls)
        self.shut_at = time.monotonic()
        self.gate.shut()

    def is_resting(self) -> bool:
        return self.router.metric("dicom_router_destination_up", destination=DOWN) == 0

    def waiting(self) -> int:
        """Deliveries that the router knows of and that nobody answered yet."""
        return sum(lane["waiting"] for lane in json.loads(self.router.get("/api/v1/queue"))["destinations"])

    def opened(self, *, jumps: int = 0, waits: float = 0.0) -> float:
        """The gate opens: seconds until what waited was delivered. The attempts until then were as few as they may be.

        Args:
            jumps: Steps at which every timer was due.
            waits: Seconds that objects may have to wait for a retry of their own.
        """
        lasted = time.monotonic() - self.shut_at
        before = len(self.gate.calls)
        made = before - self.shut_after
        allowed = most_attempts(lasted) + jumps + (AT_ONCE if self.shut_after else 0)
        assert made <= allowed, f"{made} attempts in {lasted:.0f} s, {allowed} may be"
        self.gate.open()
        began = time.monotonic()
        wait_for(self.oracle.drained, LATEST, "delivery after the return")
        late = time.monotonic() - began
        wait_for(lambda: not self.waiting(), LIVE, "the router to have heard of all")
        assert late <= max(rest_seconds(max(made, 1), 1.0), waits) + LIVE
        assert len(self.gate.calls) - before <= 2 * AT_ONCE, "no burst"
        return late

    def told(self) -> list[int]:
        """Seconds of each step that the log tells."""
        logged = [json.loads(line) for line in self.router.log.read_text().splitlines() if line.startswith("{")]
        return [line["seconds"] for line in logged if line["event"] == "the clock was set"]

    def kill(self) -> None:
        self.router.kill()
        self.oracle.killed()

    def judge(self) -> Verdict:
        """Nothing lost, changed or repeated, but for what arrived just before a kill."""
        assert self.router.stop() == 0
        verdict = self.oracle.judge()
        assert verdict.wrong == 0, verdict
        assert verdict.resent == verdict.unexplained == 0, verdict
        return verdict


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_time_of_day_jumps_while_a_destination_is_down(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, workers: int
) -> None:
    count = amount("clock_steps", 1, 16) if workers == 1 else amount("clock_steps_of_two_workers", 0, 4)
    if not count:
        pytest.skip("only in a campaign")
    places = list(itertools.islice(steps(), count))
    late: list[float] = []
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack, workers=workers)
        for some in _pairs(places):
            if late:
                scene.shut()
            scene.live_traffic()
            wait_for(scene.is_resting, 30, "the destination's rest")
            for place in some:
                scene.clock.set(place)
                scene.live_traffic(6.0 if campaign else 0.0)
            late.append(scene.opened())
        wait_for(lambda: len(scene.told()) >= count, 10, "the log to tell the steps")
        told = scene.told()
        if workers == 1:
            assert scene.associations == 1, "nobody's association ended"
        verdict = scene.judge()
    jumps = [after - before for before, after in itertools.pairwise([0, *places])]
    assert told == pytest.approx(jumps, abs=5)
    report(
        Figure(
            test="T13",
            promise="the time of day jumps ±10 days while a destination is down, "
            f"{workers} worker{'s' * (workers > 1)}",
            goal="0 lost, 0 repeated; delivered ≤ 300 s after its return; attempts by the back-off; the log tells each",
            found=f"0 of {verdict.deliveries:,} deliveries lost or repeated; delivered {max(late):.1f} s after the "
            "return at most; each step told",
            n=count,
            command=f"make torture (tests/torture/test_clock.py, --amount clock_steps={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(3600)
def test_monotonic_time_jumps_ahead_and_every_timer_is_due_at_once(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """Associations that rest are then over, and a dead destination is asked once more: no more than that."""
    count = amount("monotonic_steps", 0, 6)
    if not count:
        pytest.skip("only in a campaign")
    late: list[float] = []
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack, monotonic=True)
        for number in range(count):
            if late:
                scene.shut()
            scene.live_traffic()
            wait_for(scene.is_resting, 30, "the destination's rest")
            scene.clock.set(TEN_DAYS * (number + 1))
            scene.live_traffic(6.0)
            late.append(scene.opened(jumps=1))
        told = scene.told()
        verdict = scene.judge()
    assert not told, "both clocks agree: nobody has set one"
    report(
        Figure(
            test="T13",
            promise="monotonic time jumps ten days ahead with the time of day while a destination is down",
            goal="0 lost, 0 repeated; delivered ≤ 300 s after its return; one attempt more for each step",
            found=f"0 of {verdict.deliveries:,} deliveries lost or repeated; delivered {max(late):.1f} s after the "
            "return at most",
            n=count,
            command=f"make torture (tests/torture/test_clock.py, --amount monotonic_steps={count})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("monotonic", [False, True])
def test_clocks_drift(tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool, monotonic: bool) -> None:
    """A hundredth too fast, and too slow: twenty times what NTP corrects without a step. It is no step."""
    seconds = amount("drift_seconds", 0, 60)
    if not seconds:
        pytest.skip("only in a campaign")
    late: list[float] = []
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack, monotonic=monotonic)
        for rate in (1.01, 0.99):
            assert scene.router.stop() == 0
            scene.clock.set(scene.clock.seconds, rate=rate)
            scene.router.start()
            scene.shut()
            scene.live_traffic()
            wait_for(scene.is_resting, 30, "the destination's rest")
            scene.live_traffic(seconds / 2)
            late.append(scene.opened())
        told = scene.told()
        verdict = scene.judge()
    assert not told
    report(
        Figure(
            test="T13",
            promise=f"{'both clocks drift' if monotonic else 'the time of day drifts'} by 1 % "
            "while a destination is down",
            goal="0 lost, 0 repeated; delivered ≤ 300 s after its return; attempts by the back-off",
            found=f"0 of {verdict.deliveries:,} deliveries lost or repeated; delivered {max(late):.1f} s after the "
            "return at most",
            n=seconds,
            command=f"make torture (tests/torture/test_clock.py, --amount drift_seconds={seconds})",
        ),
        keep=campaign,
    )


@pytest.mark.timeout(3600)
def test_clocks_are_others_after_a_start(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    """Killed, and started with the time of day ten days off and monotonic time that is another, as after a boot."""
    count = amount("clock_starts", 0, 6)
    if not count:
        pytest.skip("only in a campaign")
    if why := unable():
        cannot(why)
    late: list[float] = []
    with ExitStack() as stack:
        scene = Scene(tmp_path, stack)
        program = scene.router.program
        for number, place in enumerate(itertools.islice(steps(), count)):
            if late:
                scene.shut()
            scene.live_traffic()
            wait_for(scene.is_resting, 30, "the destination's rest")
            scene.kill()
            scene.shut()
            retries = number == 1  # a step back: what was due in a minute is due in ten days
            if retries:
                postpone(scene, 60.0)
            scene.clock.set(place)
            scene.router.program = [*in_another_time(TEN_DAYS if number % 2 else 1.0 - uptime()), *program]
            scene.router.start()
            scene.live_traffic()
            late.append(scene.opened(waits=LONGEST_WAIT if retries else 0.0))
        verdict = scene.judge()
    report(
        Figure(
            test="T13",
            promise="killed, and started with the time of day ±10 days off and monotonic time of another boot",
            goal="0 lost, 0 repeated but for what had just arrived; delivered ≤ 300 s after the destination's return",
            found=f"0 of {verdict.deliveries:,} deliveries lost; {verdict.repeated}; delivered {max(late):.1f} s after "
            "the return at most",
            n=count,
            command=f"make torture (tests/torture/test_clock.py, --amount clock_starts={count})",
        ),
        keep=campaign,
    )


def postpone(scene: Scene, seconds: float) -> None:
    """As if the destination had refused all that it is owed, and had it offered again so much later. Nobody runs."""
    with closing(apsw.Connection(str(scene.router.folder / "data" / "ledger.db"))) as ledger:
        due = time.time() + scene.clock.seconds + seconds
        ledger.execute(
            "update delivery set state='ready', owner=null, not_before=? where dest=? and state in ('ready', 'leased')",
            (due, DOWN),
        )
        assert ledger.changes()


def _pairs(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[at : at + 2] for at in range(0, len(places), 2)]
