"""Who may not change anything: pages of other sites, names that are not ours, bodies without end."""

from __future__ import annotations

import pytest

from router.web.guard import MAX_BODY, own_host
from router.web.openapi import document
from tests.web.conftest import Admin

UNSAFE = sorted(path.replace("{name}", "pacs") for path, methods in document()["paths"].items() if "post" in methods)


FOREIGN = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": ""},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
)


@pytest.mark.parametrize("path", UNSAFE)
async def test_a_page_of_another_site_changes_nothing(admin: Admin, path: str) -> None:
    for headers in FOREIGN:
        assert (await admin.post(path, None, **headers)).status == 403
    assert admin.control.calls == []


async def test_the_console_and_programs_may(admin: Admin) -> None:
    own = f"http://127.0.0.1:{admin.port}"
    answer = await admin.post("/-/reload", None, origin=own, sec_fetch_site="same-origin")
    assert answer.status == 200
    assert (await admin.post("/-/reload")).status == 200
    assert (await admin.ask("POST", "/-/reload", b"")).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_foreign_name_that_leads_here_is_refused(admin: Admin, method: str) -> None:
    """DNS rebinding: the page's origin and our Host would be the same."""
    path = "/api/v1/status" if method == "GET" else "/-/reload"
    name = f"rebound.example:{admin.port}"
    answer = await admin.ask(method, path, b"", host=name, origin=f"http://{name}")
    assert answer.status == 400
    assert admin.control.calls == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9180", "localhost", "LOCALHOST:9180", "[::1]:9180", "10.0.0.1"]
)
def test_addresses_and_localhost_are_ours(host: str) -> None:
    assert own_host(host)


@pytest.mark.parametrize(
    "host", ["", "router", "localhost.evil.example", "127.0.0.1.nip.example", "[::1", "a@b", "::1]"]
)
def test_names_are_not(host: str) -> None:
    assert not own_host(host)


async def test_a_form_cannot_pose_as_json(admin: Admin) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await admin.post("/api/v1/release", {}, content_type=kind)
        assert answer.status == 415
    assert admin.control.calls == []


async def test_a_body_over_the_limit_is_refused_before_it_is_read(admin: Admin) -> None:
    answer = await admin.ask("POST", "/api/v1/release", b"", content_length=str(MAX_BODY + 1))
    assert answer.status == 413


async def test_a_body_that_hides_its_length_is_refused_when_it_passes_the_limit(admin: Admin) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = (
        f"POST /api/v1/release HTTP/1.1\r\nHost: 127.0.0.1:{admin.port}\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = await admin.raw(head.encode() + chunk * 17 + b"0\r\n\r\n")
    assert answer.status == 413
    assert admin.control.calls == []


async def test_every_answer_carries_the_security_headers(admin: Admin) -> None:
    for path in ("/", "/metrics", "/api/v1/status", "/api/v1/trace", "/nowhere"):
        headers = (await admin.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
