"""Broken rule files under load: the old rules stay in force, somebody is told at once, and nothing goes astray."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.routing import load
from tests.support.peers import wait_for
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report
from tests.torture.oracle import Oracle, lines

CASES = Path(__file__).resolve().parents[1] / "routing" / "cases"
GOOD = '[[rule]]\nname = "everything"\nto = ["d0"]\n'
TOLD_WITHIN = 1.0
"""Seconds; and what a shared machine may add to them in a short share."""
SLACK = 4.0


def mutations(chance: random.Random) -> Iterator[bytes]:
    """Rule files with everything that goes wrong with them; most are broken."""
    valid = [path.read_bytes() for path in sorted(CASES.glob("*.toml"))]
    while True:
        text = chance.choice(valid) or GOOD.encode()
        at = chance.randrange(len(text))
        yield chance.choice(
            (
                lambda text=text, at=at: text[:at],
                lambda text=text, at=at: text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :],
                lambda text=text, at=at: text[:at] + text[at + chance.randrange(1, 40) :],
                lambda text=text: text + b'\n[[rule]]\nname = "n"\nto = ["nowhere"]\n',
                lambda text=text: text + b'\n[[rule]]\nname = 7\nto = "d0"\n',
                lambda text=text: text + b'\n[[rule]]\nname = "b"\nmatch = { PatientName = { regex = "(a+)+$(" } }\n',
                lambda: b'[[rule]]\nname = "deep"\nmatch = ' + b"{ all = [" * 2000 + b"\n",
                lambda: b"[[rule]]\nname = " + b'"x' * 100_000,
                lambda: b"\xff\xfe" + GOOD.encode("utf-16-le"),
                lambda: GOOD.replace("d0", "d1").encode() + b"[[rule]]\n",  # it would send all of it elsewhere
            )
        )()


def broken_files(count: int, folder: Path) -> list[bytes]:
    """Those that the rules do not load with."""
    folder.mkdir()
    found: list[bytes] = []
    for data in mutations(random.Random(20261123)):
        (folder / "10-test.toml").write_bytes(data)
        try:
            load(folder, ["d0", "d1"])
        except ConfigError:
            found.append(data)
        if len(found) == count:
            return found
    raise AssertionError("unreachable")


@pytest.mark.timeout(3600)
def test_a_broken_rule_file_changes_nothing_and_is_told_at_once(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("broken_rules", 12, 500)
    files = broken_files(count, tmp_path / "tried")
    slowest = 0.0
    with Oracle(tmp_path, destinations=2) as oracle:
        router = RouterProcess(tmp_path / "router", oracle.urls, rules=GOOD)
        with router:
            rules = router.folder / "rules" / "10-test.toml"
            version = json.loads(router.get("/api/v1/rules"))["version"]
            oracle.send(router.port, senders=2)
            for data in files:
                rules.write_bytes(data)
                slowest = max(slowest, until(router, 0.0))
                told = json.loads(router.get("/api/v1/rules"))
                assert told["version"] == version, "the old rules are in force"
                assert any("10-test.toml" in problem for problem in told["problems"])
                rules.write_text(GOOD)
                until(router, 1.0)
            oracle.stop_sending()
            answered = {uid for uid, _ in oracle.answered()}
            wait_for(lambda: answered <= {uid for uid, _ in lines(oracle.arrivals[0])}, 60, "delivery of all")
            astray = len(lines(oracle.arrivals[1]))
            held = router.metric("dicom_router_held_instances")
    assert (astray, held) == (0, 0)
    assert answered
    assert slowest <= TOLD_WITHIN + (0 if campaign else SLACK)
    report(
        Figure(
            test="T12",
            promise="rule files broken under load: the old rules stay in force, a person is told",
            goal="0 sent astray; told ≤ 1 s",
            found=f"0 of {len(answered):,} objects sent astray or held; told after {slowest:.2f} s at most",
            n=count,
            command=f"make torture (tests/torture/test_rule_reload.py, --amount broken_rules={count})",
        ),
        keep=campaign,
    )


def until(router: RouterProcess, value: float) -> float:
    """Seconds until the metric of the last reload is this."""
    started = time.monotonic()
    wait_for(lambda: router.metric("dicom_router_config_last_reload_successful") == value, 20, "the reload to be told")
    return time.monotonic() - started
