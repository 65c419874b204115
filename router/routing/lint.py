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
    """Rules that never match or are never reached, destinations that get nothing, and objects that no rule takes."""
    if not rules:
        yield f"rules: there are none; every object is {_EFFECT[on_no_match]} (rules.on_no_match)"
        return
    alive: list[Rule] = []
    for rule in rules:
        problem = _dead(rule, alive)
        if problem:
            yield f'{rule.place}: rule "{rule.name}": {problem}'
        else:
            alive.append(rule)
    reached = {name for rule in alive for name in rule.to}
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
        if earlier.final and all(implies(rule.conditions, condition) for condition in earlier.conditions):
            what = "all that it would match" if earlier.conditions else "everything"
            return f'is never reached: "{earlier.name}" before it is final and takes {what}'
    return ""
