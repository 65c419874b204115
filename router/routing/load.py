"""Rule files to a rule set: read, check everything, run the tests; all problems of one run at once.

Each problem reads ``file:line:column: rule "name": key: what is wrong, what would do``.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from router.errors import ConfigError
from router.model import Priority, Verdict
from router.routing.conditions import Condition, compile_group, negated
from router.routing.facts import Path
from router.routing.lint import lint
from router.routing.rule_tests import RuleTest, compile_test
from router.routing.rules import PRIORITIES, Rule, RuleSet
from router.toml_positions import KeyPath, Position, nearest, positions

MAX_FILE = 4 << 20
"""Bytes of one rule file; more is a mistake, not a rule."""
RULE_KEYS = ("name", "match", "not", "any", "all", "to", "priority", "final", "discard")
TOP_KEYS = ("rule", "test")


@dataclass
class _Reader:
    """One pass over all files; collects problems instead of stopping at the first."""

    destinations: Collection[str]
    problems: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    tests: list[RuleTest] = field(default_factory=list)
    wanted: set[Path] = field(default_factory=set)
    file: str = ""
    found: dict[KeyPath, Position] = field(default_factory=dict)

    def report(self, path: KeyPath, text: str, owner: str = "") -> None:
        line, column = nearest(self.found, path)
        key = _key_of(path)
        self.problems.append(f"{self.file}:{line}:{column}: {owner}{key + ': ' if key else ''}{text}")

    def read(self, file: FilePath) -> bytes:
        self.file = file.name
        self.found = {}
        try:
            if file.stat().st_size > MAX_FILE:
                self.problems.append(f"{self.file}:1:1: larger than {MAX_FILE >> 20} MiB")
                return b""
            content = file.read_bytes()
            text = content.decode("utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            self.problems.append(f"{self.file}:1:1: cannot be read: {error.strerror}")
            return b""
        except UnicodeDecodeError as error:
            self.problems.append(f"{self.file}:1:1: not UTF-8 at byte {error.start}")
            return b""
        except tomllib.TOMLDecodeError as error:
            self.problems.append(_syntax(self.file, str(error)))
            return b""
        except RecursionError:
            self.problems.append(f"{self.file}:1:1: nested too deep")
            return b""
        self.found = positions(text)
        for key in values:
            if key not in TOP_KEYS:
                self.report((key,), "unknown key, a rule file holds [[rule]] and [[test]]")
        for kind, handle in (("rule", self._rule), ("test", self._test)):
            tables = values.get(kind, [])
            if not isinstance(tables, list):
                self.report((kind,), f"must be written [[{kind}]]")
                continue
            for index, table in enumerate(tables):
                if isinstance(table, dict):
                    handle(table, (kind, index))
                else:
                    self.report((kind, index), "must be a table")
        return content

    def _rule(self, table: dict[str, Any], path: KeyPath) -> None:
        name = table.get("name")
        line, _ = nearest(self.found, path)
        if not isinstance(name, str) or not name.strip():
            self.report((*path, "name"), "every rule needs a name, a text")
            name = f"rule at {self.file}:{line}"
        elif len(name) > 100:
            self.report((*path, "name"), "longer than 100 characters")
        elif any(rule.name == name for rule in self.rules):
            self.report((*path, "name"), f'there is another rule named "{name}"')
        owner = f'rule "{name}": '

        def report(at: KeyPath, text: str) -> None:
            self.report(at, text, owner)

        for key in table:
            if key not in RULE_KEYS:
                report((*path, key), f"unknown key, use one of {', '.join(RULE_KEYS)}")
        conditions: list[Condition] = []
        if "match" in table:
            conditions += compile_group(table["match"], (*path, "match"), report, self.wanted)
        for key in ("any", "all"):
            if key in table:
                conditions += compile_group({key: table[key]}, path, report, self.wanted)
        if "not" in table:
            conditions.append(negated(compile_group(table["not"], (*path, "not"), report, self.wanted)))
        discard = table.get("discard", False)
        final = table.get("final", False)
        for key, value in (("discard", discard), ("final", final)):
            if not isinstance(value, bool):
                report((*path, key), "must be true or false")
        to = self._destinations(table.get("to"), (*path, "to"), report, discard is True)
        priority = table.get("priority", "normal")
        if priority not in PRIORITIES:
            report((*path, "priority"), "must be stat, normal or low")
        self.rules.append(
            Rule(
                name=name,
                file=self.file,
                line=line,
                conditions=tuple(conditions),
                to=to,
                priority=PRIORITIES.get(priority, Priority.NORMAL) if isinstance(priority, str) else Priority.NORMAL,
                final=final is True,
                discard=discard is True,
            )
        )

    def _destinations(self, to: Any, path: KeyPath, report: Any, discard: bool) -> tuple[str, ...]:
        if to is None:
            if not discard:
                report(path, 'a rule needs destinations, to = ["name"], or discard = true')
            return ()
        if discard:
            report(path, "a rule that discards has no destinations")
        if isinstance(to, str):
            to = [to]
        if not isinstance(to, list) or not to or not all(isinstance(name, str) for name in to):
            report(path, "must be a list of names of destinations")
            return ()
        for index, name in enumerate(to):
            if name not in self.destinations:
                report((*path, index), unknown_destination(name, self.destinations))
        return tuple(dict.fromkeys(to))

    def _test(self, table: dict[str, Any], path: KeyPath) -> None:
        test = compile_test(table, path, self.report, self.destinations)
        if test is not None:
            line, column = nearest(self.found, path)
            test.place = f"{self.file}:{line}:{column}"
            self.tests.append(test)


def unknown_destination(name: str, destinations: Collection[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(destinations), 1)
    hint = f', did you mean "{close[0]}"?' if close else f", there are: {', '.join(sorted(destinations)) or 'none'}"
    return f'unknown destination "{name}"{hint}'


def _key_of(path: KeyPath) -> str:
    """The key as the file says it, below the rule or test that the message names anyway."""
    return ".".join(str(part) for part in path[2:])


def _syntax(file: str, message: str) -> str:
    """tomllib says "... (at line 3, column 7)"; ours stands in front."""
    head, _, place = message.rpartition(" (at ")
    numbers = [part for part in place.rstrip(")").replace(",", "").split() if part.isdigit()]
    if len(numbers) == 2:
        return f"{file}:{numbers[0]}:{numbers[1]}: {head[:1].lower()}{head[1:]}"
    return f"{file}:1:1: {message}"


def load(folder: FilePath, destinations: Collection[str], *, on_no_match: str = "hold") -> RuleSet:
    """Every ``*.toml`` of the folder, in name order, as one rule set.

    Args:
        destinations: Names that rules may send to.
        on_no_match: ``hold``, ``reject`` or ``discard``.

    Raises:
        ConfigError: With every problem, including tests that fail.
    """
    reader = _Reader(destinations)
    digest = hashlib.sha256(on_no_match.encode())
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except OSError as error:
        raise ConfigError([f"{folder}: cannot read the rules: {error.strerror}"]) from error
    for file in files:
        content = reader.read(file)
        digest.update(file.name.encode() + b"\0" + content + b"\0")
    if reader.problems:
        raise ConfigError(reader.problems)
    rules = RuleSet(
        rules=tuple(reader.rules),
        on_no_match=Verdict(on_no_match),
        version=digest.hexdigest()[:12],
        wanted=frozenset(reader.wanted),
        warnings=tuple(lint(reader.rules, destinations, Verdict(on_no_match))),
    )
    failures = [problem for test in reader.tests if (problem := test.problem(rules))]
    if failures:
        raise ConfigError(failures)
    return rules
