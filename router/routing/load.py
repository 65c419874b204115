"""Rule files to a rule set: read, check everything, run the tests; all problems of one run at once.

Each problem reads ``file:line:column: rule "name": key: what is wrong, what would do``.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from router.errors import ConfigError
from router.model import Verdict
from router.routing.conditions import Condition, Context, combined, compile_group
from router.routing.facts import Path
from router.routing.lint import lint
from router.routing.rule_tests import RuleTest, compile_test
from router.routing.rules import PRIORITIES, Rule, RuleSet
from router.routing.subjects import subject_of
from router.routing.words import did_you_mean, unknown_destination
from router.toml_positions import KeyPath, Position, in_order, nearest, positions, syntax_problem

MAX_FILE = 4 << 20
"""Bytes of one rule file; more is a mistake, not a rule."""
MAX_NAME = 100
RULE_KEYS = ("name", "match", "not", "any", "all", "to", "priority", "final", "discard")
TOP_KEYS = ("rule", "test")


@dataclass
class _Reader:
    """One pass over all files; collects problems instead of stopping at the first."""

    destinations: Collection[str]
    arrivals: Mapping[str, Collection[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Of rules, with their places."""
    tests: list[RuleTest] = field(default_factory=list)
    wanted: set[Path] = field(default_factory=set)
    file: str = ""
    found: dict[KeyPath, Position] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        line, column = nearest(self.found, path)
        return f"{self.file}:{line}:{column}"

    def told(self, path: KeyPath, text: str, owner: str) -> str:
        key = _key_of(path)
        return f"{self.place(path)}: {owner}{key + ': ' if key else ''}{text}"

    def report(self, path: KeyPath, text: str, owner: str = "") -> None:
        self.problems.append(self.told(path, text, owner))

    def read(self, file: FilePath) -> bytes:
        """The content, for the version; its rules and tests are added."""
        self.file = file.name
        self.found = {}
        text = ""
        try:
            if file.stat().st_size > MAX_FILE:
                self.report((), f"larger than {MAX_FILE >> 20} MiB")
                return b""
            content = file.read_bytes()
            # Editors of Windows begin a file with a mark that TOML does not know.
            text = content.decode("utf-8-sig")
            tables = tomllib.loads(text)
            self.found = positions(text)
            self._tables(tables)
        except OSError as error:
            self.report((), f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self.report((), f"not UTF-8 at byte {error.start}")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(syntax_problem(self.file, text, str(error)))
        except RecursionError:
            self.report((), "is nested too deep")
        else:
            return content
        return b""

    def _tables(self, tables: dict[str, Any]) -> None:
        for key in tables:
            if key not in TOP_KEYS:
                self.report((key,), "unknown key, a rule file holds [[rule]] and [[test]]")
        for kind, handle in (("rule", self._rule), ("test", self._test)):
            found = tables.get(kind, [])
            if not isinstance(found, list):
                self.report((kind,), f"must be written [[{kind}]], in double brackets")
                continue
            for index, table in enumerate(found):
                if isinstance(table, dict):
                    handle(table, (kind, index))
                else:
                    self.report((kind, index), "must be a table")

    def _rule(self, table: dict[str, Any], path: KeyPath) -> None:
        name = self._name(table.get("name"), path)
        owner = f'rule "{name}": '

        def report(at: KeyPath, text: str) -> None:
            self.report(at, text, owner)

        def warn(at: KeyPath, text: str) -> None:
            self.warnings.append(self.told(at, text, owner))

        for key in table:
            if key not in RULE_KEYS:
                report((*path, key), "unknown key" + _rule_key_hint(key))
        context = Context(report, warn, self.wanted, self.arrivals)
        conditions: list[Condition] = []
        if "match" in table:
            conditions += compile_group(table["match"], (*path, "match"), context)
        conditions += [
            combined(key, table[key], (*path, key), context) for key in ("any", "all", "not") if key in table
        ]
        discard, final = table.get("discard", False), table.get("final", False)
        for key, value in (("discard", discard), ("final", final)):
            if not isinstance(value, bool):
                report((*path, key), "must be true or false")
        if discard is True and not {"match", "any", "all", "not"} & table.keys():
            report(
                (*path, "discard"),
                'would drop every object, say which with match; for what no rule takes: rules.on_no_match = "discard"',
            )
        to = self._destinations(table.get("to"), (*path, "to"), report, discard is True)
        priority = table.get("priority", "normal")
        if not isinstance(priority, str) or priority not in PRIORITIES:
            report((*path, "priority"), "must be stat, normal or low")
            priority = "normal"
        line, _ = nearest(self.found, path)
        self.rules.append(
            Rule(
                name=name,
                file=self.file,
                line=line,
                conditions=tuple(conditions),
                to=to,
                priority=PRIORITIES[priority],
                final=final is True,
                discard=discard is True,
            )
        )

    def _name(self, name: Any, path: KeyPath) -> str:
        """A name that messages, logs and metrics can use."""
        at = (*path, "name")
        if not isinstance(name, str) or not name.strip():
            self.report(at, "every rule needs a name, a text")
            return f"at {self.place(path)}"
        if len(name) > MAX_NAME or not name.isprintable():
            self.report(at, f"a name has {MAX_NAME} printable characters at most")
            return f"at {self.place(path)}"
        if name in self.names:
            self.report(at, f'there is another rule "{name}", at {self.names[name]}')
        self.names.setdefault(name, self.place(path))
        return name

    def _destinations(
        self, to: Any, path: KeyPath, report: Callable[[KeyPath, str], None], discard: bool
    ) -> tuple[str, ...]:
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
        test = compile_test(table, path, self.place(path), self.report, self.destinations)
        if test is not None:
            self.tests.append(test)


def _looks_like_rules(file: FilePath) -> bool:
    """A name such as ``10-ai.toml.txt``, which some editors make of ``10-ai.toml``; no copy that others keep."""
    if ".toml" in file.name.lower() and not file.name.endswith("~"):
        return True
    return file.is_dir() and any(file.glob("*.toml"))


def _rule_key_hint(key: str) -> str:
    try:
        subject_of(key)
    except ValueError:
        return did_you_mean(key, RULE_KEYS)
    return f": a condition goes into match = {{ {key} = ... }}"


def _key_of(path: KeyPath) -> str:
    """The key as the file says it, below the rule or test that the message names anyway."""
    return ".".join(str(part) for part in (path if len(path) == 1 else path[2:]))


def load(
    folder: FilePath,
    destinations: Collection[str],
    *,
    on_no_match: str = "hold",
    arrivals: Mapping[str, Collection[str]] | None = None,
    failed: Callable[[Exception], None] | None = None,
) -> RuleSet:
    """Every ``*.toml`` of the folder, in name order, as one rule set.

    Args:
        destinations: Names that rules may send to.
        on_no_match: ``hold``, ``reject`` or ``discard``.
        arrivals: All values that ``Listener``, ``CallingAET`` and ``CalledAET`` can have, to find rules that wait for
            another one; those that are not here, or empty, can have any.
        failed: Told when a rule cannot be evaluated on an object, which is then held.

    Raises:
        ConfigError: With every problem, including tests that fail.
    """
    reader = _Reader(destinations, arrivals or {})
    digest = hashlib.sha256(on_no_match.encode())
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError([f"{folder}: cannot read the rules: {error.strerror}"]) from error
    for file in entries:
        if file.suffix == ".toml":
            first, first_warning = len(reader.problems), len(reader.warnings)
            content = reader.read(file)
            reader.problems[first:] = in_order(file.name, reader.problems[first:])
            reader.warnings[first_warning:] = in_order(file.name, reader.warnings[first_warning:])
            digest.update(file.name.encode() + b"\0" + content + b"\0")
        elif _looks_like_rules(file):
            reader.warnings.append(f"{file.name}: is not read, only files right here whose names end in .toml are")
    if reader.problems:
        raise ConfigError(reader.problems)
    rules = RuleSet(
        rules=tuple(reader.rules),
        on_no_match=Verdict(on_no_match),
        version=digest.hexdigest()[:12],
        wanted=frozenset(reader.wanted),
        warnings=(*reader.warnings, *lint(reader.rules, destinations, Verdict(on_no_match))),
        **({} if failed is None else {"failed": failed}),
    )
    failures = [problem for test in reader.tests if (problem := test.problem(rules))]
    if failures:
        raise ConfigError(failures)
    return rules
