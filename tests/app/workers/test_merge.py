"""What several workers show, as one."""

from __future__ import annotations

from typing import Any

from router.app.workers import merge


def lane(**values: Any) -> dict[str, Any]:
    return {
        "name": "pacs", "url": "dicom://A@b:1", "state": "up", "reason": "", "since": 1.0, "next_attempt_in": None,
        "waiting": 0, "bytes": 0, "oldest_seconds": None, "in_flight": 0, "associations": 0,
        "dead_letters": 0, **values,
    }  # fmt: skip


def status(**values: Any) -> dict[str, Any]:
    return {
        "node": "n1",
        "rules": {"version": "v1", "loaded": 1.0, "problems": []},
        "listeners": [{"name": "l", "port": 1, "ae_titles": ["A"], "associations": 2}],
        "destinations": [lane()],
        "held": 1,
        "dead_letters": 2,
        "spool": {"bytes": 10, "live_bytes": 5, "free_bytes": 100},
        **values,
    }


def test_the_ledger_is_said_once_and_what_each_does_is_summed_up() -> None:
    one = status(destinations=[lane(waiting=7, bytes=70, oldest_seconds=3.0, in_flight=1, associations=2)])
    two = status(
        destinations=[lane(waiting=8, bytes=80, in_flight=4, associations=1, dead_letters=1)],
        held=3,
        spool={"bytes": 1, "live_bytes": 1, "free_bytes": 99},
    )
    merged = merge.status([one, two])
    assert merged["destinations"] == [
        lane(waiting=8, bytes=80, oldest_seconds=3.0, in_flight=5, associations=3, dead_letters=1)
    ]
    assert merged["listeners"][0]["associations"] == 4
    assert (merged["held"], merged["dead_letters"]) == (3, 2)
    assert merged["spool"] == {"bytes": 11, "live_bytes": 6, "free_bytes": 99}


def test_of_a_destination_the_worker_that_fares_worst_is_shown() -> None:
    resting = lane(state="resting", reason="refused", next_attempt_in=5.0)
    assert merge.destination([lane(), resting])["reason"] == "refused"
    assert merge.destination([resting, lane(state="paused", reason="by us")])["state"] == "paused"
    assert merge.destination([lane(state="probing"), lane()])["state"] == "probing"


def test_one_worker_may_know_of_a_destination_that_is_not_configured_and_another_not_yet() -> None:
    gone = lane(name="gone", state="not configured", waiting=3, oldest_seconds=9.0)
    merged = merge.status([status(), status(destinations=[lane(), gone]), status(destinations=[lane(), gone])])
    assert merged["destinations"] == [lane(), gone]


def test_workers_with_different_rules_are_told_of() -> None:
    one = {
        "version": "v1",
        "loaded": 1.0,
        "problems": ["a", "b"],
        "warnings": [],
        "rules": [{"name": "r", "matches": 3}],
    }
    same = {**one, "problems": ["b"], "rules": [{"name": "r", "matches": 4}]}
    assert merge.rule_list([one, same])["rules"] == [{"name": "r", "matches": 7}]
    assert merge.rule_list([one, same])["problems"] == ["a", "b"]
    assert "different rules" in merge.rules([one, {**one, "version": "v2"}])["problems"][-1]
