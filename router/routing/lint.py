"""What is allowed in rules and probably not meant: warnings, each with the place it is about."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from router.model import Verdict
from router.routing.rules import Rule


def lint(rules: Sequence[Rule], destinations: Collection[str], on_no_match: Verdict) -> Iterator[str]:
    """Rules that can never be reached, destinations that get nothing, and objects that no rule takes."""
    stopper: Rule | None = None
    for index, rule in enumerate(rules):
        place = f'{rule.file}:{rule.line}:1: rule "{rule.name}"'
        if stopper is not None:
            yield f'{place}: is never asked, because "{stopper.name}" before it is final and matches everything'
            continue
        for earlier in rules[:index]:
            if earlier.final and earlier.conditions and _implies(rule, earlier):
                yield f'{place}: is never reached, because "{earlier.name}" before it is final and takes all that it would match'
                break
        if _contradicts_itself(rule):
            yield f"{place}: can never match, because it asks for a condition and for its opposite"
        if rule.final and rule.catches_all:
            stopper = rule
    reached = {name for rule in rules for name in rule.to}
    for name in destinations:
        if name not in reached:
            yield f'destination "{name}": no rule sends anything there'
    if not any(rule.catches_all and rule.to for rule in rules):
        effect = {
            Verdict.HOLD: "held until a person or better rules release it",
            Verdict.REJECT: "refused with status 0x0124",
            Verdict.DISCARD: "discarded",
        }.get(on_no_match, "held")
        yield f"rules: there is no rule that takes everything; what no rule matches is {effect} (rules.on_no_match)"


def _implies(narrow: Rule, wide: Rule) -> bool:
    """Whether all that ``narrow`` matches is matched by ``wide``: it has every condition of it, in the same words."""
    words = {condition.text for condition in narrow.conditions}
    return all(condition.text in words for condition in wide.conditions)


def _contradicts_itself(rule: Rule) -> bool:
    words = {condition.text for condition in rule.conditions}
    return any(f"not ({text})" in words for text in words)
