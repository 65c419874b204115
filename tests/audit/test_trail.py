"""The trail brings every row where it belongs, at least once, and puts the rows of one transfer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from router.audit import trail as trails
from router.audit.trail import Trail
from router.errors import LedgerError
from router.model import AuditRow, Destination
from tests.ledger.support import SilentLog
from tests.support.audit_schema import event_of, instances_of, validate

CT = "1.2.840.10008.5.1.4.1.1.2"
ARCHIVE = Destination(name="archive", kind="dicom", ae_title="PACS", host="10.0.0.9", port=104)


class Rows:
    def __init__(self) -> None:
        self.rows: list[AuditRow] = []
        self.unreadable: Exception | None = None
        self.blocked = False
        self._last = 0

    def add(self, what: str, **facts: Any) -> None:
        self._last += 1
        self.rows.append(AuditRow(id=self._last, at=1000.0 + self._last, what=what, facts=facts))

    def received(
        self,
        patient: str = "P1",
        study: str = "2.25.1",
        *,
        what: str = "received",
        failed: bool = False,
        count: int = 1,
    ) -> None:
        self.add(
            what, calling="CT1", called="ROUTER", address="10.0.0.5", study=study, patient=patient, accession="A",
            classes={CT: count}, failed=failed,
        )  # fmt: skip

    def sent(self, destination: str = "archive", *, failed: bool = False) -> None:
        self.add(
            "sent", destination=destination, study="2.25.1", patient="P1", accession="", classes={CT: 1}, failed=failed
        )

    async def audit_rows(self, after: int, limit: int) -> list[AuditRow]:
        if self.unreadable is not None:
            raise self.unreadable
        return [row for row in self.rows if row.id > after][:limit]

    async def audit_settle(self, told: Sequence[int], begun: Sequence[int]) -> None:
        if self.blocked:
            raise LedgerError("not written: out of disk space")
        self.rows = [replace(row, begun=row.begun or row.id in begun) for row in self.rows if row.id not in told]

    async def audit_waiting(self) -> tuple[int, float | None]:
        if self.unreadable is not None:
            raise self.unreadable
        return len(self.rows), self.rows[0].at if self.rows else None


class Sink:
    place = "a list"

    def __init__(self, settles: float = 0.0) -> None:
        self.settles = settles
        self.lines: list[bytes] = []
        self.broken = False

    async def write(self, messages: Sequence[bytes]) -> None:
        await self.check()
        self.lines += messages

    async def check(self) -> None:
        if self.broken:
            raise ConnectionResetError("gone")

    async def close(self) -> None: ...

    def told(self) -> list[tuple[str, int]]:
        """(event, instances), in order; a message at least is what it must be."""
        found = []
        for line in self.lines:
            head, _, xml = line.partition(b"\xef\xbb\xbf")
            assert head.startswith((b"<84>1 ", b"<85>1 "))
            root = validate(xml.decode())
            found.append((event_of(root), instances_of(root)))
        return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self, settles: float = 0.0) -> None:
        self.rows, self.sink, self.clock = Rows(), Sink(settles), Clock()
        self.waiting: tuple[int, float] = (0, 0.0)
        self.start()

    def start(self) -> None:
        """The router, after a kill if it ran before."""
        self.trail = Trail(
            self.rows, self.sink, node="router-1", destinations=[ARCHIVE], log=SilentLog(), waiting=self._waiting,
            clock=self.clock,
        )  # fmt: skip

    def _waiting(self, count: int, seconds: float) -> None:
        self.waiting = (count, seconds)

    async def after(self, seconds: float) -> float:
        self.clock.now += seconds
        return await self.trail.step()


BEGIN, DONE = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"


async def test_rows_of_one_transfer_are_two_messages() -> None:
    bench = Bench()
    for _ in range(3):
        bench.rows.received(count=10)
        await bench.after(1)
    assert bench.sink.told() == [(BEGIN, 0)]
    await bench.after(trails.IDLE)
    assert bench.sink.told() == [(BEGIN, 0), (DONE, 30)]
    assert bench.rows.rows == []


async def test_a_transfer_without_end_is_told_of_every_minute() -> None:
    bench = Bench()
    for _ in range(40):
        bench.rows.received()
        await bench.after(2)
    assert [count for event, count in bench.sink.told() if event == DONE] == [31]


async def test_each_patient_study_partner_and_direction_has_messages_of_its_own() -> None:
    bench = Bench()
    bench.rows.received("P1")
    bench.rows.received("P2")
    bench.rows.received("P1", "2.25.2")
    bench.rows.sent()
    bench.rows.sent("one that is not configured any more")
    await bench.after(0)
    await bench.after(trails.IDLE)
    assert bench.sink.told() == [(BEGIN, 0)] * 5 + [(DONE, 1)] * 5


async def test_of_what_rules_discarded_it_is_said() -> None:
    bench = Bench()
    bench.rows.received(count=2)
    bench.rows.received("P1", what="discarded", count=3)
    await bench.after(0)
    await bench.after(trails.IDLE)
    assert bench.sink.told() == [(BEGIN, 0), (BEGIN, 0), (DONE, 2), (DONE, 3)]
    assert [b"discarded, as the rules say" in line for line in bench.sink.lines] == [False, True, False, True]


async def test_what_was_refused_or_given_up_is_a_failure_and_began_nothing() -> None:
    bench = Bench()
    bench.rows.received(failed=True)
    bench.rows.sent(failed=True)
    await bench.after(0)
    await bench.after(trails.IDLE)
    assert [event for event, _ in bench.sink.told()] == [DONE, DONE]
    assert all(b'EventOutcomeIndicator="8"' in line and line.startswith(b"<84>") for line in bench.sink.lines)


@pytest.mark.parametrize(
    ("what", "facts", "event"),
    [
        ("started", {}, "Application Activity"),
        ("stopped", {}, "Application Activity"),
        (
            "alert",
            {"listener": "l", "reason": "calling_ae", "address": "10.0.0.66", "calling": "WHO", "count": 3},
            "Security Alert",
        ),
        (
            "alert",
            {"listener": "l", "reason": "tls_certificate", "address": "", "calling": "", "count": 1},
            "Security Alert",
        ),
        ("operator", {"action": "pause", "destination": "archive"}, "Security Alert"),
        ("operator", {"action": "resend", "destination": "archive", "count": 7}, "Security Alert"),
        ("operator", {"action": "rules changed"}, "Security Alert"),
    ],
)
async def test_everything_else_is_a_message_at_once(what: str, facts: dict[str, Any], event: str) -> None:
    bench = Bench()
    bench.rows.add(what, **facts)
    await bench.after(0)
    assert bench.sink.told() == [(event, 0)]
    assert bench.rows.rows == []


async def test_what_a_sink_lost_within_the_time_it_takes_to_settle_is_told_again() -> None:
    bench = Bench(settles=10)
    bench.rows.add("started")
    await bench.after(0)
    await bench.after(5)
    assert bench.rows.rows, "not yet"
    bench.sink.broken = True
    assert await bench.after(1) == trails.FIRST_WAIT
    assert await bench.after(1) == 2 * trails.FIRST_WAIT
    assert bench.waiting[0] == 1
    bench.sink.broken = False
    await bench.after(1)
    assert bench.sink.told() == [("Application Activity", 0)] * 2
    await bench.after(11)
    assert bench.rows.rows == []
    assert bench.waiting == (0, 0.0)


async def test_what_the_ledger_cannot_settle_is_told_once_and_settled_later() -> None:
    bench = Bench()
    bench.rows.add("started")
    bench.rows.blocked = True
    assert await bench.after(0) == trails.FIRST_WAIT
    assert await bench.after(1) == 2 * trails.FIRST_WAIT
    assert bench.waiting[0] == 1
    bench.rows.blocked = False
    assert await bench.after(2) == trails.POLL
    assert bench.sink.told() == [("Application Activity", 0)]
    assert bench.rows.rows == []


async def test_no_fault_ends_the_trail() -> None:
    bench = Bench()
    bench.rows.add("started")
    bench.rows.unreadable = ValueError("a row that is none")
    assert await bench.after(0) == trails.FIRST_WAIT
    await bench.trail.close()
    bench.rows.unreadable = None
    await bench.after(1)
    assert bench.sink.told() == [("Application Activity", 0)]


async def test_a_router_that_starts_again_and_again_tells_of_a_beginning_once() -> None:
    bench = Bench()
    bench.rows.received()
    for _ in range(20):
        await bench.after(1)
        bench.start()
    bench.rows.received()
    await bench.after(1)
    await bench.after(trails.IDLE)
    assert bench.sink.told() == [(BEGIN, 0), (DONE, 2)]
    assert bench.rows.rows == []


async def test_a_beginning_that_has_not_settled_is_told_again_after_a_kill() -> None:
    bench = Bench(settles=10)
    bench.rows.received()
    await bench.after(1)
    bench.start()
    await bench.after(1)
    assert bench.sink.told() == [(BEGIN, 0)] * 2


async def test_a_sink_that_is_away_for_ever_is_asked_ever_more_rarely_and_nothing_is_forgotten() -> None:
    bench = Bench()
    bench.sink.broken = True
    for _ in range(20):
        bench.rows.received()
        wait = await bench.after(60)
    assert wait == trails.LONGEST_WAIT
    assert len(bench.rows.rows) == 20
    bench.sink.broken = False
    await bench.after(60)
    await bench.after(trails.IDLE)
    assert bench.sink.told() == [(BEGIN, 0), (DONE, 20)]


async def test_at_the_end_open_transfers_are_told_of_as_far_as_they_came() -> None:
    bench = Bench()
    bench.rows.received()
    bench.rows.add("stopped")
    await bench.trail.close()
    assert [event for event, _ in bench.sink.told()] == [BEGIN, "Application Activity", DONE]
    assert bench.rows.rows == []


async def test_a_backlog_is_told_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "AT_ONCE", 100)
    bench = Bench()
    for _ in range(250):
        bench.rows.add("started")
    assert await bench.after(0) == 0.0
    assert len(bench.sink.lines) == 100
    while not await bench.after(0):
        pass
    assert len(bench.sink.lines) == 250
