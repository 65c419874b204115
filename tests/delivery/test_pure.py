"""What answers mean, how long a destination rests, how many associations it may have: tables."""

from __future__ import annotations

import pytest

from router.delivery.backoff import rest_seconds
from router.delivery.classify import Meaning, judge_error, judge_status, retry_after
from router.delivery.concurrency import Concurrency
from router.delivery.memory import Budget
from router.errors import AssociationAborted, AssociationRejected, DeliveryError, SpoolCorrupt, SpoolError, TlsFailure
from tests.delivery.support import delivery


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0x0000, Meaning.DELIVERED),
        (0xB000, Meaning.WARNING), (0xB006, Meaning.WARNING), (0xB007, Meaning.WARNING),
        (0x0001, Meaning.WARNING), (0x0107, Meaning.WARNING), (0x0116, Meaning.WARNING),
        (0x0111, Meaning.DELIVERED),
        (0xA700, Meaning.BUSY), (0xA701, Meaning.BUSY), (0x0213, Meaning.BUSY),
        (0x0124, Meaning.MISCONFIGURED),
        (0xA900, Meaning.REFUSED), (0xC000, Meaning.REFUSED), (0xC123, Meaning.REFUSED),
        (0x0117, Meaning.REFUSED), (0x0122, Meaning.REFUSED),
        (0x0110, Meaning.SUSPECT), (0x0210, Meaning.SUSPECT), (0x0211, Meaning.SUSPECT),
        (0xFE00, Meaning.SUSPECT), (0xFF00, Meaning.SUSPECT), (0x1234, Meaning.SUSPECT),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, meaning: Meaning) -> None:
    assert judge_status(status).meaning is meaning


def test_a_duplicate_is_refused_where_the_site_says_so() -> None:
    assert judge_status(0x0111, duplicate_is_done=False).meaning is Meaning.REFUSED


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (AssociationRejected(1, 1, 7), Meaning.MISCONFIGURED),
        (AssociationRejected(2, 3, 1), Meaning.DOWN),
        (AssociationRejected(7, 7, 7), Meaning.DOWN),
        (AssociationAborted("connection lost"), Meaning.UNKNOWN),
        (DeliveryError("connection timed out"), Meaning.DOWN),
        (DeliveryError("no presentation context", temporary=False), Meaning.NO_CONTEXT),
        (TlsFailure("certificate has expired", "tls_certificate"), Meaning.MISCONFIGURED),
        (SpoolCorrupt("checksum"), Meaning.DAMAGED),
        (SpoolError("cannot read"), Meaning.LOCAL),
        (ConnectionRefusedError(111, "Connection refused"), Meaning.DOWN),
        (ZeroDivisionError(), Meaning.SUSPECT),
    ],
)
def test_what_a_failure_means(error: Exception, meaning: Meaning) -> None:
    assert judge_error(error).meaning is meaning


def test_a_destination_rests_from_5_to_300_seconds_spread_by_a_fifth() -> None:
    assert [rest_seconds(n, 0.5) for n in (1, 2, 3, 7, 50)] == [5, 10, 20, 300, 300]
    assert rest_seconds(1, 0.0) == pytest.approx(4)
    assert rest_seconds(1, 1.0) == pytest.approx(6)


def test_a_refused_object_gets_three_attempts_ten_minutes_apart() -> None:
    delays = [retry_after(Meaning.REFUSED, delivery(attempts=done), 0.0) for done in range(3)]
    assert delays == [600, 600, None]


def test_a_suspect_object_gets_ten_attempts_over_a_day_at_least() -> None:
    now, attempts = 0.0, 0
    while (delay := retry_after(Meaning.SUSPECT, delivery(attempts=attempts, first_attempt=0.0), now)) is not None:
        now += delay
        attempts += 1
    assert attempts + 1 >= 10
    assert now >= 86400


def test_associations_grow_by_one_per_clean_cohort_up_to_the_limit() -> None:
    concurrency = Concurrency(3)
    grown = []
    for _ in range(8):
        concurrency.succeeded()
        grown.append(concurrency.allowed)
    assert grown == [2, 2, 3, 3, 3, 3, 3, 3]
    concurrency.failed()
    assert concurrency.allowed == 0
    concurrency.probe()
    assert concurrency.allowed == 1


def test_a_destination_that_takes_no_more_associations_is_not_down() -> None:
    concurrency = Concurrency(4)
    concurrency.succeeded()
    concurrency.refused_another(1)
    assert concurrency.allowed == 1


def test_the_budget_gives_no_more_than_it_has() -> None:
    budget = Budget(10)
    assert budget.take(6)
    assert not budget.take(5)
    budget.give_back(6)
    assert budget.take(10)


def test_what_one_lane_keeps_beyond_its_part_is_let_go_for_another() -> None:
    budget = Budget(100)
    kept = [10] * 9
    greedy = budget.share(lambda: bool(kept) and (greedy.give_back(kept.pop()), True)[1])
    modest = budget.share(lambda: False)
    assert all(greedy.take(size) for size in kept), "while nobody else wants the room"
    assert modest.take(30)
    assert (greedy.used, modest.used, budget.used) == (70, 30, 100)
    assert not greedy.take(10), "what is beyond its part is not taken from another"
    assert modest.take(20)
    assert (greedy.used, modest.used) == (50, 50)
    assert not modest.take(10)
    assert greedy.used == 50, "a part is never touched"


def test_what_cannot_be_spared_is_not_waited_for() -> None:
    budget = Budget(100)
    greedy, modest = budget.share(lambda: False), budget.share(lambda: False)
    assert greedy.take(90)
    assert not modest.take(20)
    assert modest.take(10)


def test_reading_ahead_goes_beyond_the_part_only_while_half_of_all_is_free() -> None:
    budget = Budget(100)
    one, _other, _third, _fourth = (budget.share(lambda: False) for _ in range(4))
    assert one.take_ahead(25)
    assert one.take_ahead(25)
    assert not one.take_ahead(1)
    assert one.take(50), "what has just come may have any free room"
