"""What is held: decided again by other rules, also if they came while nobody looked; a change waits for a person."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from router.app.held import BATCH, HeldInstances, Released
from router.model import Decision, Verdict
from tests.net.doubles import RecordingLog
from tests.support.objects import encode, received, sha256, synthetic
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.support.wire import WireSender

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
NOTHING = '[[rule]]\nname = "nothing"\nmatch = { Modality = "XX" }\nto = ["out"]\n'
EVERYTHING = '[[rule]]\nname = "everything"\nto = ["out"]\n'


def store(router: RouterProcess, uid: str, seed: int = 1) -> bytes:
    data = encode(synthetic(sop_instance=uid, seed=seed))
    with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
        assert sender.store(uid, data) == 0x0000
    return data


def held(router: RouterProcess) -> int:
    count: int = json.loads(router.get("/api/v1/status"))["held"]
    return count


def test_a_start_with_better_rules_releases_what_the_old_ones_held(tmp_path: Path) -> None:
    out = tmp_path / "out"
    router = RouterProcess(tmp_path / "router", {"out": f"file://{out}"}, rules=NOTHING)
    with router:
        data = store(router, "2.25.71")
        wait_for(lambda: held(router) == 1, 20, "the object to be held")
    with router:
        assert held(router) == 1, "the same rules hold it again"
    router.write_rules(EVERYTHING)
    with router:
        wait_for(lambda: received(out).get("2.25.71") == [sha256(data)], 20, "the object to be delivered")
        wait_for(lambda: held(router) == 0, 20, "nothing to be held")


def test_an_object_that_comes_while_the_rules_change_is_decided_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = encode(synthetic(sop_instance="2.25.71", seed=1))
    with RouterProcess(tmp_path / "router", {"out": f"file://{out}"}, rules=NOTHING) as router:
        store(router, "2.25.70")
        with closing(WireSender(router.port, (CT, EXPLICIT))) as sender:
            sender.begin("2.25.71", data)
            sender.send_all_but_last()
            wait_for(lambda: held(router) == 1, 20, "the object before it to be held")
            router.write_rules(EVERYTHING)
            router.post("/-/reload")
            wait_for(lambda: held(router) == 0, 20, "the object before it to be released")
            sender.send()
            assert sender.status() == 0x0000
        wait_for(lambda: received(out).get("2.25.71") == [sha256(data)], 20, "the object to be delivered")
        assert held(router) == 0


def test_what_better_rules_discard_is_told_as_what_comes_is(tmp_path: Path) -> None:
    drop = '[[rule]]\nname = "drop"\nmatch = { Modality = "CT" }\ndiscard = true\n'
    out = tmp_path / "out"
    with RouterProcess(tmp_path / "router", {"out": f"file://{out}"}, rules=NOTHING) as router:
        store(router, "2.25.71")
        wait_for(lambda: held(router) == 1, 20, "the object to be held")
        router.write_rules(EVERYTHING + drop)
        router.post("/-/reload")
        wait_for(lambda: held(router) == 0, 20, "the object to be discarded")
        wait_for(lambda: router.metric("dicom_router_rule_matches_total", rule="drop") == 1, 20, "it to be counted")
        assert "instance discarded by a rule" in router.log.read_text()
        (story,) = json.loads(router.get("/api/v1/trace?selector=2.25.71"))["instances"]
        assert [event["what"] for event in story["events"]] == ["discarded"]
    assert received(out) == {}
    (trail,) = (router.folder / "data" / "audit").glob("*.log")
    assert "discard held instances" in trail.read_text()
    assert "discarded, as the rules say" not in trail.read_text(), "it has come once"


def test_a_change_that_is_held_is_released_by_a_person_and_by_no_rule(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with RouterProcess(
        tmp_path / "router",
        {"out": f"file://{out}"},
        rules=EVERYTHING,
        node='on_changed_duplicate = "hold"\n',
    ) as router:
        first, second = store(router, "2.25.71"), store(router, "2.25.71", seed=2)
        wait_for(lambda: held(router) == 1, 20, "the change to be held")
        router.write_rules(NOTHING)
        router.post("/-/reload")
        other = store(router, "2.25.72")
        wait_for(lambda: held(router) == 2, 20, "an object without a rule to be held")
        router.write_rules(EVERYTHING + 'priority = "stat"\n')
        router.post("/-/reload")
        wait_for(lambda: received(out).get("2.25.72") == [sha256(other)], 20, "that one to be released")
        assert received(out)["2.25.71"] == [sha256(first)]
        assert held(router) == 1, "no rule decides of a change"
        explained = json.loads(router.get("/api/v1/explain?selector=2.25.71"))
        assert (explained["verdict"], explained["priority"]) == ("route", "stat")
        assert "it is held until dicom-router release: other bytes" in explained["note"]
        router.post("/api/v1/release", {})
        wait_for(lambda: sha256(second) in received(out)["2.25.71"], 20, "the change to be delivered")


async def test_what_another_worker_has_released_is_not_told_again() -> None:
    class Ledger:
        async def held_instances(self, after: int, *_: object, **__: object) -> list[Any]:
            return [(SimpleNamespace(id=number), None) for number in (1, 2)] if after < 1 else []

        async def route_held(self, *_: object) -> set[int]:
            return {2}

    class Held(HeldInstances):
        async def explain(self, rules: Any, info: Any, _: object) -> Any:
            return SimpleNamespace(decision=Decision(verdict=Verdict.DISCARD, version="2"))

    told: list[object] = []
    router = SimpleNamespace(
        ledger=Ledger(),
        lanes={},
        log=RecordingLog(),
        rules=lambda: None,
        intake=SimpleNamespace(decided=told.append),
        log_discarded=lambda info, decision: told.append(info.id),
    )
    assert await Held(cast("Any", router)).release(None, None, "rules changed") == Released(discarded=1)
    assert told == [Decision(verdict=Verdict.DISCARD, version="2"), 2]


async def test_what_is_decided_again_is_decided_by_the_rules_in_force_when_its_turn_comes() -> None:
    left = [(SimpleNamespace(id=number), None) for number in range(1, BATCH + 2)]
    routed: list[tuple[int, str]] = []
    in_force = ["wrong"]

    class Ledger:
        async def held_instances(self, after: int, limit: int, **_: object) -> list[Any]:
            return [one for one in left if one[0].id > after][:limit]

        async def route_held(self, decisions: list[tuple[int, Decision]], why: str) -> set[int]:
            routed.extend((number, decision.version) for number, decision in decisions)
            in_force[0] = "right"
            return {number for number, _ in decisions}

    class Held(HeldInstances):
        async def explain(self, rules: Any, *_: object) -> Any:
            return SimpleNamespace(decision=Decision(verdict=Verdict.ROUTE, version=rules.version))

    router = SimpleNamespace(
        ledger=Ledger(),
        lanes={},
        log=RecordingLog(),
        rules=lambda: SimpleNamespace(version=in_force[0]),
        intake=SimpleNamespace(decided=lambda decision: None),
    )
    assert await Held(cast("Any", router)).release(None, None, "by an operator") == Released(released=BATCH + 1)
    assert routed[BATCH - 1 :] == [(BATCH, "wrong"), (BATCH + 1, "right")]
