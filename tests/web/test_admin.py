"""The admin API as its askers see it, over real sockets."""

from __future__ import annotations

import json
import re

import pytest

from router.errors import InvalidRequest, LedgerError
from tests.web.conftest import Admin
from tests.web.fakes import ID, SOP, STUDY


async def test_metrics_are_what_prometheus_scrapes(admin: Admin) -> None:
    answer = await admin.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'dicom_router_destination_up{destination="pacs"} 1.0' in answer.text


async def test_healthy_is_not_the_same_as_ready(admin: Admin) -> None:
    assert (await admin.get("/readyz")).status == 200
    admin.control.reasons = ["disk below the floor", "not listening"]
    answer = await admin.get("/readyz")
    assert (answer.status, answer.text) == (503, "disk below the floor\nnot listening\n")
    assert (await admin.get("/healthz")).status == 200


async def test_reload_answers_with_every_problem(admin: Admin) -> None:
    answer = await admin.post("/-/reload")
    assert (answer.status, answer.json) == (200, {"reloaded": True, "problems": []})
    admin.control.problems = ['rules/10.toml:3:1: rule "x": no such keyword']
    answer = await admin.post("/-/reload")
    assert (answer.status, answer.json) == (422, {"reloaded": False, "problems": admin.control.problems})


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/api/v1/status", ("status",)),
        ("/api/v1/queue", ("queue", None, 100)),
        ("/api/v1/queue?destination=pacs&limit=7", ("queue", "pacs", 7)),
        (f"/api/v1/studies?query={STUDY}", ("studies", STUDY, 100)),
        ("/api/v1/studies?query=A1*", ("studies", "A1*", 100)),
        ("/api/v1/studies", ("studies", "", 100)),
        (f"/api/v1/trace?selector={SOP}", ("trace", SOP)),
        (f"/api/v1/explain?selector={ID}", ("explain", ID)),
        ("/api/v1/rules", ("rules",)),
        ("/api/v1/dead-letters?destination=pacs", ("dead_letters", "pacs", 100)),
    ],
)
async def test_reading(admin: Admin, path: str, call: tuple[object, ...]) -> None:
    answer = await admin.get(path)
    assert answer.status == 200
    assert isinstance(answer.json, dict)
    assert admin.control.calls == [call]


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        ("/api/v1/destinations/pacs/pause", {"reason": "maintenance"}, ("pause", "pacs", "maintenance")),
        ("/api/v1/destinations/pacs/pause", None, ("pause", "pacs", "")),
        ("/api/v1/destinations/a%20b/resume", {}, ("resume", "a b")),
        ("/api/v1/resend", {"selector": STUDY}, ("resend", STUDY, None)),
        ("/api/v1/resend", {"selector": STUDY, "destination": "pacs"}, ("resend", STUDY, "pacs")),
        ("/api/v1/release", None, ("release", None, None)),
        ("/api/v1/release", {"selector": "A1", "destinations": None}, ("release", "A1", None)),
        ("/api/v1/release", {"destinations": ["pacs"]}, ("release", None, ["pacs"])),
        ("/api/v1/dead-letters/retry", {}, ("retry_dead", None, None)),
        ("/api/v1/dead-letters/retry", {"deliveries": [9]}, ("retry_dead", None, [9])),
        ("/api/v1/dead-letters/retry", {"destination": "pacs"}, ("retry_dead", "pacs", None)),
        ("/api/v1/dead-letters/discard", {"deliveries": [9, 10]}, ("discard_dead", [9, 10])),
    ],
)
async def test_acting(admin: Admin, path: str, body: object, call: tuple[object, ...]) -> None:
    answer = await admin.post(path, body)
    assert answer.status == 200
    assert admin.control.calls == [call]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/queue?limit=0",
        "/api/v1/queue?limit=-1",
        "/api/v1/queue?limit=10001",
        "/api/v1/queue?limit=many",
        "/api/v1/queue?limit=%C2%B2",
        "/api/v1/trace",
        "/api/v1/trace?selector=",
        f"/api/v1/trace?selector={'1' * 129}",
        "/api/v1/trace?selector=%00",
        "/api/v1/studies?query=%0A",
    ],
)
async def test_a_question_without_sense_reaches_nobody(admin: Admin, path: str) -> None:
    answer = await admin.get(path)
    assert answer.status == 400
    assert answer.json["error"]
    assert admin.control.calls == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/resend", None),
        ("/api/v1/resend", {"selector": 5}),
        ("/api/v1/resend", {"selector": STUDY, "destinatoin": "pacs"}),
        ("/api/v1/resend", []),
        ("/api/v1/resend", b"{"),
        ("/api/v1/resend", b"\xff\xfe"),
        ("/api/v1/resend", b"[" * 100_000),
        ("/api/v1/release", {"destinations": []}),
        ("/api/v1/release", {"destinations": [1]}),
        ("/api/v1/release", {"selector": ""}),
        ("/api/v1/dead-letters/discard", {}),
        ("/api/v1/dead-letters/discard", {"deliveries": []}),
        ("/api/v1/dead-letters/discard", {"deliveries": ["9"]}),
        ("/api/v1/dead-letters/discard", {"deliveries": [True]}),
        ("/api/v1/dead-letters/discard", {"deliveries": [2**63]}),
        ("/api/v1/destinations/pacs/pause", {"reason": 1}),
        ("/api/v1/destinations/pacs/pause", {"reason": "r" * 201}),
        ("/api/v1/destinations/pacs/pause", {"reason": "a line\nand another"}),
        ("/api/v1/destinations/pacs/pause", {"reason": "\ud800"}),
        ("/-/reload", {"now": True}),
    ],
)
async def test_an_action_without_sense_reaches_nobody(admin: Admin, path: str, body: object) -> None:
    answer = await admin.post(path, body)
    assert answer.status == 400
    assert answer.json["error"]
    assert admin.control.calls == []


async def test_what_is_not_here_is_404_and_says_so(admin: Admin) -> None:
    answer = await admin.get("/api/v1/queue?destination=pax")
    assert (answer.status, answer.json) == (404, {"error": "no destination 'pax'; there is pacs"})
    assert (await admin.get("/api/v2/status")).status == 404
    assert (await admin.get("/../etc/passwd")).status == 404


async def test_a_method_that_a_path_does_not_know_is_405(admin: Admin) -> None:
    assert (await admin.post("/api/v1/status")).status == 405
    assert (await admin.get("/-/reload")).status == 405
    assert admin.control.calls == []


async def test_failures_of_the_store_are_503_and_of_ours_500_without_details(admin: Admin) -> None:
    admin.control.failure = LedgerError("database is locked")
    answer = await admin.get("/api/v1/status")
    assert (answer.status, answer.json) == (503, {"error": "database is locked"})
    admin.control.failure = InvalidRequest("no")
    assert (await admin.get("/api/v1/status")).status == 400
    admin.control.failure = ValueError("CANARY^PATIENT")
    answer = await admin.get("/api/v1/status")
    assert answer.status == 500
    assert "CANARY" not in answer.text


async def test_the_console_brings_everything_itself(admin: Admin) -> None:
    page = await admin.get("/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.text, "an asset from elsewhere"
    assert not re.search(r"\son\w+=|<style|style=", page.text), "inline script or style, which the policy forbids"
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert (await admin.get(path)).status == 200
    script = (await admin.get("/console.js")).text
    assert "innerHTML" not in script
    for identifier in re.findall(r'byId\("([\w-]+)"\)', script):
        assert f'id="{identifier}"' in page.text


async def test_the_description_names_every_route(admin: Admin) -> None:
    described = (await admin.get("/api/v1/openapi.json")).json
    from router.web.admin import create_app

    app = create_app(admin.control, admin.metrics)
    served = {
        (route.path, method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == served
    assert json.dumps(described)
