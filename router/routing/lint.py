"""What is allowed in rules and probably not meant: warnings, each with the place it is about."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from router.model import Verdict
from router.routing.implication import contradictory, implies
from router.routing.rules import Rule

_EFFECT = {
    Verdict.HOLD: "held until a person or better rules release it",
    Verdict.REJECT: "refused with status 0x0124",
    Verdict.DISCARD: "discarded",
}


def lint(rules: Sequence[Rule], destinations: Collection[str], on_no_match: Verdict) -> Iterator[str]:
    """Rules that never match, are never reached or never send anything, destinations that get nothing, and objects that
    no rule takes."""
    if not rules:
        yield f"rules: there are none; every object is {_EFFECT[on_no_match]} (rules.on_no_match)"
        return
    alive: list[Rule] = []
    reached: set[str] = set()
    for index, rule in enumerate(rules):
        problem = _dead(rule, alive)
        if not problem:
            alive.append(rule)
            problem = _overruled(rule, alive, rules[index + 1 :])
            if not problem:
                reached.update(rule.to)
        if problem:
            yield f'{rule.place}: rule "{rule.name}": {problem}'
    for name in sorted(set(destinations) - reached):
        yield f'destination "{name}": no rule sends anything there'
    if not any(rule.catches_all and rule.to for rule in alive):
        yield (
            "rules: there is no rule that takes everything; "
            f"what no rule matches is {_EFFECT[on_no_match]} (rules.on_no_match)"
        )


def _dead(rule: Rule, alive: Sequence[Rule]) -> str:
    """Why a rule never does anything, given the rules before it that may."""
    if contradictory(rule.conditions):
        return "can never match: its conditions exclude each other"
    for earlier in alive:
        if earlier.final and _takes_all_of(earlier, rule):
            what = "all that it would match" if earlier.conditions else "everything"
            return f'is never reached: "{earlier.name}" before it is final and takes {what}'
    return ""


def _overruled(rule: Rule, before: Sequence[Rule], after: Sequence[Rule]) -> str:
    """Why a rule that sends never sends anything, although it may match: what it would send is discarded."""
    if rule.discard:
        return ""
    asked = list(before)
    for later in () if rule.final else after:
        asked.append(later)
        if later.final:
            break
    for other in asked:
        if other.discard and _takes_all_of(other, rule):
            return f'never sends anything: "{other.name}" discards all that it would match'
    return ""


def _takes_all_of(other: Rule, rule: Rule) -> bool:
    """Whether ``other`` matches whenever ``rule`` does."""
    return all(implies(rule.conditions, condition) for condition in other.conditions)
