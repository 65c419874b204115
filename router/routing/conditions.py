"""Conditions: what the tables ``match``, ``not``, ``any`` and ``all`` of a rule mean, compiled to tests of a ``View``.

Several keys are AND, a list is OR. A multi-valued element matches if any of its values does; a missing one never matches, except
``{ exists = false }``. Every mistake is reported with its key path and what would do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.dicom import dictionary, uids
from router.routing import values
from router.routing.facts import FACTS, Path, View
from router.toml_positions import KeyPath

Report = Callable[[KeyPath, str], None]
"""Told of every problem: key path within the file, and what is wrong."""

NUMERIC_VRS = frozenset(("IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"))
DATE_VRS = frozenset(("DA", "DT"))
OPERATORS = ("regex", "min", "max", "exists", "within")
COMBINATORS = ("any", "all", "not")


@dataclass(frozen=True, slots=True)
class Condition:
    """One test with the text that explains it."""

    text: str
    test: Callable[[View], bool]
    facts_only: bool = False


def failing(conditions: tuple[Condition, ...], view: View) -> Condition | None:
    """The first condition that does not hold."""
    for condition in conditions:
        if not condition.test(view):
            return condition
    return None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a key names: an attribute by path, or a fact of the arrival."""

    key: str
    path: Path | None
    vr: str

    @property
    def numeric(self) -> bool:
        return self.vr in NUMERIC_VRS or self.key == "Size"


def subject_of(key: str) -> Subject:
    """The attribute or fact that ``key`` names. Raises ValueError with a suggestion."""
    if key in FACTS:
        return Subject(key, None, "")
    path: list[int] = []
    vr = ""
    parts = key.split(".")
    for index, part in enumerate(parts):
        if index % 2:
            if not part.isdigit():
                raise ValueError(
                    f'"{part}" must be the number of an item, as in "RequestAttributesSequence.0.AccessionNumber"'
                )
            path.append(int(part))
            continue
        tag = dictionary.parse_tag(part)
        if tag is None:
            tag = dictionary.tag_of(part)
        if tag is None:
            raise ValueError(_unknown(part))
        path.append(tag)
        vr = dictionary.vr_of(tag) or "UN"
        if index + 1 < len(parts) and vr not in ("SQ", "UN"):
            raise ValueError(f'"{part}" is not a sequence')
    if len(parts) % 2 == 0:
        raise ValueError("a path ends with an attribute, not with the number of an item")
    return Subject(key, tuple(path), vr)


def _unknown(word: str) -> str:
    close = [name for name in FACTS if name.lower() == word.lower()] or dictionary.suggestions(word)
    hint = f', did you mean "{close[0]}"?' if close else '; use a keyword of the dictionary or "gggg,eeee"'
    return f"unknown keyword{hint}"


def compile_group(table: Any, path: KeyPath, report: Report, wanted: set[Path]) -> tuple[Condition, ...]:
    """All conditions of one table (AND)."""
    if not isinstance(table, dict):
        report(path, 'must be a table such as { Modality = "CT" }')
        return ()
    conditions = []
    for key, value in table.items():
        at = (*path, key)
        if key in COMBINATORS:
            conditions.append(_combinator(key, value, at, report, wanted))
            continue
        try:
            subject = subject_of(key)
        except ValueError as error:
            report(at, str(error))
            continue
        if subject.path is not None:
            wanted.add(subject.path)
        condition = _compile(subject, value, at, report)
        if condition is not None:
            conditions.append(condition)
    return tuple(conditions)


def _combinator(key: str, value: Any, path: KeyPath, report: Report, wanted: set[Path]) -> Condition:
    if key == "not":
        return negated(compile_group(value, path, report, wanted))
    if not isinstance(value, list) or not value:
        report(path, f"must be a list of tables: {key} = [{{ ... }}, {{ ... }}]")
        return Condition(key, lambda view: False)
    groups = [compile_group(item, (*path, index), report, wanted) for index, item in enumerate(value)]
    facts_only = all(condition.facts_only for group in groups for condition in group)
    text = f"{key} of {len(groups)} groups: " + " | ".join(", ".join(c.text for c in group) for group in groups)
    if key == "any":
        return Condition(text, lambda view: any(failing(group, view) is None for group in groups), facts_only)
    return Condition(text, lambda view: all(failing(group, view) is None for group in groups), facts_only)


def negated(group: tuple[Condition, ...]) -> Condition:
    text = "not (" + ", ".join(condition.text for condition in group) + ")"
    return Condition(text, lambda view: failing(group, view) is not None, all(c.facts_only for c in group))


def _compile(subject: Subject, value: Any, path: KeyPath, report: Report) -> Condition | None:
    text = f"{subject.key} = {_as_toml(value)}"
    try:
        if isinstance(value, dict):
            test = _operators(subject, value, path, report)
        elif isinstance(value, list):
            if not value:
                raise ValueError("an empty list matches nothing")
            test = _one_of(subject, value)
        else:
            test = _one_of(subject, [value])
    except ValueError as error:
        report(path, str(error))
        return None
    return Condition(text, test, subject.path is None) if test is not None else None


def _as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_as_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_of(subject: Subject, options: list[Any]) -> Callable[[View], bool]:
    """Equality, wildcards, names of UIDs: any option, any value."""
    path, key = subject.path, subject.key
    if subject.numeric:
        numbers = frozenset(values.size_in_bytes(o) if key == "Size" else values.number(o) for o in options)
        if path is None:
            return lambda view: float(view.facts.size) in numbers
        numeric_path = path
        return lambda view: any(number in numbers for number in view.numbers(numeric_path) or ())
    texts = []
    for option in options:
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise ValueError("must be a text, a number or a list of them")
        texts.append(resolved(subject, str(option)))
    if key == "PeerAddress":
        networks = [values.network(text) for text in texts]
        return lambda view: any(test(view.facts.peer_address) for test in networks)
    exact = frozenset(text for text in texts if not values.is_pattern(text))
    patterns = [values.wildcard(text) for text in texts if values.is_pattern(text)]
    if path is None:
        if not patterns:
            return lambda view: view.facts.text(key) in exact
        return lambda view: (value := view.facts.text(key)) in exact or any(test(value) for test in patterns)
    text_path = path

    def matches(view: View) -> bool:
        for value in view.texts(text_path) or ():
            if value in exact:
                return True
            for test in patterns:
                if test(value):
                    return True
        return False

    return matches


def resolved(subject: Subject, text: str) -> str:
    """Names of SOP classes and transfer syntaxes become UIDs."""
    if values.is_pattern(text) or uids.valid_uid(text):
        return text
    if subject.key == "SOPClass" or subject.path in ((0x00080016,), (0x00020002,)):
        uid = uids.sop_class_uid(text)
        close = uids.suggest_sop_class(text)
        what = "SOP class"
    elif subject.key == "TransferSyntax":
        uid = uids.transfer_syntax_uid(text)
        close = uids.suggest_transfer_syntax(text)
        what = "transfer syntax"
    else:
        return text
    if uid is None:
        raise ValueError(f'unknown {what} "{text}"' + (f', did you mean "{close[0]}"?' if close else "; use its UID"))
    return uid


def _operators(subject: Subject, table: dict[str, Any], path: KeyPath, report: Report) -> Callable[[View], bool] | None:
    tests: list[Callable[[View], bool]] = []
    if not table:
        raise ValueError("must have one of " + ", ".join(OPERATORS))
    for operator, value in table.items():
        if operator not in OPERATORS:
            report((*path, operator), "unknown operator, use one of " + ", ".join(OPERATORS))
            continue
        try:
            tests.append(_operator(subject, operator, value))
        except ValueError as error:
            report((*path, operator), str(error))
    if not tests:
        return None
    if "min" in table and "max" in table and len(tests) > 1 and subject.numeric:
        low, high = _bound(subject, table["min"]), _bound(subject, table["max"])
        if low > high:
            report(path, f"min {table['min']} is above max {table['max']}: this can never match")
    return tests[0] if len(tests) == 1 else lambda view: all(test(view) for test in tests)


def _bound(subject: Subject, value: Any) -> float:
    return values.size_in_bytes(value) if subject.key == "Size" else values.number(value)


def _operator(subject: Subject, operator: str, value: Any) -> Callable[[View], bool]:
    path, key = subject.path, subject.key
    if operator == "exists":
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        if path is None:
            return lambda view: bool(view.facts.text(key)) is value
        there = path
        return lambda view: (view.texts(there) is not None) is value
    if operator == "regex":
        if not isinstance(value, str):
            raise ValueError("must be a text")
        search = values.regex(value)
        if path is None:
            return lambda view: search(view.facts.text(key))
        text_path = path
        return lambda view: any(search(text) for text in view.texts(text_path) or ())
    if operator == "within":
        if path is None or subject.vr not in DATE_VRS:
            raise ValueError("needs an attribute that is a date (DA, DT)")
        span = values.seconds(value)
        date_path = path
        return lambda view: any(values.is_recent(text, view.facts.now, span) for text in view.texts(date_path) or ())
    if subject.vr in ("DA", "DT", "TM") and path is not None:
        if not isinstance(value, str) or not value[:1].isdigit():
            raise ValueError(f'must be a text as in the {subject.vr} itself, such as "20260131"')
        ordered, bound_text = path, value
        if operator == "min":
            return lambda view: any(text >= bound_text for text in view.texts(ordered) or () if text)
        return lambda view: any(text <= bound_text for text in view.texts(ordered) or () if text)
    if not subject.numeric:
        raise ValueError("needs a numeric attribute (IS, DS, US, ...), a date, or Size")
    bound = _bound(subject, value)
    if path is None:
        return (lambda view: view.facts.size >= bound) if operator == "min" else (lambda view: view.facts.size <= bound)
    number_path = path
    if operator == "min":
        return lambda view: any(number >= bound for number in view.numbers(number_path) or ())
    return lambda view: any(number <= bound for number in view.numbers(number_path) or ())
