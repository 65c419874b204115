"""The ``[[test]]`` tables of rule files: an object as keywords and values, and where it must go. Run by every check and
reload.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from router.model import Priority, Verdict
from router.routing import values
from router.routing.facts import Path, RuleFacts
from router.routing.rules import PRIORITIES, Explanation, RuleSet
from router.routing.subjects import FREE_TEXT_VRS, Subject, subject_of, text_of
from router.routing.words import did_you_mean, unknown_destination
from router.toml_positions import KeyPath

TEST_KEYS = ("name", "given", "to", "priority", "discard", "hold", "reject")
VERDICTS = (Verdict.DISCARD, Verdict.HOLD, Verdict.REJECT)
SOP_CLASS_UID: Path = (0x00080016,)


class Report(Protocol):
    def __call__(self, path: KeyPath, text: str, owner: str = "") -> None: ...


class GivenAttributes:
    """An ``AttributeView`` made of what a test says."""

    def __init__(self, given: dict[Path, tuple[str, ...]]) -> None:
        self._given = given

    def seen(self, path: Path) -> bool | None:
        # An element of an item is there only within its sequence.
        return path in self._given or any(
            len(known) > len(path) and known[: len(path)] == path for known in self._given
        )

    def texts(self, path: Path) -> tuple[str, ...] | None:
        values = self._given.get(path)
        return () if values is None and self.seen(path) else values

    def numbers(self, path: Path) -> tuple[float, ...] | None:
        texts = self.texts(path)
        if texts is None:
            return None
        numbers = []
        for text in texts:
            try:
                numbers.append(values.number(text))
            except ValueError:
                continue
        return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTest:
    name: str
    place: str
    """``file:line:column``"""
    attributes: GivenAttributes
    facts: RuleFacts
    to: frozenset[str] = frozenset()
    verdict: Verdict = Verdict.ROUTE
    priority: Priority | None = None

    def problem(self, rules: RuleSet) -> str:
        """What is wrong, or an empty text."""
        explanation = rules.explain(self.attributes, self.facts)
        decision = explanation.decision
        right = decision.verdict is self.verdict and frozenset(decision.destinations) == self.to
        if right and self.priority in (None, decision.priority):
            return ""
        expected = _said(self.verdict, sorted(self.to), None if right is False else self.priority)
        got = _said(decision.verdict, decision.destinations, decision.priority if right else None)
        why = _why(rules, explanation, self.to ^ set(decision.destinations))
        return f'{self.place}: test "{self.name}": expected {expected}, the rules say {got} ({why})'


def _said(verdict: Verdict, destinations: Collection[str], priority: Priority | None) -> str:
    text = "to " + ", ".join(destinations) if verdict is Verdict.ROUTE else str(verdict)
    return text if priority is None else f"{text} with priority {priority.name.lower()}"


def _why(rules: RuleSet, explanation: Explanation, differing: Collection[str]) -> str:
    """The rules that have to do with the difference; all that matched, if none has."""
    told = []
    for rule, line in zip(rules.rules, explanation.rules, strict=True):
        if not set(differing).isdisjoint(rule.to) or (rule.discard and line.matched):
            told.append(f'"{line.name}" matched' if line.matched else f'"{line.name}" did not match: {line.because}')
    if not told:
        told = [f'"{line.name}" matched' for line in explanation.rules if line.matched]
    return "; ".join(told) or "no rule matched"


def compile_test(
    table: dict[str, Any], path: KeyPath, place: str, report: Report, destinations: Collection[str]
) -> RuleTest | None:
    """A test, or None after its problems were reported."""
    problems = 0
    name = table.get("name", "")

    def wrong(at: KeyPath, text: str) -> None:
        nonlocal problems
        problems += 1
        report(at, text, f'test "{name}": ')

    if not isinstance(name, str) or not name.strip():
        wrong((*path, "name"), "every test needs a name, a text")
    for key in table:
        if key not in TEST_KEYS:
            wrong((*path, key), "unknown key" + did_you_mean(key, TEST_KEYS))
    attributes, facts = _given(table.get("given"), (*path, "given"), wrong)
    verdicts = []
    for verdict in VERDICTS:
        if verdict.value in table:
            verdicts.append(verdict)
            if table[verdict.value] is not True:
                wrong((*path, verdict.value), "must be true, or be left out")
    to = table.get("to", [])
    to = [to] if isinstance(to, str) else to
    if not isinstance(to, list) or not all(isinstance(item, str) for item in to) or ("to" in table and not to):
        wrong((*path, "to"), "must be a list of names of destinations")
        to = []
    for index, item in enumerate(to):
        if item not in destinations:
            wrong((*path, "to", index), unknown_destination(item, destinations))
    if ("to" in table) + len(verdicts) != 1:
        wrong(path, "a test expects one thing: to = [...], discard = true, hold = true or reject = true")
    priority = table.get("priority")
    if priority is not None and (not isinstance(priority, str) or priority not in PRIORITIES or "to" not in table):
        wrong((*path, "priority"), "must be stat, normal or low, and goes with to")
        priority = None
    if problems:
        return None
    return RuleTest(
        name=name,
        place=place,
        attributes=GivenAttributes(attributes),
        facts=RuleFacts(**facts),
        to=frozenset(to),
        verdict=verdicts[0] if verdicts else Verdict.ROUTE,
        priority=None if priority is None else PRIORITIES[priority],
    )


def _given(given: Any, path: KeyPath, wrong: Any) -> tuple[dict[Path, tuple[str, ...]], dict[str, Any]]:
    attributes: dict[Path, tuple[str, ...]] = {}
    facts: dict[str, Any] = {}
    if not isinstance(given, dict):
        wrong(path, 'must be a table such as { Modality = "CT" }')
        return attributes, facts
    for key, value in given.items():
        try:
            subject = subject_of(key)
            if subject.path is None:
                facts[subject.field] = _fact(subject, value)
            elif subject.path in attributes:
                raise ValueError("is given twice, by keyword and by tag")
            else:
                attributes[subject.path] = _values(subject, value)
        except ValueError as error:
            wrong((*path, key), str(error))
    # What every object has: the SOP class of the C-STORE-RQ is that of the data set (PS3.4 B.2.2.1).
    if SOP_CLASS_UID in attributes and "sop_class" not in facts:
        facts["sop_class"] = next(iter(attributes[SOP_CLASS_UID]), "")
    elif facts.get("sop_class"):
        attributes.setdefault(SOP_CLASS_UID, (facts["sop_class"],))
    return attributes, facts


def _fact(subject: Subject, value: Any) -> Any:
    if isinstance(value, list | dict):
        raise ValueError("has one value, a text")
    if subject.numeric:
        return int(values.size_in_bytes(value))
    return "" if value == "" else _literal(subject, value)


def _values(subject: Subject, value: Any) -> tuple[str, ...]:
    """The values of an element; an empty text or list is an element that is there and empty."""
    items = value if isinstance(value, list) else [value]
    if value in ("", []):
        return ()
    if subject.only_exists:
        raise ValueError(f"is of VR {subject.vr}; give what is in it, or an empty text")
    if subject.numeric:
        return tuple(_shortest(values.number(item)) for item in items)
    if subject.vr in FREE_TEXT_VRS and len(items) > 1:
        raise ValueError(f"has one value ({subject.vr})")
    return tuple("" if item == "" else _literal(subject, item) for item in items)


def _literal(subject: Subject, value: Any) -> str:
    text = text_of(subject, value)
    if values.is_pattern(text) and (subject.path is None or subject.vr in ("AE", "CS", "DA", "DT", "TM", "UI")):
        raise ValueError("is what an object has, so without wildcards")
    return text


def _shortest(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)
