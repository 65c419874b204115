"""A rule set: conditions to decisions. Pure: attributes and facts in, a decision out; asked for every object.

All rules are asked in order; the destinations of those that match add up, until one that is ``final``. A ``discard``
rule that matches drops the object whatever else matched. When nothing matches, ``on_no_match`` decides.

A condition on what cannot be read (an unknown transfer syntax, a head over its limit) is neither true nor false. A
rule that hangs on it does not match; but where it might have stopped the others or dropped the object, or where
nothing else matches, the object is held for a person: it must not go where it should not, nor vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from router.model import Decision, Priority, Verdict
from router.routing.conditions import Condition, failing
from router.routing.facts import AttributeView, NotAvailable, Path, RuleFacts, View

PIXEL_DATA = 0x7FE00008
"""The first of its tags: Float Pixel Data."""
PRIORITIES = {"stat": Priority.STAT, "normal": Priority.NORMAL, "low": Priority.LOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    name: str
    file: str
    line: int
    conditions: tuple[Condition, ...] = ()
    """All must hold; none: the rule matches everything."""
    to: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    final: bool = False
    discard: bool = False

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}:1"

    @property
    def catches_all(self) -> bool:
        return not self.conditions


@dataclass(frozen=True, slots=True)
class RuleExplanation:
    name: str
    matched: bool | None
    """None: not asked, because an earlier rule was final, or cannot be told."""
    because: str
    """The condition that failed, as the rule says it; never a value of the patient's."""


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    rules: tuple[RuleExplanation, ...]


@dataclass(frozen=True, kw_only=True)
class RuleSet:
    rules: tuple[Rule, ...]
    on_no_match: Verdict
    version: str
    wanted: frozenset[Path]
    """Attributes that the rules look at."""
    warnings: tuple[str, ...] = ()
    failed: Callable[[Exception], None] = field(default=lambda error: None)
    """Told when a rule could not be evaluated: our own fault; the object is held."""

    @cached_property
    def of_head(self) -> bool:
        """Whether the decision is known when Pixel Data begins: no rule names the size, or what comes behind."""
        return not any(_names_size(rule.conditions) for rule in self.rules) and all(
            path[0] < PIXEL_DATA for path in self.wanted
        )

    @cached_property
    def repeats(self) -> bool:
        """Whether objects with the same attributes from the same sender have the same decision: no rule names the size
        or the time."""
        return not any(_names_size(rule.conditions) or _is_timed(rule.conditions) for rule in self.rules)

    def decide(self, attributes: AttributeView, facts: RuleFacts) -> Decision:
        """What happens to one instance. Never raises: an object that the rules fail on is held for a person."""
        try:
            return self._decide(View(attributes, facts))
        except Exception as error:
            # Whatever a data set did to a rule, the object must not be lost for it, nor the association.
            self.failed(error)
            return Decision(verdict=Verdict.HOLD, version=self.version)

    def _decide(self, view: View) -> Decision:
        destinations: dict[str, None] = {}
        matched: list[str] = []
        priority = Priority.LOW
        discard = unknown = False
        for rule in self.rules:
            try:
                if failing(rule.conditions, view) is not None:
                    continue
            except NotAvailable:
                if rule.final or rule.discard:
                    return Decision(verdict=Verdict.HOLD, rules=tuple(matched), version=self.version)
                unknown = True
                continue
            matched.append(rule.name)
            discard = discard or rule.discard
            if rule.priority < priority:
                priority = rule.priority
            for name in rule.to:
                destinations[name] = None
            if rule.final:
                break
        if discard:
            return Decision(verdict=Verdict.DISCARD, rules=tuple(matched), version=self.version)
        if not destinations:
            verdict = Verdict.HOLD if unknown else self.on_no_match
            return Decision(verdict=verdict, rules=tuple(matched), version=self.version)
        return _routed(tuple(destinations), priority, tuple(matched), self.version)

    def explain(self, attributes: AttributeView, facts: RuleFacts) -> Explanation:
        """Why: for each rule whether it matched, and if not, because of which condition. Never raises."""
        view = View(attributes, facts)
        lines: list[RuleExplanation] = []
        stopped_by = ""
        for rule in self.rules:
            if stopped_by:
                lines.append(RuleExplanation(rule.name, None, f"not asked: {stopped_by}"))
                continue
            matched, because = _explain(rule, view)
            lines.append(RuleExplanation(rule.name, matched, because))
            if rule.final and matched:
                stopped_by = f'"{rule.name}" is final'
            elif matched is None and (rule.final or rule.discard):
                stopped_by = f'"{rule.name}" cannot be told, so the object is held'
        return Explanation(self.decide(attributes, facts), tuple(lines))


@lru_cache(maxsize=1024)
def _routed(destinations: tuple[str, ...], priority: Priority, rules: tuple[str, ...], version: str) -> Decision:
    """There are few different ones."""
    return Decision(verdict=Verdict.ROUTE, destinations=destinations, priority=priority, rules=rules, version=version)


def _names_size(conditions: tuple[Condition, ...]) -> bool:
    return any(
        (condition.subject is not None and condition.subject.key == "Size")
        or any(_names_size(group) for group in condition.groups)
        for condition in conditions
    )


def _is_timed(conditions: tuple[Condition, ...]) -> bool:
    return any(condition.timed or any(map(_is_timed, condition.groups)) for condition in conditions)


def _explain(rule: Rule, view: View) -> tuple[bool | None, str]:
    unknown: Condition | None = None
    for condition in rule.conditions:
        try:
            if not condition.test(view):
                return False, condition.text
        except NotAvailable:
            unknown = unknown or condition
        except Exception as error:
            return None, f"the rule failed ({type(error).__name__}), so the object is held: {condition.text}"
    if unknown is not None:
        return None, f"cannot be told, the attribute is not readable: {unknown.text}"
    return True, "every condition holds" if rule.conditions else "no conditions"
