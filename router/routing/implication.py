"""What follows from conditions without an object: one implies another, or several can never hold together.

Only what is certain is said: "no" means "not known to". So every lint that is built on it can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from router.routing.conditions import Condition

MANY = 3
"""Alternatives (``any``) looked through side by side; with more the cases multiply, and nothing is concluded."""


def implies(conditions: Sequence[Condition], other: Condition) -> bool:
    """Whether ``other`` holds whenever all ``conditions`` hold."""
    flat = _flat(conditions)
    if any(_one_implies(condition, other) for condition in flat):
        return True
    if other.kind == "all":
        return all(implies(flat, part) for group in other.groups for part in group)
    if other.kind == "any":
        return any(all(implies(flat, part) for part in group) for group in other.groups)
    if other.kind == "not" and other.groups:
        return contradictory([*flat, *other.groups[0]])
    return any(all(implies(group, other) for group in condition.groups) for condition in _alternatives(flat))


def contradictory(conditions: Sequence[Condition]) -> bool:
    """Whether the conditions can never all hold."""
    flat = _flat(conditions)
    if any(_exclude_each_other(first, second) for first, second in combinations(flat, 2)):
        return True
    for condition in flat:
        if condition.kind == "not" and condition.groups:
            rest = [other for other in flat if other is not condition]
            if all(implies(rest, part) for part in condition.groups[0]):
                return True
    for condition in _alternatives(flat):
        rest = [other for other in flat if other is not condition]
        if all(contradictory([*rest, *group]) for group in condition.groups):
            return True
    return False


def _alternatives(flat: Sequence[Condition]) -> list[Condition]:
    found = [condition for condition in flat if condition.kind == "any" and condition.groups]
    return found if len(found) <= MANY else []


def _flat(conditions: Sequence[Condition]) -> list[Condition]:
    """``all`` is nothing but its parts."""
    found: list[Condition] = []
    for condition in conditions:
        if condition.kind == "all":
            for group in condition.groups:
                found += _flat(group)
        else:
            found.append(condition)
    return found


def _same_subject(first: Condition, second: Condition) -> bool:
    if first.subject is None or second.subject is None:
        return False
    if first.subject.path is None or second.subject.path is None:
        return first.subject.key == second.subject.key
    return first.subject.path == second.subject.path


def _one_implies(condition: Condition, other: Condition) -> bool:
    if condition.text == other.text:
        return True
    if not _same_subject(condition, other) or condition.kind != "value":
        return False
    if other.kind == "exists":
        # An attribute that has a value is there. A fact exists if it is not empty, and a wildcard matches an empty one.
        return condition.subject is not None and condition.subject.path is not None
    if other.kind != "value":
        return False
    if condition.bounds is not None and other.bounds is not None:
        return other.bounds[0] <= condition.bounds[0] and condition.bounds[1] <= other.bounds[1]
    if not condition.closed or other.one is None:
        return False
    return all(map(other.one, condition.only)) and condition.patterns <= other.patterns


def _exclude_each_other(first: Condition, second: Condition) -> bool:
    if not _same_subject(first, second):
        return False
    kinds = {first.kind, second.kind}
    if "missing" in kinds:
        if kinds == {"missing"}:
            return False
        return "exists" in kinds or (first.subject is not None and first.subject.path is not None)
    if kinds != {"value"} or first.subject is None or not first.subject.single:
        return False
    if first.bounds is not None and second.bounds is not None:
        return first.bounds[1] < second.bounds[0] or second.bounds[1] < first.bounds[0]
    for one, other in ((first, second), (second, first)):
        if one.closed and not one.patterns and other.one is not None and not any(map(other.one, one.only)):
            return True
    return False
