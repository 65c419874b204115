"""Rule files: any text becomes a rule set or problems that say where, and no rule set fails on an object.

* A key stands where ``toml_positions`` says: every key that ``tomllib`` finds has a place, within the text, that begins
  with it.
* Each problem begins with the file, and a line and column that are in it.
* A decision is the same each time, and the one that is explained.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from router.dicom.attributes import Attributes
from router.errors import ConfigError
from router.model import Verdict
from router.routing import RuleSet, load
from router.toml_positions import KeyPath, positions
from tests.routing.rulebook import DESTINATIONS, data_set, facts

PROBLEM = re.compile(r"r\.toml:(\d+):(\d+): \S")


@lru_cache(maxsize=1)
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-rules-"))


@lru_cache(maxsize=1)
def objects() -> list[Attributes]:
    return [
        data_set(),
        data_set(Modality="CT", PatientID="VIP1", StudyDate="20260131", Rows=512, SliceThickness="0.5"),
        data_set(Modality="", ImageType="ORIGINAL\\PRIMARY", PatientAge="018Y", StudyTime="1230", PatientName="A^B"),
        data_set(Modality=b"\xff\xfe", StudyDate=b"2026.01.31", SliceThickness=b"1_0\\nan", PatientAge=b"?"),
        data_set(available=False),
    ]


def check(data: bytes) -> None:
    """No options: the input is the file."""
    placed(data)
    failures: list[Exception] = []
    file = folder() / "r.toml"
    file.write_bytes(data)
    try:
        rules = load(folder(), DESTINATIONS, arrivals={"Listener": ["main"]}, failed=failures.append)
    except ConfigError as error:
        lines = data.decode("utf-8", "replace").split("\n")
        for problem in error.problems:
            match = PROBLEM.match(problem)
            assert match, problem
            line, column = int(match[1]), int(match[2])
            assert 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1]) + 2, problem
        return
    decided(rules)
    assert not failures, failures


def decided(rules: RuleSet) -> None:
    for attributes in objects():
        for arrival in (facts(), facts(size=1 << 20, sop_class="1.2.840.10008.5.1.4.1.1.2", listener="main")):
            decision = rules.decide(attributes, arrival)
            explanation = rules.explain(attributes, arrival)
            assert rules.decide(attributes, arrival) == decision == explanation.decision
            if decision.verdict is Verdict.ROUTE:
                matched = [line.name for line in explanation.rules if line.matched]
                assert list(decision.rules) == matched
                assert set(decision.destinations) <= set(DESTINATIONS)


def placed(data: bytes) -> None:
    try:
        text = data.decode("utf-8-sig")
        tables = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return
    try:
        found = positions(text)
    except RecursionError:
        return
    lines = text.split("\n")
    for path in paths(tables):
        assert path in found, f"no position for {path}"
        line, column = found[path]
        assert 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1]), f"{path} at {line}:{column}"
        if isinstance(path[-1], str) and path[-1].isidentifier():
            rest = lines[line - 1][column - 1 :]
            assert rest[0] in "[\"'" or rest[0].isalnum() or rest[0] in "_-", f"{path} at {line}:{column}"


def paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key and every index of a TOML document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from paths(below, (*path, index))
