"""Commands that ask a running router: what they ask, what they print, and how they end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from router.app.cli.client import admin_bind
from router.app.cli.exits import Failure
from router.app.cli.root import cli
from tests.web.fakes import DELIVERY, ID, LANE, SOP, STUDY


class Router(ThreadingHTTPServer):
    """Answers with what a test sets; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Router

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        status, value = self.server.answers.get(self.path.partition("?")[0], (200, {}))
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def router() -> Iterator[Router]:
    server = Router()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(router: Router, *arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--url", router.url], input=input)


STATUS = {
    "node": "router-1",
    "version": "0.1.0",
    "state": "running",
    "started": 1_700_000_000.0,
    "rules": {"version": "abcdef012345", "loaded": 1_700_000_000.0, "problems": ["10.toml:1:1: wrong"]},
    "listeners": [{"name": "0.0.0.0:11112", "ae_titles": ["ROUTER"], "associations": 2}],
    "destinations": [LANE],
    "held": 4,
    "dead_letters": 1,
    "spool": {"bytes": 10 << 20, "free_bytes": 100 << 30},
}
STORY = {
    "instance": ID,
    "sop_instance": SOP,
    "study": STUDY,
    "accession": "A1",
    "size": 500_000,
    "received": 1_700_000_000.0,
    "calling": "CT1",
    "called": "ROUTER",
    "address": "127.0.0.1",
    "verdict": "route",
    "rules": ["everything"],
    "rule_version": "abcdef012345",
    "deliveries": [{"destination": "pacs", "state": "done", "attempts": 2, "updated": 1_700_000_001.0}],
    "events": [{"at": 1_700_000_000.5, "what": "retry", "destination": "pacs", "detail": "busy"}],
}
STUDY_ROW = {
    "study": STUDY,
    "accession": "A1",
    "modality": "CT",
    "instances": 3,
    "last": 1.0,
    "delivered": 2,
    "waiting": 1,
}
ANSWERS = {
    "/api/v1/status": STATUS,
    "/api/v1/queue": {"destinations": [LANE], "deliveries": [DELIVERY]},
    "/api/v1/studies": {"studies": [STUDY_ROW]},
    "/api/v1/trace": {"instances": [STORY, {**STORY, "rules": None, "calling": None}], "total": 1902},
    "/api/v1/dead-letters": {"dead_letters": [{**DELIVERY, "last_status": 0xC000, "updated": 1.0}], "total": 3},
    "/api/v1/explain": {
        "verdict": "route",
        "destinations": ["pacs"],
        "priority": "stat",
        "version": "abcdef012345",
        "rules": [{"name": "ct", "matched": False, "because": 'Modality = "CT"'}],
    },
}


@pytest.mark.parametrize(
    ("arguments", "asked", "shown"),
    [
        (["status"], "/api/v1/status", ["router-1", "ROUTER", "4 objects", "resting", "connection refused", "66min"]),
        (["status"], "/api/v1/status", ["10.toml:1:1: wrong", "10 MiB used", "100 GiB free", "12s"]),
        (["queue"], "/api/v1/queue?limit=50", ["pacs", SOP, "connection refused"]),
        (["queue", "pacs", "-n", "5"], "/api/v1/queue?destination=pacs&limit=5", [ID]),
        (["studies", "A*"], "/api/v1/studies?query=A%2A&limit=50", [STUDY, "A1", "CT"]),
        (["studies"], "/api/v1/studies?query=&limit=50", [STUDY]),
        (
            ["trace", SOP],
            f"/api/v1/trace?selector={SOP}",
            ["from CT1", "everything", "2 attempts", "busy", "1900 more"],
        ),
        (["dead-letters", "list"], "/api/v1/dead-letters?limit=50", ["9", "0xC000", "2 more"]),
        (["dead-letters", "list", "pacs"], "/api/v1/dead-letters?destination=pacs&limit=50", [SOP]),
        (
            ["explain", SOP],
            f"/api/v1/explain?selector={SOP}",
            ["route to pacs", "priority stat", 'no   ct  Modality = "CT"'],
        ),
    ],
)
def test_looking(router: Router, arguments: list[str], asked: str, shown: list[str]) -> None:
    router.answers = {path: (200, value) for path, value in ANSWERS.items()}
    result = run(router, *arguments)
    assert result.exit_code == 0, result.output
    assert router.asked == [("GET", asked, None)]
    for text in shown:
        assert text in result.output
    assert "\x1b" not in result.output, "colour though nobody sees it"


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["queue"], ["studies", "A1"], ["trace", SOP], ["dead-letters", "list"], ["explain", SOP]],
)
def test_every_listing_has_json(router: Router, arguments: list[str]) -> None:
    router.answers = {path: (200, value) for path, value in ANSWERS.items()}
    result = run(router, *arguments, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) in ANSWERS.values()


@pytest.mark.parametrize(
    "arguments", [["queue"], ["status"], ["studies", "x"], ["trace", "x"], ["dead-letters", "list"]]
)
def test_nothing_to_show_is_no_failure(router: Router, arguments: list[str]) -> None:
    assert run(router, *arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (["pause", "pacs", "--reason", "night"], "/api/v1/destinations/pacs/pause", {"reason": "night"}),
        (["resume", "a/b c"], "/api/v1/destinations/a%2Fb%20c/resume", {}),
        (["resend", STUDY], "/api/v1/resend", {"selector": STUDY}),
        (["resend", "A1", "--to", "pacs"], "/api/v1/resend", {"selector": "A1", "destination": "pacs"}),
        (["release", "--all"], "/api/v1/release", {}),
        (
            ["release", "A1", "--to", "a", "--to", "b"],
            "/api/v1/release",
            {"selector": "A1", "destinations": ["a", "b"]},
        ),
        (["reload"], "/-/reload", {}),
        (["dead-letters", "retry", "9", "10"], "/api/v1/dead-letters/retry", {"deliveries": [9, 10]}),
        (["dead-letters", "retry", "--all"], "/api/v1/dead-letters/retry", {}),
        (["dead-letters", "retry", "--all", "--to", "pacs"], "/api/v1/dead-letters/retry", {"destination": "pacs"}),
        (["dead-letters", "discard", "9", "--yes"], "/api/v1/dead-letters/discard", {"deliveries": [9]}),
    ],
)
def test_acting(router: Router, arguments: list[str], path: str, body: object) -> None:
    result = run(router, *arguments)
    assert result.exit_code == 0, result.output
    assert router.asked == [("POST", path, body)]
    assert result.output.strip()
    assert json.loads(run(router, *arguments, "--json").output) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["release"],
        ["release", "A1", "--all"],
        ["dead-letters", "retry"],
        ["dead-letters", "retry", "9", "--all"],
        ["dead-letters", "retry", "9", "--to", "pacs"],
        ["dead-letters", "discard"],
        ["dead-letters", "discard", "0", "-y"],
        ["queue", "-n", "0"],
        ["explain", SOP, "--calling", "CT1"],
    ],
)
def test_what_could_mean_two_things_is_not_done(router: Router, arguments: list[str]) -> None:
    result = run(router, *arguments)
    assert result.exit_code == 2
    assert router.asked == []


def test_discarding_asks_first(router: Router) -> None:
    assert run(router, "dead-letters", "discard", "9", input="n\n").exit_code == 1
    assert router.asked == []
    assert run(router, "dead-letters", "discard", "9", input="y\n").exit_code == 0
    assert len(router.asked) == 1


@pytest.mark.parametrize(
    ("status", "value", "code", "text"),
    [
        (404, {"error": "no destination 'pax'; there is pacs"}, 1, "no destination 'pax'; there is pacs"),
        (400, {"error": "limit: a number"}, 2, "limit: a number"),
        (503, {"error": "database is locked"}, 75, "database is locked"),
        (500, {"error": "internal error; see the log"}, 1, "see the log"),
        (502, b"<html>Bad Gateway</html>", 1, "502"),
        (200, b"<html>another program</html>", 69, "not as a dicom-router does"),
        (200, b"[]", 69, "not as a dicom-router does"),
    ],
)
def test_refusals_reach_people_and_scripts(router: Router, status: int, value: Any, code: int, text: str) -> None:
    router.answers["/api/v1/queue"] = (status, value)
    result = run(router, "queue", "pax")
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_a_refused_reload_exits_78_with_every_problem(router: Router) -> None:
    problems = ['10.toml:3:1: rule "x": Modalty: did you mean Modality?', "10.toml:9:1: test fails"]
    router.answers["/-/reload"] = (422, {"reloaded": False, "problems": problems})
    result = run(router, "reload")
    assert result.exit_code == 78
    assert result.stderr.splitlines() == problems
    assert json.loads(run(router, "reload", "--json").stdout) == {"reloaded": False, "problems": problems}


def test_a_router_that_takes_long_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.app.cli.client.TIMEOUT", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(cli, ["release", "--all", "--url", url])
    assert result.exit_code == 75
    assert "may go on" in result.output
    assert "Is it running" not in result.output


def test_the_address_is_read_of_a_file_that_an_editor_of_windows_saved(tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_bytes(b'\xef\xbb\xbf[admin]\r\nbind = "127.0.0.1:9999"\r\n')
    assert admin_bind(tmp_path / "router.toml", {}) == "127.0.0.1:9999"


def test_no_router_exits_69_and_says_what_to_do() -> None:
    result = CliRunner().invoke(cli, ["status", "--url", "127.0.0.1:1"])
    assert result.exit_code == 69
    assert "http://127.0.0.1:1" in result.stderr
    assert "dicom-router run" in result.stderr


def test_a_proxy_of_the_environment_is_not_asked(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run(router, "status").exit_code == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://[::1", "file:///etc/passwd", "http://a:b"])
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    result = CliRunner().invoke(cli, ["status", "--url", url])
    assert result.exit_code == 2
    assert "http://127.0.0.1:9180" in result.stderr


def test_control_characters_of_a_peer_do_not_reach_the_terminal(router: Router) -> None:
    router.answers["/api/v1/trace"] = (200, {"instances": [{**STORY, "calling": "CT\x1b]0;x\x07", "events": []}]})
    router.answers["/api/v1/queue"] = (200, {"deliveries": [{**DELIVERY, "modality": "\x1b[2J"}]})
    assert "\x1b" not in run(router, "trace", "x").output
    assert "\x1b" not in run(router, "queue").output


def test_the_address_is_that_of_the_configuration(tmp_path: Path, router: Router) -> None:
    config = tmp_path / "router.toml"
    config.write_text(f'[admin]\nbind = "{router.url.removeprefix("http://")}"\n[nonsense]\n')
    result = CliRunner().invoke(cli, ["status", "-c", str(config)])
    assert result.exit_code == 0
    assert router.asked


def test_conf_d_and_the_environment_win_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "router.toml"
    config.write_text("[node]\n")
    assert admin_bind(None, {}) == "127.0.0.1:9180"
    assert admin_bind(config, {}) == "127.0.0.1:9180"
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "admin.toml").write_text('[admin]\nbind = "127.0.0.2:1"\n')
    assert admin_bind(config, {}) == "127.0.0.2:1"
    assert admin_bind(config, {"DICOM_ROUTER__ADMIN__BIND": "[::1]:2"}) == "[::1]:2"
    assert admin_bind(config, {"DICOM_ROUTER__ADMIN__BIND": "0.0.0.0:2"}) == "127.0.0.1:2"


def test_a_configuration_that_cannot_be_read_exits_78(tmp_path: Path) -> None:
    config = tmp_path / "router.toml"
    config.write_text("[admin\n")
    with pytest.raises(Failure) as caught:
        admin_bind(config, {})
    assert caught.value.exit_code == 78
    assert "line 1" in caught.value.message
