"""Requests made from the API's own description, right and wrong, to a router that has something to show: each gets an
answer that the description names, none of them a fault; bodies that are compressed are refused; and texts that are
scripts stay texts.

The router is a real one with its ledger: an object delivered, one held, one given up.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.web.admin import STATIC
from router.web.openapi import document
from tests.hostile.support import resident
from tests.support.peers import wait_for
from tests.support.plain_dataset import EXPLICIT as WRITER
from tests.support.router_process import RouterProcess
from tests.support.script import CT
from tests.torture.figures import Figure, report
from tests.torture.gossip import Destination, Sender

SCRIPT = "<script>1</script>"
CALLING = "<script>1</scrip"
ACCESSION = "<img src=x>"
RULES = """
[[rule]]
name  = "<script>everything</script>"
match = { PatientID = "<script>*" }
to    = ["folder", "refusing"]
"""
UIDS = ("2.25.61001", "2.25.61002")
"""Delivered to the one and given up by the other destination; held."""
Schema = dict[str, Any]


def data_set(uid: str, patient: str) -> bytes:
    def text(tag: int, vr: str, value: str) -> bytes:
        padding = b"\0" if vr == "UI" else b" "
        return WRITER.element(tag, vr, value.encode() + padding * (len(value) % 2))

    return b"".join(
        (
            text(0x00080016, "UI", CT),
            text(0x00080018, "UI", uid),
            text(0x00080050, "SH", ACCESSION),
            text(0x00080060, "CS", "<B>CT</B>"),
            text(0x00081030, "LO", SCRIPT),
            text(0x00100010, "PN", SCRIPT),
            text(0x00100020, "LO", patient),
            text(0x0020000D, "UI", "2.25.61000"),
            text(0x0020000E, "UI", "2.25.61009"),
        )
    )


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Shown:
    """The router, and a connection to its admin port."""

    router: RouterProcess

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.router.admin, timeout=30)

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = None
        while answer is None:
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, target, body=body, headers=named)
                answer = self._connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionError):
                self._connection.close()
                if fresh:
                    raise
                # It was kept open, and is closed meanwhile: once more.
        lower = {name.lower(): value for name, value in answer.getheaders()}
        return Answered(answer.status, lower, answer.read())

    def close(self) -> None:
        self._connection.close()

    def faults(self) -> list[str]:
        """Lines of the log that tell of a fault of ours."""
        lines = self.router.log.read_text().splitlines()
        return [line for line in lines if not line.startswith("{") or json.loads(line).get("level") == "error"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    with Destination(0xC123, SCRIPT) as refusing:
        router = RouterProcess(
            folder / "router",
            {"folder": f"file://{folder / 'archive'}", "refusing": f"dicom://PEER@127.0.0.1:{refusing.port}"},
            rules=RULES,
        )
        with router:
            with Sender(router.port, CALLING) as sender:
                assert sender.store(UIDS[0], data_set(UIDS[0], SCRIPT)) == 0
                assert sender.store(UIDS[1], data_set(UIDS[1], "nobody")) == 0
            wait_for(lambda: refusing.served > 0, 30, "an attempt at the destination that refuses")
            wait_for(lambda: router.metric("dicom_router_held_instances") == 1, 30, "the held instance")
            shown = Shown(router)
            yield shown
            shown.close()


# Requests ---------------------------------------------------------------------------------------------------

DESTINATIONS = ("folder", "refusing")
KNOWN = (*DESTINATIONS, *UIDS, "2.25.61000", ACCESSION, "0", "1", "*", "2.25.*")
AWKWARD = ("", "\0", "\ud800", "..", "../../etc/passwd", "%", "'", '"; drop table instance; --', SCRIPT, "1" * 200,
           "\u202e", "\r\nSet-Cookie: a=b", "9" * 30, "-1", "1e9", "nan", "\U0001f4a9", "٣")  # fmt: skip
TEXTS = st.one_of(st.sampled_from(KNOWN), st.sampled_from(KNOWN), st.sampled_from(AWKWARD), st.text(max_size=40))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def fitting(schema: Schema) -> st.SearchStrategy[Any]:
    """What the schema describes."""
    kind = schema.get("type")
    if kind == "string":
        return TEXTS
    if kind == "integer":
        return st.integers(schema.get("minimum", -5), min(schema.get("maximum", 1 << 70), 1 << 70))
    if kind == "array":
        return st.lists(fitting(schema["items"]), min_size=schema.get("minItems", 0), max_size=5)
    if kind == "object":
        return st.fixed_dictionaries(
            {}, optional={name: nearly(inner) for name, inner in schema.get("properties", {}).items()}
        )
    raise AssertionError(f"a schema of a new kind: {schema}")


def nearly(schema: Schema) -> st.SearchStrategy[Any]:
    return st.one_of(fitting(schema), fitting(schema), ANYTHING)


@dataclass(frozen=True)
class Asked:
    method: str
    template: str
    target: str
    body: bytes | None
    headers: dict[str, str]


def written(text: object) -> str:
    """For a URL, whatever it holds."""
    return quote(str(text), safe="", errors="surrogatepass")


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    paths = document()["paths"]
    template = draw(st.sampled_from(sorted(paths)))
    method = draw(st.sampled_from(sorted(paths[template])))
    operation = paths[template][method]
    target, query = template, []
    for parameter in operation.get("parameters", []):
        value = draw(nearly(parameter["schema"]))
        if parameter["in"] == "path":
            if draw(st.booleans()):
                value = draw(st.sampled_from(DESTINATIONS))
            target = target.replace("{" + parameter["name"] + "}", written(value))
        elif parameter.get("required") or draw(st.booleans()):
            query.append(f"{parameter['name']}={written(value)}")
    if draw(st.integers(0, 9)) == 0:
        query.append(draw(st.sampled_from(("limit=%ff", "limit", "a=b&&==", "selector=%00", "limit=1&limit=2", "%zz"))))
    if query:
        target += "?" + "&".join(query)
    body, headers = None, {}
    if method == "post":
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        value = draw(nearly(content.get("schema", {"type": "object"})))
        body = draw(
            st.one_of(
                st.just(json.dumps(value).encode()),
                st.just(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
                st.binary(max_size=40),
                st.sampled_from((b"", b"{", b"[" * 5000, b'{"a":' * 3000, b"1" * 5000, b'{"selector":"\\ud800"}')),
            )
        )
        headers["Content_Type"] = draw(st.sampled_from(("application/json", "application/json", "text/plain", "")))
    return Asked(method.upper(), template, target, body, headers)


def judged(shown: Shown, asked: Asked) -> int:
    """One of the statuses that the description names; gives it."""
    answer = shown.ask(asked.method, asked.target, asked.body, **asked.headers)
    described = document()["paths"][asked.template][asked.method.lower()]["responses"]
    assert answer.status < 500, (asked, answer.body)
    # A name that holds a slash, or is empty, leads to a path that is none, or to another one.
    assert str(answer.status) in described or answer.status in (404, 405), (asked, answer.status)
    if answer.headers["content-type"] == "application/json":
        json.loads(answer.body)
    return answer.status


def awkward() -> Iterator[Asked]:
    """Each operation as it should be, and then each awkward text in each of its places."""
    right = {"name": "folder", "destination": "folder", "selector": UIDS[0], "query": "2.25.*", "limit": 10,
             "reason": "r", "destinations": ["folder"], "deliveries": [1]}  # fmt: skip
    for template, methods in sorted(document()["paths"].items()):
        for method, operation in methods.items():
            parameters = operation.get("parameters", [])
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            fields = content.get("schema", {}).get("properties", {})
            places = (*(parameter["name"] for parameter in parameters), *fields)
            for place, text in (("", ""), *((place, text) for place in places for text in AWKWARD)):
                said = right | {place: [text] if isinstance(right.get(place), list) else text}
                query = "&".join(f"{one['name']}={written(said[one['name']])}" for one in parameters
                                     if one["in"] == "query")  # fmt: skip
                body = json.dumps({name: said[name] for name in fields}).encode() if method == "post" else None
                target = template.replace("{name}", written(said["name"])) + (f"?{query}" if query else "")
                headers = {"Content_Type": "application/json"} if method == "post" else {}
                yield Asked(method.upper(), template, target, body, headers)


def test_a_destination_that_is_named_twice_gets_a_released_instance_once(shown: Shown) -> None:
    """One row of the ledger for each destination: the second ended the router."""
    uid = "2.25.61003"
    with Sender(shown.router.port, CALLING) as sender:
        assert sender.store(uid, data_set(uid, "nobody")) == 0
    wait_for(lambda: shown.ask("GET", f"/api/v1/trace?selector={uid}").status == 200, 20, "the ledger to know it")
    asked = json.dumps({"selector": uid, "destinations": ["folder", "folder"]}).encode()
    answer = shown.ask("POST", "/api/v1/release", asked, Content_Type="application/json")
    assert (answer.status, json.loads(answer.body)) == (200, {"released": 1, "discarded": 0, "still_held": 0})
    story = json.loads(shown.ask("GET", f"/api/v1/trace?selector={uid}").body)["instances"][0]
    assert [delivery["destination"] for delivery in story["deliveries"]] == ["folder"]


def test_no_text_makes_a_fault_wherever_it_stands(shown: Shown) -> None:
    statuses: Counter[int] = Counter()
    succeeded = set()
    for asked in awkward():
        status = judged(shown, asked)
        statuses[status] += 1
        if status == 200:
            succeeded.add((asked.template, asked.method))
    operations = {(path, method.upper()) for path, methods in document()["paths"].items() for method in methods}
    assert succeeded == operations, "all of them work, when asked as they should be"
    assert min(statuses[400], statuses[404]) > 20
    assert shown.faults() == []


@pytest.mark.timeout(7200)
def test_no_request_makes_a_fault(shown: Shown, amount: Callable[[str, int, int], int], campaign: bool) -> None:
    examples = amount("api_requests", 500, 100_000)
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=not campaign,
        suppress_health_check=list(HealthCheck),
    )
    @given(asked=requests())
    def ask(asked: Asked) -> None:
        statuses[judged(shown, asked)] += 1

    ask()
    assert shown.faults() == []
    assert shown.router.ready()
    report(
        Figure(
            test="T21",
            promise="requests to the admin API made from its own description, right and wrong",
            goal="0 answers of 5xx, 0 faults in the log",
            found="0 and 0; " + ", ".join(f"{count:,} answered {status}" for status, count in sorted(statuses.items())),
            n=sum(statuses.values()),
            command=f"make torture (tests/web/test_fuzz.py, --amount api_requests={examples})",
        ),
        keep=campaign,
    )


# Compressed bodies ------------------------------------------------------------------------------------------


def packed(kind: str, data: bytes) -> bytes:
    return {"gzip": gzip.compress, "deflate": zlib.compress}.get(kind, bytes)(data)


UNSAFE = sorted(path.replace("{name}", "folder") for path, methods in document()["paths"].items() if "post" in methods)
CODINGS = ("gzip", "deflate", "br", "GZIP", "gzip, identity")


def test_a_compressed_body_is_refused_and_never_unpacked(shown: Shown, campaign: bool) -> None:
    bomb = gzip.compress(b'{"selector": "' + b" " * (512 << 20 >> 3) + b'"}')
    assert len(bomb) < 1 << 20, "within the limit of a body"
    pid = shown.router.process.pid if shown.router.process is not None else 0
    before, asked = resident(pid), 0
    for path in UNSAFE:
        for coding in CODINGS:
            bodies = [packed(coding, b"{}"), b"{}", bomb] if coding == "gzip" else [packed(coding, b"{}"), b"{}"]
            for body in bodies:
                answer = shown.ask("POST", path, body, Content_Type="application/json", Content_Encoding=coding)
                assert answer.status == 415, (path, coding, answer.body)
                asked += 1
        # Without the header it is no JSON; and a coding of the transfer is none that the server takes.
        assert shown.ask("POST", path, bomb, Content_Type="application/json").status == 400
        chunk = gzip.compress(b"{}")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk)
        answer = shown.ask("POST", path, body, Content_Type="application/json", Transfer_Encoding="gzip, chunked")
        assert answer.status == 400, (path, answer.body)
        asked += 2
    assert resident(pid) - before <= 16 << 20
    assert (
        shown.ask("POST", "/-/reload", b"{}", Content_Type="application/json", Content_Encoding="identity").status
        == 200
    )
    assert shown.faults() == []
    report(
        Figure(
            test="T24",
            promise="request bodies that are compressed, bombs of 64 MiB among them",
            goal="all refused, none unpacked",
            found=f"0 taken; memory grew by {max(0, resident(pid) - before) >> 10:,} KiB",
            n=asked,
            command="make torture (tests/web/test_fuzz.py)",
        ),
        keep=campaign,
    )


# Scripts ----------------------------------------------------------------------------------------------------


def pages(described: Schema) -> list[str]:
    return [path for path, methods in described["paths"].items() if "get" in methods]


def test_texts_that_are_scripts_are_data_wherever_they_are_shown(shown: Shown, campaign: bool) -> None:
    """JSON that no browser takes for a page, under a policy that runs nothing."""
    asked = json.dumps({"reason": SCRIPT}).encode()
    assert shown.ask("POST", "/api/v1/destinations/folder/pause", asked, Content_Type="application/json").status == 200
    shown.router.write_rules(RULES + f'[[rule]]\nname = "{SCRIPT}"\nto = ["{SCRIPT}"]\n')
    wait_for(lambda: shown.router.metric("dicom_router_config_last_reload_successful") == 0, 20, "rules refused")
    targets = [path for path in pages(document()) if path not in ("/", "/console.css", "/console.js")]
    targets += [f"/api/v1/{what}?selector={UIDS[0]}" for what in ("trace", "explain")]
    targets += [f"/api/v1/queue?destination={written(SCRIPT)}", f"/api/v1/trace?selector={written(SCRIPT)}"]
    targets += [f"/{written(SCRIPT)}", f"/api/v1/destinations/{written(SCRIPT)}/pause"]
    showing = set()
    for target in targets:
        answer = shown.ask("GET", target)
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/json", "text/plain"), target
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        if b"<script>" in answer.body:
            assert kind == "application/json" or target == "/metrics", target
            showing.add(target.partition("?")[0])
    shown.ask("POST", "/api/v1/destinations/folder/resume", b"{}", Content_Type="application/json")
    shown.router.write_rules(RULES)
    wait_for(lambda: shown.router.metric("dicom_router_config_last_reload_successful") == 1, 20, "good rules")
    assert showing >= {"/api/v1/status", "/api/v1/rules", "/api/v1/trace", "/metrics"}, "nothing was there to be shown"
    report(
        Figure(
            test="T21",
            promise="<script> in data sets, AE titles, reasons, rules and questions, on every page of the API",
            goal="never in a page that a browser runs",
            found=f"0; as data in {len(showing)} of them",
            n=len(targets),
            command="make torture (tests/web/test_fuzz.py)",
        ),
        keep=campaign,
    )


def test_the_console_has_no_way_to_make_markup_of_a_text() -> None:
    """All that its script sets of an element: its text and looks. Strings that are appended become text."""
    script = (STATIC / "console.js").read_text()
    code = re.sub(r"//[^\n]*", "", script)
    assert set(re.findall(r"[\w)\]]\.(\w+)\s*(?:\+|\|\||\?\?)?=(?![=>])", code)) == {
        "textContent", "className", "type", "disabled",
    }  # fmt: skip
    assert not re.findall(
        r"\[[^\]]*\]\s*=(?![=>])|innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function|DOMParser|"
        r"createContextualFragment|setAttribute|setHTML|srcdoc|import|location|javascript:|window\.",
        code,
    )
    made = set(re.findall(r"(?:createElement|element)\((.+?)[,)]", code)) - {"name", "name, text, className"}
    assert made <= {'"button"', '"tr"', '"td"', '"li"', '"ul"', '"p"', "name"}, "no script, frame, link or form"
