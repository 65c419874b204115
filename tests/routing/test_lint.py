"""Lints say only what is certain: a rule that is called dead does nothing, whatever the object."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router.model import Verdict
from router.routing import RuleSet
from router.routing.rule_tests import GivenAttributes
from router.routing.subjects import subject_of
from tests.routing.rulebook import facts, rules_of

# Of one value by the standard: Modality and SliceThickness; of several: ImageType and PixelSpacing.
PATHS = [subject_of(key).path or () for key in ("Modality", "ImageType", "SliceThickness", "PixelSpacing")]

CONDITIONS = st.sampled_from(
    [
        'Modality = "CT"',
        'Modality = ["CT", "MR"]',
        'Modality = "C*"',
        'Modality = ["C*", "MR"]',
        "Modality = { exists = false }",
        "Modality = { exists = true }",
        'Modality = { regex = "^[CM]" }',
        'ImageType = "A"',
        'ImageType = ["A", "B"]',
        'ImageType = { regex = "A" }',
        "SliceThickness = 1",
        "SliceThickness = [1, 2]",
        "PixelSpacing = 1",
        "PixelSpacing = { max = 1 }",
        "PixelSpacing = { min = 1, max = 2 }",
        "PixelSpacing = { min = 2 }",
        "SliceThickness = { max = 1 }",
        "SliceThickness = { min = 1, max = 2 }",
        "SliceThickness = { min = 2 }",
        'SliceThickness = { regex = "1" }',
        'CallingAET = "A*"',
        'CallingAET = "AB"',
        "CallingAET = { exists = false }",
        'CallingAET = "*"',
    ]
)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = st.lists(inner.map(lambda text: f"{{ {text} }}"), min_size=1, max_size=3).map(", ".join)
    return st.one_of(
        inner.map(lambda text: f"not = {{ {text} }}"),
        groups.map(lambda text: f"any = [{text}]"),
        groups.map(lambda text: f"all = [{text}]"),
    )


ENDS = st.sampled_from(['to = ["pacs"]', 'to = ["pacs"]\nfinal = true', "discard = true"])
# "all" of one group each makes any list of conditions one table, without a key twice.
MATCHES = st.lists(st.recursive(CONDITIONS, nested, max_leaves=4), min_size=1, max_size=3).map(
    lambda parts: "all = [" + ", ".join(f"{{ {part} }}" for part in parts) + "]"
)
OBJECTS = st.tuples(
    st.sampled_from([None, (), ("CT",), ("MR",), ("CR",), ("US",)]),
    st.sampled_from([None, (), ("A",), ("B",), ("A", "B"), ("X", "AA")]),
    st.sampled_from([None, (), ("1",), ("2",), ("1.5",), ("0.5",), ("3",)]),
    st.sampled_from([None, (), ("1", "1"), ("1", "2"), ("3", "0.5"), ("1.5", "9")]),
    st.sampled_from(["", "A", "AB", "B"]),
)


def load_rules(matches: list[str], ends: list[str]) -> RuleSet:
    text = "".join(
        f'[[rule]]\nname = "{index}"\nmatch = {{ {match} }}\n{end}\n'
        for index, (match, end) in enumerate(zip(matches, ends, strict=True))
    )
    with tempfile.TemporaryDirectory() as folder:
        return rules_of(Path(folder), text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(MATCHES, min_size=1, max_size=3).flatmap(
        lambda matches: st.tuples(st.just(matches), st.lists(ENDS, min_size=len(matches), max_size=len(matches)))
    ),
    st.lists(OBJECTS, min_size=20, max_size=20),
)
def test_a_rule_that_is_called_dead_never_does_anything(
    rules_and_ends: tuple[list[str], list[str]], objects: list[tuple[Any, ...]]
) -> None:
    rules = load_rules(*rules_and_ends)
    dead = called(rules, "can never match") | called(rules, "is never reached")
    overruled = called(rules, "never sends anything")
    for *elements, calling in objects:
        given_values = zip(PATHS, elements, strict=True)
        attributes = GivenAttributes({path: values for path, values in given_values if values is not None})
        decision = rules.decide(attributes, facts(calling_ae=calling))
        assert dead.isdisjoint(decision.rules), (elements, calling)
        assert overruled.isdisjoint(decision.rules) or decision.verdict is Verdict.DISCARD, (elements, calling)


def called(rules: RuleSet, what: str) -> set[str]:
    """The names of rules of which a warning says this."""
    return {warning.split('rule "')[1].split('"')[0] for warning in rules.warnings if what in warning}


def test_many_alternatives_do_not_take_for_ever(tmp_path: Path) -> None:
    alternatives = ", ".join(f'{{ Modality = "M{n}", StationName = "S{n}" }}' for n in range(12))
    inner = "all = [" + ", ".join(f"{{ any = [{alternatives}] }}" for _ in range(8)) + "]"
    text = "".join(
        f'[[rule]]\nname = "{n}"\nmatch = {{ {inner} }}\nto = ["pacs"]\nfinal = true\nnot = {{ PatientID = "{n}" }}\n'
        for n in range(20)
    )
    assert len(rules_of(tmp_path, text).rules) == 20
