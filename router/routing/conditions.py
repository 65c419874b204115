"""Conditions: what the tables ``match``, ``not``, ``any`` and ``all`` of a rule mean, compiled to tests of a ``View``.

Several keys are AND, a list is OR. A multi-valued element matches if one of its values fulfils the whole condition; a
missing one never matches, except ``{ exists = false }``. What cannot be read is neither yes nor no
(``NotAvailable``), and stays so unless another condition settles the matter. Every mistake is reported with its key
path and what would do.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from router.routing import values
from router.routing.facts import NotAvailable, Path, View
from router.routing.subjects import (
    MOMENT_VRS,
    Subject,
    doubtful,
    doubtful_key,
    doubtful_regex,
    subject_of,
    text_of,
)
from router.toml_positions import KeyPath

OPERATORS = ("regex", "min", "max", "exists", "within")
COMBINATORS = ("any", "all", "not")
MAX_NESTING = 16
"""Of any, all and not."""
MANY = 20
"""Names that a warning lists at most."""

Test = Callable[[View], bool]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """One test with the text that explains it, and what can be known of it without an object."""

    text: str
    test: Test
    """Raises NotAvailable."""
    kind: str = "value"
    """``value``, ``exists``, ``missing``, or ``any``, ``all``, ``not`` of ``groups``."""
    subject: Subject | None = None
    only: frozenset[Any] = frozenset()
    """Values (text or numbers) one of which the element must have, if ``closed``."""
    patterns: frozenset[str] = frozenset()
    closed: bool = False
    """Nothing but ``only`` and ``patterns`` matches."""
    one: Callable[[Any], bool] | None = None
    """The test of one value (text, or a number if the subject is numeric); None: it depends on more than the value."""
    bounds: tuple[float, float] | None = None
    """The range that is asked for, if nothing else is."""
    groups: tuple[tuple[Condition, ...], ...] = ()
    timed: bool = False
    """It asks for the time too."""


@dataclass(slots=True)
class Context:
    """Where the compiler leaves what it finds: problems and warnings by key path, and the attributes it needs."""

    problem: Callable[[KeyPath, str], None]
    warning: Callable[[KeyPath, str], None]
    wanted: set[Path] = field(default_factory=set)
    arrivals: Mapping[str, Collection[str]] = field(default_factory=dict)
    """See ``load``."""


def failing(conditions: tuple[Condition, ...], view: View) -> Condition | None:
    """The first condition that does not hold; None: all hold. NotAvailable: none fails, but one cannot be told."""
    unknown = False
    for condition in conditions:
        try:
            if not condition.test(view):
                return condition
        except NotAvailable:
            unknown = True
    if unknown:
        raise NotAvailable
    return None


# Groups ----------------------------------------------------------------------------------------------------


def compile_group(table: Any, path: KeyPath, context: Context, depth: int = 0) -> tuple[Condition, ...]:
    """All conditions of one table (AND)."""
    if not isinstance(table, dict):
        context.problem(path, 'must be a table such as { Modality = "CT" }')
        return ()
    if not table:
        context.problem(path, "is empty: leave it out, or say a condition")
        return ()
    if depth > MAX_NESTING:
        context.problem(path, f"is nested deeper than {MAX_NESTING}")
        return ()
    conditions = []
    for key, value in table.items():
        at = (*path, key)
        if key in COMBINATORS:
            conditions.append(combined(key, value, at, context, depth + 1))
            continue
        try:
            subject = subject_of(key)
        except ValueError as error:
            context.problem(at, str(error))
            continue
        if subject.path is not None:
            context.wanted.add(subject.path)
        if doubt := doubtful_key(subject):
            context.warning(at, doubt)
        condition = _compile(subject, value, at, context)
        if condition is not None:
            conditions.append(condition)
    return tuple(conditions)


def combined(kind: str, value: Any, path: KeyPath, context: Context, depth: int = 0) -> Condition:
    """``any``, ``all`` and ``not``."""
    if kind == "not":
        if isinstance(value, list):
            context.problem(path, "must be one table; for none of several write not = { any = [{ ... }, { ... }] }")
            return _combination("not", ())
        return _combination("not", (compile_group(value, path, context, depth),))
    if not isinstance(value, list) or not value:
        context.problem(path, f"must be a list of tables: {kind} = [{{ ... }}, {{ ... }}]")
        return _combination(kind, ())
    return _combination(
        kind, tuple(compile_group(item, (*path, index), context, depth) for index, item in enumerate(value))
    )


def _combination(kind: str, groups: tuple[tuple[Condition, ...], ...]) -> Condition:
    words = [", ".join(condition.text for condition in group) for group in groups]
    if kind == "not":
        group = groups[0] if groups else ()
        return Condition(
            f"not ({words[0] if words else ''})", lambda view: failing(group, view) is not None, kind, groups=groups
        )
    text = f"{kind} of (" + ") (".join(words) + ")"
    if kind == "all":
        flat = tuple(condition for group in groups for condition in group)
        return Condition(text, lambda view: failing(flat, view) is None, kind, groups=groups)

    def one_of_them(view: View) -> bool:
        unknown = False
        for group in groups:
            try:
                if failing(group, view) is None:
                    return True
            except NotAvailable:
                unknown = True
        if unknown:
            raise NotAvailable
        return False

    return Condition(text, one_of_them, kind, groups=groups)


# One condition ---------------------------------------------------------------------------------------------


def _compile(subject: Subject, value: Any, path: KeyPath, context: Context) -> Condition | None:
    text = f"{subject.key} = {as_toml(value)}"
    try:
        if isinstance(value, dict):
            return _operators(subject, value, text, path, context)
        options = value if isinstance(value, list) else [value]
        if not options:
            raise ValueError("an empty list matches nothing")
        if subject.only_exists:
            raise ValueError(f"is of VR {subject.vr}, which has nothing to compare, use {{ exists = true }}")
        if subject.numeric:
            return _numbers(subject, options, text, path, context)
        return _texts(subject, options, text, path, context)
    except ValueError as error:
        context.problem(path, str(error))
        return None


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False, default=str)


def _each(options: list[Any], path: KeyPath, context: Context, read: Callable[[Any], T]) -> list[T]:
    """All options read; each that cannot be is reported with its place in the list."""
    found = []
    for index, option in enumerate(options):
        try:
            found.append(read(option))
        except ValueError as error:
            context.problem((*path, index) if len(options) > 1 else path, str(error))
    return found


def _numbers(subject: Subject, options: list[Any], text: str, path: KeyPath, context: Context) -> Condition:
    wanted = frozenset(_each(options, path, context, lambda option: _number(subject, option)))
    return Condition(
        text,
        _number_test(subject, wanted.__contains__),
        subject=subject,
        only=wanted,
        closed=True,
        one=wanted.__contains__,
    )


def _number(subject: Subject, value: Any) -> float:
    return values.size_in_bytes(value) if subject.key == "Size" else values.number(value)


def _number_test(subject: Subject, one: Callable[[float], bool]) -> Test:
    path = subject.path
    if path is None:
        return lambda view: one(view.facts.size)
    return lambda view: any(map(one, view.numbers[path]))


def _texts(subject: Subject, options: list[Any], text: str, path: KeyPath, context: Context) -> Condition | None:
    """Equality, wildcards, names of UIDs: any option, any value."""
    if subject.vr == "UN" and any(
        isinstance(option, int | float) and not isinstance(option, bool) for option in options
    ):
        # A private element: whether it holds a number, only the objects tell.
        return _numbers_or_texts(subject, options, text)
    texts = _each(options, path, context, lambda option: text_of(subject, option))
    for index, option in enumerate(texts):
        if doubt := doubtful(subject, option) or _never_comes(subject, option, context.arrivals):
            context.warning((*path, index) if len(options) > 1 else path, doubt)
    exact = frozenset(option for option in texts if not values.is_pattern(option))
    patterns = frozenset(texts) - exact
    if subject.key == "PeerAddress":
        tests = _each(texts, path, context, values.network)
        exact, patterns = frozenset(), frozenset()
    else:
        tests = [values.wildcard(pattern) for pattern in sorted(patterns)]
    if not texts or (not tests and not exact):
        return None
    one: values.TextTest
    if not tests:
        one = exact.__contains__
    elif len(tests) == 1 and not exact:
        one = tests[0]
    else:

        def one(value: str) -> bool:
            return value in exact or any(test(value) for test in tests)

    test = _text_test(subject, one, next(iter(exact)) if len(exact) == 1 and not tests else None)
    closed = subject.key != "PeerAddress"
    return Condition(text, test, subject=subject, only=exact, patterns=patterns, closed=closed, one=one)


def _text_test(subject: Subject, one: values.TextTest, exactly: str | None = None) -> Test:
    path = subject.path
    if path is None:
        fact = attrgetter(subject.field)
        if subject.key == "Size":
            return lambda view: one(str(view.facts.size))
        return lambda view: one(fact(view.facts))
    if exactly is not None:
        return lambda view: exactly in view.texts[path]
    return lambda view: any(map(one, view.texts[path]))


def _numbers_or_texts(subject: Subject, options: list[Any], text: str) -> Condition:
    wanted = frozenset(values.number(option) for option in options if not isinstance(option, str))
    numbers = _number_test(subject, wanted.__contains__)
    texts = [values.wildcard(text_of(subject, option)) for option in options if isinstance(option, str)]
    if not texts:
        return Condition(text, numbers, subject=subject)
    others = _text_test(subject, lambda value: any(test(value) for test in texts))
    return Condition(text, lambda view: numbers(view) or others(view), subject=subject)


_ARRIVALS = {
    "Listener": "is no listener",
    "CallingAET": "is the AE title of no peer that may send",
    "CalledAET": "is no AE title of a listener",
}


def _never_comes(subject: Subject, text: str, arrivals: Mapping[str, Collection[str]]) -> str:
    known = sorted(arrivals.get(subject.key, ()))
    if not known or any(map(values.wildcard(text), known)):
        return ""
    close = difflib.get_close_matches(text, known, 1)
    hint = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(known[:MANY])}"
    return f'"{text}" {_ARRIVALS[subject.key]}, {hint}{" ..." if not close and len(known) > MANY else ""}'


# Operators -------------------------------------------------------------------------------------------------


def _operators(subject: Subject, table: dict[str, Any], text: str, path: KeyPath, context: Context) -> Condition | None:
    """``{ regex, min, max, exists, within }``: one value must fulfil all of them."""
    if not table:
        raise ValueError("must have one of " + ", ".join(OPERATORS))
    problems = 0
    tests: list[Callable[[Any], bool]] = []
    span: float | None = None
    for operator, value in table.items():
        at = (*path, operator)
        try:
            if operator == "exists":
                if not isinstance(value, bool):
                    raise ValueError("must be true or false")
            elif operator == "within":
                span = _span(subject, value)
            elif operator in OPERATORS:
                tests.append(_operator(subject, operator, value))
                if operator == "regex" and (doubt := doubtful_regex(subject, value)):
                    context.warning(at, doubt)
            else:
                raise ValueError("unknown operator, use one of " + ", ".join(OPERATORS))
        except ValueError as error:
            context.problem(at, str(error))
            problems += 1
    if problems:
        return None
    others = [operator for operator in table if operator != "exists"]
    if not others:
        return _existence(subject, table["exists"], text)
    if table.get("exists") is False:
        raise ValueError(f"can never match: what does not exist has no {others[0]}")
    compared = [operator for operator in others if operator in ("min", "max")]
    if "regex" in table and compared and (subject.numeric or subject.vr == "UN"):
        raise ValueError("regex compares text and min and max compare numbers, use all = [{ ... }, { ... }]")
    if len(compared) == 2 and _is_backwards(subject, table["min"], table["max"]):
        raise ValueError(f"can never match: min {as_toml(table['min'])} is above max {as_toml(table['max'])}")
    as_numbers = bool(compared) and (subject.numeric or subject.vr == "UN")
    return _operator_condition(subject, tests, span, as_numbers, table, text)


def _operator_condition(
    subject: Subject,
    tests: list[Callable[[Any], bool]],
    span: float | None,
    as_numbers: bool,
    table: dict[str, Any],
    text: str,
) -> Condition:
    def one(value: Any) -> bool:
        return all(test(value) for test in tests)

    each = tests[0] if len(tests) == 1 else one
    path = subject.path
    if span is not None and path is not None:
        days = span

        def recent(view: View) -> bool:
            now = view.facts.now
            return any(values.is_recent(value, now, days) and one(value) for value in view.texts[path])

        return Condition(text, recent, subject=subject, timed=True)
    if not as_numbers:
        # A number that a regular expression is asked of is text here, so nothing is concluded from its values.
        return Condition(text, _text_test(subject, each), subject=subject, one=None if subject.numeric else each)
    bounds = None
    if subject.numeric:
        low = _number(subject, table["min"]) if "min" in table else float("-inf")
        high = _number(subject, table["max"]) if "max" in table else float("inf")
        bounds = (low, high)
    test = _number_test(subject, each)
    return Condition(text, test, subject=subject, one=each if subject.numeric else None, bounds=bounds)


def _existence(subject: Subject, wanted: bool, text: str) -> Condition:
    kind = "exists" if wanted else "missing"
    path = subject.path
    if path is None:
        fact = attrgetter(subject.field)
        return Condition(text, lambda view: bool(fact(view.facts)) is wanted, kind, subject)
    return Condition(text, lambda view: view.exists(path) is wanted, kind, subject)


def _span(subject: Subject, value: Any) -> float:
    if subject.vr not in ("DA", "DT"):
        raise ValueError("needs an attribute that is a date (DA, DT)")
    return values.seconds(value)


def _operator(subject: Subject, operator: str, value: Any) -> Callable[[Any], bool]:
    """The test of one value for ``regex``, ``min`` or ``max``. Raises ValueError."""
    if subject.only_exists:
        raise ValueError(f"is of VR {subject.vr}, which has nothing to compare, use {{ exists = true }}")
    if operator == "regex":
        if not isinstance(value, str):
            raise ValueError("must be a text")
        if not value:
            raise ValueError("an empty expression matches every value, use { exists = true }")
        return values.regex(value)
    if subject.vr in MOMENT_VRS:
        bound = _moment(subject, value)
        return values.not_before(bound) if operator == "min" else values.not_after(bound)
    if subject.vr == "AS":
        return _age(values.age_in_days(value) if isinstance(value, str) else values.age_in_days(""), operator)
    if not subject.numeric and subject.vr != "UN":
        raise ValueError(f"{operator} needs a number (IS, DS, US, ...), a date, a time, an age (AS) or Size")
    limit = _number(subject, value)
    return limit.__le__ if operator == "min" else limit.__ge__


def _moment(subject: Subject, value: Any) -> str:
    value = values.moment_text(value, subject.vr)
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _BOUNDS[subject.vr].fullmatch(text):
        raise ValueError(f'must be written as in the objects ({subject.vr}), such as "{_EXAMPLES[subject.vr]}"')
    return text


_CLOCK = "(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\\.[0-9]{1,6})?)?)?"
_BOUNDS = {
    "DA": re.compile("[0-9]{8}"),
    "TM": re.compile(_CLOCK),
    "DT": re.compile(f"[0-9]{{4}}(?:[0-9]{{2}}(?:[0-9]{{2}}(?:{_CLOCK})?)?)?"),
}
"""Bounds are compared as texts, digit by digit: "09:00" or "9" would be compared too, and mean nothing."""
_EXAMPLES = {"DA": "20260131", "DT": "20260131123000", "TM": "1230"}


def _age(limit: float, operator: str) -> Callable[[str], bool]:
    def test(value: str) -> bool:
        try:
            days = values.age_in_days(value)
        except ValueError:
            return False
        return days >= limit if operator == "min" else days <= limit

    return test


def _is_backwards(subject: Subject, low: Any, high: Any) -> bool:
    if subject.vr in MOMENT_VRS:
        first, last = _moment(subject, low), _moment(subject, high)
        length = min(len(first), len(last))
        return first[:length] > last[:length]
    if subject.vr == "AS":
        return values.age_in_days(low) > values.age_in_days(high)
    return _number(subject, low) > _number(subject, high)
