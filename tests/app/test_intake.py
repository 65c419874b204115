"""When 0x0000 may be said, and what is said otherwise: an intake whose spool and ledger answer when told to."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router._blocks import BLOCK_SIZE, Gatherer
from router.app.ids import IdSource
from router.app.intake import StoreIntake
from router.app.known import KnownInstances
from router.app.reception import STREAM_HIGH, StoreReception
from router.errors import LedgerError, SpoolError
from router.ledger import ReceiptResult
from router.model import Limits, Location, LogPosition, Origin
from router.ports import Buffer
from router.routing import RuleSet, load
from tests.net.doubles import RecordingLog
from tests.support.objects import encode, synthetic

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ORIGIN = Origin(listener="l", peer="p", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1")
POSITION = LogPosition(1, 100)
RULES = {
    "route": '[[rule]]\nname = "all"\nto = ["pacs"]\n',
    "discard": '[[rule]]\nname = "drop"\nmatch = { PatientID = "SYNTHETIC*" }\ndiscard = true\n',
    "none": "",
}


class FakeStream:
    on_freed: Callable[[int], None]

    def __init__(self, spool: FakeSpool) -> None:
        self.spool = spool
        self.pending = self.taken = 0
        self.written = b""
        self.discarded = False

    def on_drain(self, low: int, callback: Callable[[], None]) -> None:
        self.drained = callback

    def write(self, *chunks: Buffer) -> None:
        self.written += b"".join(chunks)
        self.pending += len(self.written) - self.taken
        self.taken = len(self.written)
        if not self.spool.stalled:
            self.drain()

    def drain(self) -> None:
        size, self.pending = self.pending, 0
        self.on_freed(size)

    def finish(self, entry: Any) -> None:
        self.spool.submit(entry)

    def discard(self) -> None:
        self.discarded = True
        self.drain()


class FakeSpool:
    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.streams: list[FakeStream] = []
        self.freed: list[Location] = []
        self.full = False
        self.stalled = False
        """Streams get nothing onto the disk."""

    def below_objects_floor(self) -> bool:
        return self.full

    def submit(self, entry: Any) -> None:
        entry.location = Location(1, 1, 0, 10)
        self.entries.append(entry)

    def stream(self) -> FakeStream:
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    def settled(self, locations: Sequence[Location]) -> None:
        self.freed.extend(locations)


class FakeLedger:
    failed = False
    blocked = ""

    def __init__(self) -> None:
        self.records: list[tuple[Sequence[Any], Callable[[Any], None], LogPosition | None, bool]] = []
        self.numbers = itertools.count(1)

    def next_delivery(self) -> int:
        return next(self.numbers)

    def record(
        self, receipts: Sequence[Any], done: Callable[[Any], None], *, position: LogPosition | None, owed: bool
    ) -> None:
        self.records.append((receipts, done, position, owed))


class FakeLane:
    def __init__(self) -> None:
        self.reserved = 0
        self.offered: list[Any] = []
        self.woken = 0
        self.kicked = 0

    def reserve(self) -> bool:
        self.reserved += 1
        return True

    def cancel_reservation(self) -> None:
        self.reserved -= 1

    def offer(self, delivery: Any) -> None:
        self.reserved -= 1
        self.offered.append(delivery)

    def kick(self) -> None:
        self.kicked += 1

    def backlog(self) -> None:
        self.woken += 1


class SilentLog:
    def error(self, event: str, **values: Any) -> None: ...

    debug = info = warning = error


class House:
    def __init__(
        self,
        folder: Path,
        rules: str = "route",
        on_no_match: str = "hold",
        changed: str = "version",
        *,
        known: bool = False,
        **limits: Any,
    ) -> None:
        (folder / "rules").mkdir()
        (folder / "rules" / "r.toml").write_text(RULES[rules])
        self.rules: RuleSet = load(folder / "rules", ["pacs"], on_no_match=on_no_match)
        self.spool, self.ledger, self.lane = FakeSpool(), FakeLedger(), FakeLane()
        self.answers: list[int] = []
        self.discarded = 0
        self.resumed = 0
        self.intake = StoreIntake(
            loop=asyncio.get_running_loop(), spool=self.spool, ledger=self.ledger, lanes={"pacs": self.lane},
            rules=lambda: self.rules, ids=IdSource(worker=0, last=0, clock=lambda: 1.7e9), limits=Limits(**limits),
            log=SilentLog(), decided=lambda decision: None, discarded=self._discarded,
            commit_observed=lambda seconds, count: None, changed_duplicate=changed,
            known=KnownInstances() if known else None,
        )  # type: ignore[arg-type]  # fmt: skip

    def _discarded(self, info: Any, decision: Any) -> None:
        self.discarded += 1

    def _resume(self) -> None:
        self.resumed += 1

    def begin(self, sop: str = "2.25.1", syntax: str = EXPLICIT) -> Any:
        return self.intake.begin(
            ORIGIN, sop_class=CT, sop_instance=sop, transfer_syntax=syntax, move_originator=None, resume=self._resume
        )

    def receive(self, data: bytes, sop: str = "2.25.1", piece: int = 50_000) -> None:
        reception = self.begin(sop)
        for start in range(0, len(data), piece):
            reception.write(memoryview(data)[start : start + piece])
        reception.finish(lambda status, comment: self.answers.append(status))

    def sync(self) -> None:
        entries, self.spool.entries = self.spool.entries, []
        self.intake.synced(entries, POSITION)

    def commit(self, outcome: LedgerError | str = "new") -> None:
        """The ledger has the last group."""
        receipts, done, _, _ = self.ledger.records.pop(0)
        done(outcome if isinstance(outcome, LedgerError) else [ReceiptResult(kind=outcome) for _ in receipts])


def instance(sop: str = "2.25.1", size: int = 4000) -> bytes:
    return encode(synthetic(sop_instance=sop, size=size))


async def turn() -> None:
    """What other threads asked of the loop has happened."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_success_is_said_when_the_record_is_durable_and_the_lane_hears_after_the_ledger(tmp_path: Path) -> None:
    house = House(tmp_path)
    data = instance()
    house.receive(data)
    await turn()
    assert house.answers == [], "nothing is durable yet"
    house.sync()
    await turn()
    assert house.answers == [0x0000]
    assert house.lane.offered == []
    assert house.intake.open_receptions == 1, "a shutdown waits for the ledger"
    _, done, position, owed = house.ledger.records.pop()
    assert (position, owed) == (POSITION, True)
    delivery = SimpleNamespace(destination="pacs", chunks=None)
    done([ReceiptResult(kind="new", deliveries=[delivery])])  # type: ignore[list-item]
    await turn()
    assert house.lane.offered == [delivery]
    assert b"".join(delivery.chunks or []) == data
    assert house.lane.reserved == 0
    assert house.intake.in_memory == 0
    assert house.intake.open_receptions == 0


async def test_what_is_surely_new_goes_to_its_lane_with_its_answer_and_the_ledger_is_told_before(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, known=True)
    data = instance()
    told = []
    offer = house.lane.offer
    house.lane.offer = lambda delivery: (told.append(len(house.ledger.records)), offer(delivery))  # type: ignore[method-assign]
    house.receive(data)
    house.sync()
    assert house.answers == [0x0000]
    (delivery,) = house.lane.offered
    assert told == [1], "an outcome must find its record"
    assert (delivery.destination, delivery.fence) == ("pacs", 1)
    assert b"".join(delivery.chunks or []) == data
    (receipt,) = house.ledger.records[0][0]
    assert receipt.sent == (delivery,)
    assert receipt.direct == frozenset()
    assert house.lane.kicked == 1
    assert house.intake.in_memory == 0
    assert house.intake.open_receptions == 1, "a shutdown waits for the ledger"
    house.commit()
    await turn()
    assert house.intake.open_receptions == 0
    assert len(house.lane.offered) == 1
    assert house.lane.reserved == 0


async def test_a_uid_that_was_here_before_waits_for_the_ledger(tmp_path: Path) -> None:
    house = House(tmp_path, known=True)
    house.receive(instance())
    house.receive(instance(size=6000))
    house.sync()
    assert house.answers == [0x0000, 0x0000]
    assert len(house.lane.offered) == 1
    first, second = house.ledger.records[0][0]
    assert (len(first.sent), len(second.sent)) == (1, 0)
    assert second.direct == {"pacs"}


async def test_what_is_surely_new_is_answered_without_the_ledger_also_where_it_may_refuse(tmp_path: Path) -> None:
    house = House(tmp_path, changed="reject", known=True)
    house.receive(instance())
    house.receive(instance(size=6000))
    house.sync()
    assert house.answers == [0x0000]
    assert [owed for _, _, _, owed in house.ledger.records] == [True, False]


async def test_a_ledger_that_fails_takes_nothing_back_from_the_lanes(tmp_path: Path) -> None:
    house = House(tmp_path, known=True)
    house.receive(instance())
    house.sync()
    house.commit(LedgerError("disk"))
    await turn()
    assert house.answers == [0x0000]
    assert len(house.lane.offered) == 1
    assert (house.lane.reserved, house.intake.in_memory, house.intake.open_receptions) == (0, 0, 0)


async def test_where_the_ledger_may_refuse_the_answer_waits_for_it(tmp_path: Path) -> None:
    house = House(tmp_path, changed="reject")
    house.receive(instance())
    house.sync()
    await turn()
    assert house.answers == []
    assert not house.ledger.records[0][3], "a full disk may refuse it"
    house.commit("rejected")
    house.receive(instance())
    house.sync()
    house.commit()
    await turn()
    assert house.answers == [0x0111, 0x0000]


async def test_a_streamed_object_is_answered_after_the_ledger_since_it_is_not_in_the_log(tmp_path: Path) -> None:
    house = House(tmp_path, object_memory=1000)
    house.receive(instance(size=50_000))
    house.receive(instance(size=500))
    house.sync()
    await turn()
    assert house.answers == [0x0000], "the small one, whose record lies in the log"
    assert [owed for *_, owed in house.ledger.records] == [True, False]
    house.commit()
    house.commit()
    await turn()
    assert house.answers == [0x0000, 0x0000]


async def test_a_failed_sync_answers_out_of_resources(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.receive(instance())
    house.intake.failed(house.spool.entries, SpoolError("sync failed"))
    await turn()
    assert house.answers == [0xA700]
    assert house.ledger.records == []
    assert house.lane.reserved == 0
    assert house.lane.offered == []
    assert house.intake.in_memory == 0
    assert house.intake.open_receptions == 0


async def test_a_commit_that_fails_after_the_answer_leaves_it_to_the_next_start(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.receive(instance())
    house.sync()
    house.commit(LedgerError("disk I/O error"))
    await turn()
    assert house.answers == [0x0000]
    assert house.spool.freed == [], "the record is needed"
    assert house.lane.reserved == 0
    assert house.intake.open_receptions == 0


async def test_a_commit_that_fails_before_the_answer_gives_the_room_back(tmp_path: Path) -> None:
    house = House(tmp_path, changed="reject")
    house.receive(instance())
    house.sync()
    house.commit(LedgerError("no space left for the ledger"))
    await turn()
    assert house.answers == [0xA700]
    assert house.lane.reserved == 0
    assert len(house.spool.freed) == 1


async def test_while_the_ledger_finds_no_room_nothing_is_taken(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.ledger.blocked = "out of disk space"
    house.receive(instance())
    assert house.answers == [0xA700]
    assert house.spool.entries == []


async def test_below_the_floor_nothing_is_taken(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.spool.full = True
    house.receive(instance())
    assert house.answers == [0xA700]
    assert house.spool.entries == []


async def test_half_a_data_set_is_never_answered_with_success(tmp_path: Path) -> None:
    house = House(tmp_path)
    data = instance()
    for cut in range(8, len(data) - 1, 97):
        house.receive(data[:cut])
    assert house.answers
    assert set(house.answers) <= {0xC001, 0xC002}
    assert house.spool.entries == []
    assert house.intake.in_memory == 0


async def test_uids_that_differ_or_are_missing(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.receive(instance("2.25.2"), sop="2.25.1")
    dataset = synthetic(sop_instance="2.25.1")
    del dataset.SOPInstanceUID
    house.receive(encode(dataset))
    assert house.answers == [0xA900, 0xC002]


async def test_an_object_over_its_limit_is_refused_for_good(tmp_path: Path) -> None:
    house = House(tmp_path, object_size=1000)
    house.receive(instance())
    assert house.answers == [0xC010]
    assert house.intake.in_memory == 0


async def test_a_discard_rule_is_the_only_silent_success_and_it_is_counted(tmp_path: Path) -> None:
    house = House(tmp_path, "discard")
    house.receive(instance())
    assert house.answers == [0x0000]
    assert house.discarded == 1
    assert house.spool.entries == []


async def test_no_rule_and_reject(tmp_path: Path) -> None:
    house = House(tmp_path, "none", "reject")
    house.receive(instance())
    assert house.answers == [0x0124]


async def test_a_large_object_streams_and_memory_is_let_go(tmp_path: Path) -> None:
    house = House(tmp_path, object_memory=100_000)
    data = instance(size=400_000)
    house.receive(data)
    (stream,) = house.spool.streams
    assert stream.written == data
    assert house.intake.in_memory == 0


async def test_what_is_streamed_holds_less_than_a_block_and_that_is_counted(tmp_path: Path) -> None:
    house = House(tmp_path, object_memory=100_000)
    reception = house.begin()
    data = instance(size=400_000)
    for start in range(0, len(data), 50_000):
        reception.write(memoryview(data)[start : start + 50_000])
        assert not reception.congested
        stream = house.spool.streams[0] if house.spool.streams else None
        held = start + 50_000 - len(stream.written) if stream else 0
        if stream is not None and start + 50_000 < len(data):
            assert house.intake.in_memory == held < BLOCK_SIZE
    reception.discard()
    assert house.intake.in_memory == 0


async def test_past_the_memory_for_all_what_is_streamed_holds_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, ingest_memory=300_000, object_memory=100_000)
    reception = house.begin("2.25.1")
    reception.write(memoryview(instance("2.25.1", size=400_000))[:210_000])
    assert not reception.congested
    other = house.begin("2.25.2")
    house.intake.in_memory += 300_001
    assert reception.congested
    assert len(house.spool.streams[0].written) == 210_000
    assert house.intake.in_memory == 300_001
    house.intake.in_memory -= 300_001
    for one in (reception, other):
        one.discard()
    assert house.intake.in_memory == 0


async def test_what_is_refused_from_the_beginning_takes_no_memory(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.spool.full = True
    reception = house.begin()
    reception.write(memoryview(instance(size=90_000)))
    assert not reception.congested
    assert reception._gatherer.held == 0
    reception.finish(lambda status, comment: house.answers.append(status))
    assert house.answers == [0xA700]
    assert (house.intake.in_memory, house.intake.open_receptions) == (0, 0)


async def test_a_fault_in_what_was_read_last_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(reception: StoreReception) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(StoreReception, "_beyond", faulty)
    house = House(tmp_path)
    reception = house.begin()
    data = instance(size=90_000)
    reception.write(memoryview(data)[:-10])
    assert not reception.congested
    reception._gatherer.pass_on()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data[-10:])
        assert reception.read(ours.fileno(), 10, None) == 10
    with pytest.raises(KeyError):
        reception.finish(lambda status, comment: house.answers.append(status))
    assert house.answers == []
    assert (house.intake.in_memory, house.intake.open_receptions) == (0, 0)


@pytest.mark.parametrize("size", [50_000, 300_000])
@pytest.mark.parametrize("where", ["ids", "decisions", "decided", "second lane"])
async def test_a_fault_between_the_last_fragment_and_the_spool_leaves_nothing(
    tmp_path: Path, size: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*arguments: object) -> None:
        raise KeyError("a bug")

    house = House(tmp_path, object_memory=100_000)
    intake = house.intake
    if where == "ids":
        monkeypatch.setattr(intake, "ids", SimpleNamespace(next=faulty))
    elif where == "decisions":
        monkeypatch.setattr(intake, "decisions", SimpleNamespace(of=faulty))
    elif where == "decided":
        monkeypatch.setattr(intake, "decided", faulty)
    else:
        (tmp_path / "rules" / "r.toml").write_text(RULES["route"].replace('"pacs"', '"pacs", "vna"'))
        house.rules = load(tmp_path / "rules", ["pacs", "vna"])
        monkeypatch.setattr(intake, "lanes", {"pacs": house.lane, "vna": SimpleNamespace(reserve=faulty)})
    with pytest.raises(KeyError):
        house.receive(instance(size=size))
    assert house.answers == []
    assert house.spool.entries == []
    assert all(stream.discarded for stream in house.spool.streams)
    assert (house.lane.reserved, intake.in_memory, intake.open_receptions) == (0, 0, 0)


async def test_a_fault_behind_the_spool_does_not_let_go_of_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    submit = house.spool.submit

    def submitting(entry: Any) -> None:
        submit(entry)
        raise KeyError("a bug")

    monkeypatch.setattr(house.spool, "submit", submitting)
    with pytest.raises(KeyError):
        house.receive(instance())
    assert house.intake.open_receptions == 1
    house.sync()
    house.commit()
    await turn()
    assert house.answers == [0x0000]
    assert (house.lane.reserved, house.intake.in_memory, house.intake.open_receptions) == (0, 0, 0)


async def test_small_fragments_are_joined(tmp_path: Path) -> None:
    house = House(tmp_path)
    data = instance(size=200_000)
    house.receive(data, piece=1448)
    (entry,) = house.spool.entries
    assert b"".join(entry.chunks) == data
    assert len(entry.chunks) < 6


async def test_past_the_memory_for_all_what_is_half_received_goes_to_the_disk(tmp_path: Path) -> None:
    house = House(tmp_path, ingest_memory=10_000, object_memory=1 << 20)
    receptions = [house.begin(f"2.25.{n}") for n in range(5)]
    for n, reception in enumerate(receptions):
        reception.write(memoryview(instance(f"2.25.{n}", size=9_000)[:8_000]))
        assert not reception.congested, "its bytes are no longer in memory, so nobody waits for it"
    assert house.intake.in_memory <= 10_000
    assert len(house.spool.streams) >= 3
    for reception in receptions:
        reception.discard()
    assert house.intake.in_memory == 0
    assert house.intake.open_receptions == 0


def stream_until_congested(house: House, data: bytes, sop: str) -> Any:
    reception, at = house.begin(sop), 0
    while at < len(data) and not reception.congested:
        reception.write(memoryview(data)[at : at + 131_066])
        at += 131_066
    return reception


async def test_what_large_objects_hold_for_a_disk_that_stalls_counts_in_the_memory_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.app.reception.CUT_THROUGH", 1 << 40)
    house = House(tmp_path, ingest_memory=20 << 20)
    house.spool.stalled = True
    data = instance(size=6 << 20)
    receptions = [stream_until_congested(house, data, "2.25.1") for _ in range(50)]
    waiting = [stream.pending for stream in house.spool.streams]
    assert max(waiting) <= STREAM_HIGH + BLOCK_SIZE, "each is bounded on its own"
    assert 19 << 20 < sum(waiting) <= house.intake.in_memory < 21 << 20
    assert house.intake.over_memory
    for stream in house.spool.streams:
        stream.drain()
    assert house.resumed, "what waits for the disk drains by itself"
    assert house.intake.in_memory < BLOCK_SIZE * 50
    assert not any(reception.congested for reception in receptions)
    for reception in receptions:
        reception.discard()
    assert house.intake.in_memory == 0


async def test_a_large_object_counts_until_it_is_written_also_when_its_sender_waits_or_has_gone(tmp_path: Path) -> None:
    house = House(tmp_path, object_memory=100_000)
    house.spool.stalled = True
    data = instance(size=400_000)
    house.receive(data)
    assert house.intake.in_memory == len(data)
    house.spool.streams[0].drain()
    assert house.intake.in_memory == 0
    reception = house.begin()
    reception.write(memoryview(data)[:300_000])
    reception.discard()
    assert house.intake.in_memory == 0


async def test_past_the_memory_sockets_rest_until_what_is_being_committed_is_recorded(tmp_path: Path) -> None:
    house = House(tmp_path, ingest_memory=10_000, object_memory=1 << 20)
    house.receive(instance(size=12_000))
    later = house.begin("2.25.2")
    assert later.congested
    house.sync()
    house.commit()
    await turn()
    assert house.resumed == 1
    assert not later.congested
    later.discard()


async def test_whoever_has_rested_longest_goes_on_first_as_soon_as_memory_is_not_over_its_limit(tmp_path: Path) -> None:
    house = House(tmp_path)
    intake, order = house.intake, list[str]()
    intake.in_memory = intake.limits.ingest_memory + 2
    for name in "abc":
        intake.rest(partial(order.append, name))
    intake.freed(1)
    await turn()
    assert order == []
    intake.freed(1)
    assert order == ["a"], "one at once: newcomers could take the room before the next turn"
    await turn()
    assert order == ["a", "b", "c"]


async def test_newcomers_that_fill_memory_again_and_again_keep_nobody_resting(tmp_path: Path) -> None:
    house = House(tmp_path)
    intake, order = house.intake, list[int]()
    intake.in_memory = intake.limits.ingest_memory
    for number in range(10):
        intake.rest(partial(order.append, number))
    for _ in range(10):
        intake.in_memory += 1000
        intake.freed(1000)
        intake.in_memory += 1000  # before the loop turns
        await turn()
        intake.freed(1000)
        intake.in_memory += 1000
        await turn()
        intake.in_memory -= 1000
    assert order == list(range(10))


async def test_those_that_rest_are_not_all_woken_for_the_room_of_one(tmp_path: Path) -> None:
    """Each takes half a percent of the memory when it reads, which is given back later."""
    house = House(tmp_path, ingest_memory=1_000_000, object_memory=4096)
    intake, woken = house.intake, Counter[int]()
    took: list[int] = []

    def resume(number: int) -> None:
        woken[number] += 1
        intake.loop.call_soon(read, number)

    def read(number: int) -> None:
        if intake.over_memory:
            intake.rest(resumes[number])
        else:
            intake.in_memory += 5_000
            took.append(number)

    resumes = [partial(resume, number) for number in range(100)]
    intake.in_memory = 1_000_001
    for one in resumes:
        intake.rest(one)
    intake.freed(5_000)
    while len(took) < 100:
        await turn()
        intake.freed(5_000)
    assert sorted(took) == list(range(100))
    assert woken.total() <= 110, "about once each, not once for each other"


async def test_a_fault_in_one_that_rests_keeps_no_other_resting_and_nothing_from_being_stored(tmp_path: Path) -> None:
    house = House(tmp_path, known=True)
    house.intake.log = log = RecordingLog()

    def faulty() -> None:
        raise RuntimeError("secret")

    house.receive(instance())
    house.intake.rest(faulty)
    house.intake.rest(house._resume)
    house.sync()
    await turn()
    assert house.resumed == 1
    assert len(house.ledger.records) == 1
    ((level, event, values),) = log.lines
    assert (level, event) == ("error", "fault while resuming")
    assert values["fault"].startswith("RuntimeError at test_intake.py:")


async def test_a_fault_while_answering_one_leaves_no_other_without_its_answer(tmp_path: Path) -> None:
    house = House(tmp_path)
    data = instance()
    for fault in (True, False):
        reception = house.begin()
        reception.write(memoryview(data))

        def done(status: int, comment: str, fault: bool = fault) -> None:
            if fault:
                raise KeyError("a bug")
            house.answers.append(status)

        reception.finish(done)
    house.sync()
    assert house.answers == [0x0000]


async def test_a_discarded_reception_leaves_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, object_memory=1000)
    reception = house.begin()
    reception.write(memoryview(instance(size=50_000)))
    reception.discard()
    assert house.spool.streams[0].discarded
    assert house.intake.in_memory == 0
    assert house.answers == []


def test_ids_rise_whatever_the_clock_does() -> None:
    times = iter([1.7e9, 1.7e9, 1.6e9, 1.7e9 + 5, 1.5e9] * 2000)
    ids = IdSource(worker=3, last=0, clock=lambda: next(times))
    numbers = [ids.next() for _ in range(10_000)]
    assert numbers == sorted(set(numbers))


def test_ids_go_on_above_what_the_ledger_knows() -> None:
    assert IdSource(worker=0, last=1 << 62, clock=lambda: 1.7e9).next() > 1 << 62


@pytest.mark.parametrize("end", ["finish", "discard", "refuse"])
async def test_what_is_over_is_gone_before_anybody_looks_for_garbage(tmp_path: Path, end: str) -> None:
    """Else bytes that nobody counts wait for the collector, and every object is received into cold memory."""
    house = House(tmp_path)
    await turn()
    gc.collect()
    gc.disable()
    try:
        reception = house.begin()
        reception.write(memoryview(instance()))
        if end == "discard":
            reception.discard()
        else:
            if end == "refuse":
                reception.write(memoryview(b"no element"))
            reception.finish(lambda status, comment: house.answers.append(status))
        del reception
        left = [kept for kept in gc.get_objects() if isinstance(kept, StoreReception | Gatherer)]
    finally:
        gc.enable()
    assert left == []
    assert house.answers == ([0xC001] if end == "refuse" else [])


async def test_a_fault_between_the_answer_and_the_ledger_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    house = House(tmp_path, known=True)

    def broken(seconds: float, count: int) -> None:
        raise RuntimeError("a fault of ours")

    house.intake.commit_observed = broken
    house.receive(instance("2.25.1"), "2.25.1")
    with pytest.raises(RuntimeError):
        house.sync()
    assert house.answers == [0]
    ((receipts, _, position, owed),) = house.ledger.records
    assert [receipt.info.sop_instance for receipt in receipts] == ["2.25.1"]
    assert (position, owed) == (POSITION, True)
