"""Anything that can happen, in any order: a state machine that plays senders, destinations, operators and accidents
with a running router, and a reference model that says what must have arrived in the end.

Time is not waited for: where an object rests for minutes after a destination has refused it, the router is stopped, the
moment written in its ledger is set back, and it is started again, as if that time had passed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.ports import free_port
from tests.support.router_process import NO_FLOORS, RouterProcess
from tests.support.script import store
from tests.support.told import Told
from tests.support.wire import WireSender
from tests.torture.figures import Figure, report
from tests.torture.model import Line, Model
from tests.torture.oracle import lines

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
NAMES = ("d0", "d1", "d2")
SETS = st.sets(st.sampled_from(NAMES), min_size=1).map(lambda names: tuple(sorted(names)))
SIZES = st.sampled_from((1_000, 1_000, 30_000, 300_000, 1_500_000, 5_000_000))
"""In memory, streamed, and large enough to leave while they arrive."""
STATUSES = (0xA700, 0x0110, 0xC000, 0x0111, 0xB000)
WHICH = st.integers(0, 1 << 16)
RESTARTS = ("kill", "kill within an answer", "stop", "time passes", "the disk is full, or is not")
SHARE = 11
"""Always the same runs in a share, and ones in which much happens."""
NO_ROOM = {"DICOM_ROUTER__SPOOL__RESERVE_OBJECTS": "1000TB"}
BROKEN = '[[rule]]\nname = "astray"\nto = ["d0", "d1", "d2"]\n[[rule]]\nname = 7\n'


class Destination(Told):
    """A recorder that does as it is told."""

    def __init__(self, folder: Path, name: str) -> None:
        self.ledger = folder / name
        self._port_file = folder / f"{name}.port"
        super().__init__("tests.torture.recorder", self._port_file, self.ledger, free_port())

    @cached_property
    def port(self) -> int:
        wait_for(self._port_file.exists, 30, "recorder")
        return int(self._port_file.read_text())


class World:
    """What outlives one run of the machine, and what all runs together have seen."""

    def __init__(self, folder: Path, *, restarts: int) -> None:
        self.folder = folder
        self.restarts = restarts
        """In each run at most: they take most of the time."""
        folder.mkdir(exist_ok=True)
        self.destinations = {name: Destination(folder, name) for name in NAMES}
        self.runs = self.steps = self.objects = self.faultless = 0
        self._templates: dict[int, bytes] = {}

    def data_set(self, uid: str, size: int, version: int) -> bytes:
        if size not in self._templates:
            empty = synthetic(size=size, sop_instance="1" * 60, study="1.2.3", StudyDescription="VERSION" + "0" * 9)
            self._templates[size] = encode(empty)
        body = self._templates[size].replace(b"1" * 60, uid.encode())
        return body.replace(b"VERSION" + b"0" * 9, b"VERSION%09d" % version)

    def close(self) -> None:
        for destination in self.destinations.values():
            destination.close()


class Machine(RuleBasedStateMachine):
    world: World

    @initialize(to=SETS)
    def begin(self, to: tuple[str, ...]) -> None:
        world = self.world
        world.runs += 1
        self.model = Model()
        self.to = to
        self.down: set[str] = set()
        self.statuses = dict.fromkeys(NAMES, 0x0000)
        self.room = True
        self.broken = False
        self.restarts = 0
        self.must_wait = False
        """Something may rest in the ledger for longer than a test can wait for."""
        self.latest: dict[str, tuple[bytes, int]] = {}
        """What was last sent under each UID, and the number of that version."""
        self.read_from = {name: len(lines(one.ledger)) for name, one in world.destinations.items()}
        self.numbers = itertools.count()
        self.sender: WireSender | None = None
        urls = {name: f"dicom://RECORDER@127.0.0.1:{one.port}" for name, one in world.destinations.items()}
        self.router = RouterProcess(world.folder / f"router{world.runs}", urls, rules=rules(to))
        self.router.start()

    # Senders -----------------------------------------------------------------------------------------------

    @rule(size=SIZES, count=st.integers(1, 6))
    def a_series_is_sent(self, size: int, count: int) -> None:
        for _ in range(count):
            uid = self.new_uid()
            self.send(uid, self.world.data_set(uid, size, 0), 0)

    @precondition(lambda self: self.latest)
    @rule(which=WHICH, times=st.integers(1, 3))
    def one_is_sent_again(self, which: int, times: int) -> None:
        uid = self.known_uid(which)
        for _ in range(times):
            self.send(uid, *self.latest[uid])

    @precondition(lambda self: self.latest)
    @rule(which=WHICH, size=SIZES)
    def other_bytes_are_sent_under_a_known_uid(self, which: int, size: int) -> None:
        uid = self.known_uid(which)
        version = self.latest[uid][1] + 1
        self.send(uid, self.world.data_set(uid, size, version), version)

    @precondition(lambda self: self.room)
    @rule(size=SIZES, share=st.floats(0, 1, exclude_max=True), which=st.none() | WHICH, politely=st.booleans())
    def an_object_is_aborted(self, size: int, share: float, which: int | None, politely: bool) -> None:
        uid = self.new_uid() if which is None or not self.latest else self.known_uid(which)
        data = self.world.data_set(uid, size, 1 << 20)
        sender = self.associated()
        self.sender = None
        if politely:  # an A-ABORT stands between PDUs
            sender.begin(uid, data)
            sender.send(share)
            sender.abort()
        else:
            message = store(uid, data)
            sender.connection.sendall(message[: min(int(len(message) * share), len(message) - 1)])
            sender.close()

    # Accidents and operators -------------------------------------------------------------------------------

    @precondition(lambda self: self.restarts < self.world.restarts)
    @rule(how=st.sampled_from(RESTARTS), size=SIZES)
    def the_router_is_restarted(self, how: str, size: int) -> None:
        """One rule for all ways, so that most steps are not restarts."""
        self.restarts += 1
        if how.startswith("kill"):
            self.model.faults.add("kill -9")
            if how == "kill within an answer" and self.room:
                self.send_without_waiting(size)
            self.router.kill()
        else:
            self.stop()
        if how == "time passes":
            self.forget_rests()
        elif how == "the disk is full, or is not":
            self.room = not self.room
        self.start()

    @rule(to=SETS)
    def rules_are_changed(self, to: tuple[str, ...]) -> None:
        self.router.write_rules(rules(to))
        assert json.loads(self.router.post("/-/reload"))["reloaded"]
        self.to, self.broken = to, False

    @precondition(lambda self: not self.broken)
    @rule()
    def rules_are_broken(self) -> None:
        self.broken = True
        self.router.write_rules(BROKEN)
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.router.post("/-/reload")
        with refused.value:
            assert refused.value.code == 422

    # Destinations ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.down) < len(NAMES))
    @rule(which=WHICH)
    def the_destination_goes_away(self, which: int) -> None:
        name = one_of([name for name in NAMES if name not in self.down], which)
        self.model.faults.add("a destination that broke off")
        self.world.destinations[name].tell("down")
        self.down.add(name)

    @rule(name=st.sampled_from(NAMES), status=st.sampled_from(STATUSES))
    def the_destination_answers_something_else(self, name: str, status: int) -> None:
        self.world.destinations[name].tell(f"status {status:04X}")
        self.statuses[name] = status
        self.must_wait |= status in (0x0110, 0xC000)

    @precondition(lambda self: self.ill())
    @rule(which=WHICH)
    def the_destination_is_well_again(self, which: int) -> None:
        name = one_of(self.ill(), which)
        self.heal(name)
        self.router.post(f"/api/v1/destinations/{name}/resume")

    # The end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "router"):
            return
        try:
            self.drain()
            self.judge()
        finally:
            self.hang_up()
            self.router.kill()
            for name in NAMES:
                self.heal(name)
        shutil.rmtree(self.router.folder)  # of hundreds; what was wrong is still there to be looked at

    def drain(self) -> None:
        """Everything is well again, and time passes until nothing waits any more."""
        for name in NAMES:
            self.heal(name)
        for turn in range(6):
            if turn or self.must_wait or not self.room or self.router.process is None:
                self.stop()
                self.forget_rests()
                self.room = True
                self.start()
            for name in NAMES:
                self.router.post(f"/api/v1/destinations/{name}/resume")
            if json.loads(self.router.post("/api/v1/dead-letters/retry"))["retried"]:
                self.model.faults.add("dead letters sent again")
            with contextlib.suppress(TimeoutError):
                wait_for(self.empty, 10, "delivery of everything")
                break
        self.stop()

    def empty(self) -> bool:
        if not self.model.drained(self.arrived()):
            return False
        status = json.loads(self.router.get("/api/v1/status"))
        waiting = [one["waiting"] for one in status["destinations"]]
        return (sum(waiting), status["held"], status["dead_letters"]) == (0, 0, 0)

    def judge(self) -> None:
        problems = self.model.problems(self.arrived())
        with self.ledger() as ledger:
            problems += [
                f"still owed: {row}"
                for row in ledger.execute(
                    "select i.sop, d.dest, d.state, d.last_error from delivery d join instance i on i.id=d.instance_id "
                    "where d.state<>'done'"
                )
            ]
            problems += [f"held: {row}" for row in ledger.execute("select sop from instance where verdict='hold'")]
        assert not problems, "\n".join(problems)
        self.world.objects += sum(map(len, self.model.sent.values()))
        self.world.faultless += not self.model.faults

    # Help --------------------------------------------------------------------------------------------------

    def send(self, uid: str, data: bytes, version: int) -> None:
        sender = self.associated()
        sender.connection.sendall(store(uid, data))
        status = sender.status()
        if not self.room:
            assert status == 0xA700, "no room: the sender may try again"
            return
        assert status == 0x0000
        self.model.record(uid, sha256(data), self.to, answered=True)
        self.latest[uid] = data, version

    def send_without_waiting(self, size: int) -> None:
        uid = self.new_uid()
        data = self.world.data_set(uid, size, 0)
        with contextlib.suppress(OSError):
            self.associated().connection.sendall(store(uid, data))
        self.model.record(uid, sha256(data), self.to, answered=False)
        self.latest[uid] = data, 0

    def associated(self) -> WireSender:
        if self.sender is None:
            self.sender = WireSender(self.router.port, (CT, EXPLICIT))
        return self.sender

    def hang_up(self) -> None:
        if self.sender is not None:
            self.sender.close()
            self.sender = None

    def new_uid(self) -> str:
        return f"2.25.{self.world.runs:025d}{next(self.numbers):030d}".replace("2.25.0", "2.25.9")

    def known_uid(self, which: int) -> str:
        return one_of(list(self.latest), which)

    def ill(self) -> list[str]:
        return [name for name in NAMES if name in self.down or self.statuses[name] != 0x0000]

    def stop(self) -> None:
        self.hang_up()
        assert self.router.stop() == 0

    def start(self) -> None:
        """With the rules that are in force: it would not start with broken ones."""
        self.hang_up()
        self.router.write_rules(rules(self.to))
        self.broken = False
        self.router.environment |= NO_FLOORS if self.room else NO_ROOM
        self.router.start()

    def heal(self, name: str) -> None:
        destination = self.world.destinations[name]
        destination.tell("status 0000")
        self.statuses[name] = 0x0000
        if name in self.down:
            destination.tell("up")
            self.down.discard(name)

    def forget_rests(self) -> None:
        """The router is stopped, and started again when every object may be tried again."""
        with self.ledger() as ledger:
            ledger.execute("update delivery set not_before=0 where state='ready'")

    @contextlib.contextmanager
    def ledger(self) -> Iterator[apsw.Connection]:
        with contextlib.closing(apsw.Connection(str(self.router.folder / "data" / "ledger.db"))) as connection:
            yield connection

    def arrived(self) -> dict[str, list[Line]]:
        return {
            name: lines(destination.ledger)[self.read_from[name] :]
            for name, destination in self.world.destinations.items()
        }


def rules(to: tuple[str, ...]) -> str:
    return f'[[rule]]\nname = "all"\nto = {json.dumps(list(to))}\n'


def one_of(names: Sequence[str], which: int) -> str:
    return names[which % len(names)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_history_in_which_everything_happens_once(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=10)

    class Played(Machine):
        pass

    Played.world = world
    machine: Machine = Played()
    try:
        machine.begin(to=("d0", "d1"))
        machine.a_series_is_sent(size=30_000, count=3)
        machine.the_destination_answers_something_else(name="d1", status=0xC000)
        machine.the_destination_goes_away(which=2)
        machine.a_series_is_sent(size=5_000_000, count=1)
        machine.other_bytes_are_sent_under_a_known_uid(which=0, size=1_500_000)
        machine.an_object_is_aborted(size=300_000, share=0.5, which=1, politely=True)
        machine.an_object_is_aborted(size=300_000, share=1.0, which=None, politely=False)
        machine.the_router_is_restarted(how="kill within an answer", size=300_000)
        machine.rules_are_changed(to=("d1", "d2"))
        machine.one_is_sent_again(which=0, times=2)
        machine.rules_are_broken()
        machine.other_bytes_are_sent_under_a_known_uid(which=0, size=1_000)
        machine.the_destination_is_well_again(which=0)
        machine.the_router_is_restarted(how="the disk is full, or is not", size=0)
        machine.a_series_is_sent(size=1_000, count=1)
        machine.teardown()
    finally:
        world.close()
    assert world.objects == 9


@pytest.mark.timeout(7200)
def test_whatever_happens_what_was_answered_arrives(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    runs, steps = amount("model_runs", 3, 300), amount("model_steps", 15, 60)
    world = World(tmp_path, restarts=steps if campaign else 2)

    class Played(Machine):
        def check_invariants(self, *args: object, **keywords: object) -> None:
            """Called after each step."""
            world.steps += 1
            super().check_invariants(*args, **keywords)  # type: ignore[arg-type]

    Played.world = world
    if not campaign:
        seed(SHARE)(Played)
    try:
        run_state_machine_as_test(
            Played,
            settings=settings(
                max_examples=runs,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink) if campaign else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        world.close()
    assert world.objects, "something was answered and compared"
    report(
        Figure(
            test="T11",
            promise="senders, destinations, operators and accidents in any order, compared with a reference model",
            goal="0 lost, 0 changed, the newest version last, 0 repeated without a fault, 0 left in the queue",
            found=f"0 in {world.steps:,} steps; {world.objects:,} objects sent, {world.faultless:,} runs had no fault",
            n=world.runs,
            command="make torture (tests/torture/test_model.py, "
            f"--amount model_runs={runs} --amount model_steps={steps})",
        ),
        keep=campaign,
    )


# The model -------------------------------------------------------------------------------------------------


def test_the_model_knows_what_is_owed() -> None:
    model = Model()
    for digest, to in (("a", "x"), ("a", "xy"), ("b", "x"), ("b", "x"), ("a", "x")):
        model.record("1", digest, to, answered=True)
    assert model.owed("1", "x") == ["a", "b", "a"]
    assert model.owed("1", "y") == ["a"]
    assert not model.problems({"x": [("1", "a"), ("1", "b"), ("1", "a")], "y": [("1", "a")]})


@pytest.mark.parametrize(
    ("arrivals", "says"),
    [
        ([], "lost 2 of 2"),
        (["a"], "lost 1 of 2"),
        (["b", "a"], "not the newest"),
        (["a", "b", "b"], "no fault"),
        (["a", "b", "c"], "bytes that were not sent"),
    ],
)
def test_the_model_finds_what_is_wrong(arrivals: list[str], says: str) -> None:
    model = Model()
    model.record("1", "a", "x", answered=True)
    model.record("1", "b", "x", answered=True)
    found = model.problems({"x": [("1", digest) for digest in arrivals]})
    assert any(says in problem for problem in found), found


def test_the_model_finds_what_nobody_sent() -> None:
    assert "never sent" in Model().problems({"x": [("1", "a")]})[0]


def test_after_a_fault_a_repeat_is_no_problem_and_an_unanswered_send_may_have_arrived() -> None:
    model = Model()
    model.record("1", "a", "x", answered=True)
    model.record("1", "b", "x", answered=False)
    for arrivals in (["a"], ["a", "a"], ["a", "b"], ["a", "b", "b"]):
        assert not model.problems({"x": [("1", digest) for digest in arrivals]}), arrivals
    assert model.problems({"x": [("1", "b")]}), "what was answered is owed all the same"
