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


RULE = b'[[rule]]\nname = "n"\n'
FIXED: dict[str, tuple[bytes, str]] = {
    "an unfinished string": (b'[[rule]]\nname = "everything\nto = ["d0"]\n', "2:19"),
    "an unfinished list": (RULE + b'to = ["d0"', "3:11"),
    "no value": (RULE + b"to =\n", "3:5"),
    "a key twice": (RULE + b'to = ["d0"]\nto = ["d1"]\n', "4:12"),
    "no TOML": (b'{"rule": []}\n', "1:1"),
    "a bad escape": (b'[[rule]]\nname = "\\q"\nto = ["d0"]\n', "2:11"),
    "UTF-16": (b"\xff\xfe" + GOOD.encode("utf-16-le"), "1:1"),
    "an unknown table": (GOOD.encode() + b"\n[[rules]]\n", "5:1"),
    "single brackets": (b'[rule]\nname = "n"\nto = ["d0"]\n', "1:1"),
    "no name": (b'[[rule]]\nto = ["d0"]\n', "1:1"),
    "a name that is a number": (b'[[rule]]\nname = 7\nto = ["d0"]\n', "2:1"),
    "one name twice": (GOOD.encode() + GOOD.encode(), "5:1"),
    "no destination": (RULE + b'match = { Modality = "CT" }\n', "1:1"),
    "an unknown destination": (RULE + b'to = ["d0", "nowhere"]\n', "3:13"),
    "an unknown key": (RULE + b'to = ["d0"]\n  wehn = "now"\n', "4:3"),
    "an unknown keyword": (RULE + b'match = { Modality = "CT", Modalty = "MR" }\nto = ["d0"]\n', "3:28"),
    "an unknown operator": (RULE + b'match = { SliceThickness = { mx = 5 } }\nto = ["d0"]\n', "3:30"),
    "a bad expression": (RULE + b'match = { PatientName = { regex = "(a+)+$(" } }\nto = ["d0"]\n', "3:27"),
    "a bad priority": (RULE + b'to = ["d0"]\npriority = "soon"\n', "4:1"),
    "a rule that discards all": (RULE + b"discard = true\n", "3:1"),
    "a test that fails": (
        GOOD.encode() + b'[[test]]\nname = "t"\ngiven = { Modality = "CT" }\nto = ["d1"]\n', "4:1",
    ),
    "nested without end": (b'[[rule]]\nname = "deep"\nmatch = ' + b"{ all = [" * 2000 + b"\n", "1:1"),
    "10 MB": (GOOD.replace("d0", "d1").encode() + b"# more\n" * 1_500_000, "1:1"),
}  # fmt: skip
"""What is wrong with a file, the file, and the place that must be told: written by hand, so that it is not the loader
that says what is broken."""


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


@pytest.mark.parametrize("what", FIXED)
def test_what_is_wrong_with_a_file_is_told_with_its_place(what: str, tmp_path: Path) -> None:
    data, place = FIXED[what]
    (tmp_path / "10-test.toml").write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, ["d0", "d1"])
    assert refused.value.problems[0].startswith(f"10-test.toml:{place}: "), refused.value.problems


@pytest.mark.timeout(3600)
def test_a_broken_rule_file_changes_nothing_and_is_told_at_once(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    count = amount("broken_rules", 12, 500)
    fixed = list(FIXED.values())
    files = fixed if campaign else fixed[::-7]
    assert any(len(data) > 10_000_000 for data, _ in files)
    files += [(data, "") for data in broken_files(count - len(files), tmp_path / "tried")]
    slowest = 0.0
    with Oracle(tmp_path, destinations=2) as oracle:
        router = RouterProcess(tmp_path / "router", oracle.urls, rules=GOOD)
        with router:
            rules = router.folder / "rules" / "10-test.toml"
            version = json.loads(router.get("/api/v1/rules"))["version"]
            oracle.send(router.port, senders=2)
            for data, place in files:
                rules.write_bytes(data)
                slowest = max(slowest, until(router, 0.0))
                told = json.loads(router.get("/api/v1/rules"))
                assert told["version"] == version, "the old rules are in force"
                assert any(f"10-test.toml:{place}" in problem for problem in told["problems"]), told["problems"]
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
            found=f"0 of {len(answered):,} objects sent astray or held; each told with its place (known beforehand for "
            f"{sum(bool(place) for _, place in files)}, one of 10 MB among them), after {slowest:.2f} s at most",
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
