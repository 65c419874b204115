"""The ``[[test]]`` tables of rule files: an object as keywords and values, and where it must go. Run by every check and reload."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from router.model import Verdict
from router.routing import values
from router.routing.conditions import resolved, subject_of
from router.routing.facts import FIELDS, Path, RuleFacts
from router.routing.rules import RuleSet
from router.toml_positions import KeyPath

TEST_KEYS = ("name", "given", "to", "discard", "hold", "reject")


class GivenAttributes:
    """An ``AttributeView`` made of what a test says."""

    def __init__(self, given: dict[Path, tuple[str, ...]]) -> None:
        self._given = given

    def texts(self, path: Path) -> tuple[str, ...] | None:
        return self._given.get(path)

    def numbers(self, path: Path) -> tuple[float, ...] | None:
        texts = self._given.get(path)
        if texts is None:
            return None
        numbers = []
        for text in texts:
            try:
                numbers.append(float(text))
            except ValueError:
                continue
        return tuple(numbers)


@dataclass
class RuleTest:
    name: str
    attributes: GivenAttributes
    facts: RuleFacts
    to: frozenset[str]
    verdict: Verdict | None
    """Expected, where the test does not name destinations."""
    place: str = ""

    def problem(self, rules: RuleSet) -> str:
        """What is wrong, or an empty text."""
        explanation = rules.explain(self.attributes, self.facts)
        decision = explanation.decision
        if self.verdict is not None and decision.verdict is self.verdict:
            return ""
        if self.verdict is None and decision.verdict is Verdict.ROUTE and frozenset(decision.destinations) == self.to:
            return ""
        expected = self.verdict or "to " + ", ".join(sorted(self.to))
        got = "to " + ", ".join(decision.destinations) if decision.verdict is Verdict.ROUTE else str(decision.verdict)
        why = "; ".join(
            f'"{line.name}" {"matched" if line.matched else "did not match: " + line.because}'
            for line in explanation.rules
        )
        return f'{self.place}: test "{self.name}": expected {expected}, the rules say {got} ({why})'


def compile_test(
    table: dict[str, Any], path: KeyPath, report: Callable[..., None], destinations: Collection[str]
) -> RuleTest | None:
    """A test, or None after its problems were reported."""
    problems = 0
    name = table.get("name", "")

    def wrong(at: KeyPath, text: str) -> None:
        nonlocal problems
        problems += 1
        report(at, text, f'test "{name}": ')

    if not isinstance(name, str) or not name:
        wrong((*path, "name"), "every test needs a name, a text")
    for key in table:
        if key not in TEST_KEYS:
            wrong((*path, key), f"unknown key, use one of {', '.join(TEST_KEYS)}")
    given = table.get("given")
    if not isinstance(given, dict):
        wrong((*path, "given"), 'must be a table such as { Modality = "CT" }')
        given = {}
    attributes: dict[Path, tuple[str, ...]] = {}
    facts: dict[str, Any] = {}
    for key, value in given.items():
        at = (*path, "given", key)
        try:
            subject = subject_of(key)
            items = value if isinstance(value, list) else [value]
            texts = tuple(resolved(subject, str(item)) for item in items)
            if subject.path is not None:
                attributes[subject.path] = texts
            elif key == "Size":
                facts["size"] = int(values.size_in_bytes(value))
            else:
                facts[FIELDS[key]] = texts[0] if texts else ""
        except ValueError as error:
            wrong(at, str(error))
    verdicts = [
        verdict for verdict in (Verdict.DISCARD, Verdict.HOLD, Verdict.REJECT) if table.get(verdict.value) is True
    ]
    to = table.get("to", [])
    to = [to] if isinstance(to, str) else to
    if not isinstance(to, list) or not all(isinstance(item, str) for item in to):
        wrong((*path, "to"), "must be a list of names of destinations")
        to = []
    for item in to:
        if item not in destinations:
            wrong((*path, "to"), f'unknown destination "{item}"')
    if bool(to) + len(verdicts) != 1:
        wrong(path, "a test expects one thing: to = [...], discard = true, hold = true or reject = true")
    if problems:
        return None
    return RuleTest(
        name, GivenAttributes(attributes), RuleFacts(**facts), frozenset(to), verdicts[0] if verdicts else None
    )
