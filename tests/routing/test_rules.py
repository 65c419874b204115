"""From conditions to decisions: rules add up, final stops, discard drops, and nothing vanishes otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.dicom.attributes import Attributes
from router.errors import ConfigError
from router.model import Priority, Verdict
from router.routing import RuleSet, load
from tests.routing.rulebook import data_set, decide, facts, one_rule, problems_of, rules_of

ADDING_UP = """
[[rule]]
name = "CT to AI"
match = { Modality = "CT" }
to = ["ai", "vna"]
priority = "stat"

[[rule]]
name = "VIPs stay here"
match = { PatientID = "VIP*" }
to = ["pacs"]
final = true

[[rule]]
name = "everything"
to = ["pacs", "vna"]
priority = "low"

[[rule]]
name = "phantoms"
match = { PatientID = "PHANTOM*" }
discard = true
"""


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return rules_of(tmp_path, ADDING_UP)


def test_destinations_of_all_rules_that_match_add_up_each_once_in_rule_order(rules: RuleSet) -> None:
    decision = decide(rules, data_set(Modality="CT", PatientID="1"))
    assert decision.verdict is Verdict.ROUTE
    assert decision.destinations == ("ai", "vna", "pacs")
    assert decision.rules == ("CT to AI", "everything")
    assert decision.version == rules.version


def test_the_most_urgent_rule_gives_the_priority(rules: RuleSet) -> None:
    assert decide(rules, data_set(Modality="CT")).priority is Priority.STAT
    assert decide(rules, data_set(Modality="MR")).priority is Priority.LOW
    assert decide(rules, data_set(PatientID="VIP1")).priority is Priority.NORMAL


def test_a_final_rule_stops_what_comes_after_it_and_not_what_came_before(rules: RuleSet) -> None:
    decision = decide(rules, data_set(Modality="CT", PatientID="VIP1"))
    assert decision.destinations == ("ai", "vna", "pacs")
    assert decision.rules == ("CT to AI", "VIPs stay here")


def test_a_discard_rule_drops_the_object_whatever_else_matched(rules: RuleSet) -> None:
    decision = decide(rules, data_set(Modality="CT", PatientID="PHANTOM1"))
    assert decision.verdict is Verdict.DISCARD
    assert decision.destinations == ()
    assert decision.rules == ("CT to AI", "everything", "phantoms")


@pytest.mark.parametrize("on_no_match", ["hold", "reject", "discard"])
def test_what_no_rule_takes_is_decided_by_the_configuration(on_no_match: str, tmp_path: Path) -> None:
    rules = rules_of(tmp_path, one_rule('Modality = "CT"'), on_no_match=on_no_match)
    assert decide(rules, data_set(Modality="MR")).verdict.value == on_no_match


def test_without_rules_every_object_is_held(tmp_path: Path) -> None:
    assert decide(load(tmp_path, ["pacs"])).verdict is Verdict.HOLD


class Broken(Attributes):
    """A data set that our own code fails on."""

    def texts(self, path: tuple[int, ...]) -> tuple[str, ...] | None:
        raise KeyError("a value of the patient")


def test_an_object_that_the_rules_fail_on_is_held_and_somebody_is_told(tmp_path: Path) -> None:
    told: list[Exception] = []
    rules = rules_of(tmp_path, ADDING_UP, on_no_match="discard", failed=told.append)
    assert decide(rules, Broken()).verdict is Verdict.HOLD
    assert [type(error) for error in told] == [KeyError]
    explanation = rules.explain(Broken(), facts())
    assert explanation.decision.verdict is Verdict.HOLD
    assert "the rule failed (KeyError)" in explanation.rules[0].because
    assert "a value of the patient" not in str(explanation)


def test_explain_tells_of_every_rule_which_condition_decided(rules: RuleSet) -> None:
    explanation = rules.explain(data_set(Modality="MR", PatientID="VIP^SECRET"), facts())
    assert [(line.name, line.matched, line.because) for line in explanation.rules] == [
        ("CT to AI", False, 'Modality = "CT"'),
        ("VIPs stay here", True, "every condition holds"),
        ("everything", None, 'not asked: "VIPs stay here" is final'),
        ("phantoms", None, 'not asked: "VIPs stay here" is final'),
    ]
    assert explanation.decision == decide(rules, data_set(Modality="MR", PatientID="VIP^SECRET"))
    assert "SECRET" not in str(explanation)


def test_explain_tells_what_could_not_be_read(rules: RuleSet) -> None:
    explanation = rules.explain(Attributes(available=False), facts())
    assert explanation.decision.verdict is Verdict.HOLD
    assert [line.matched for line in explanation.rules] == [None] * 4
    assert explanation.rules[0].because == 'cannot be told, the attribute is not readable: Modality = "CT"'
    assert explanation.rules[2].because == 'not asked: "VIPs stay here" cannot be told, so the object is held'


# Files -----------------------------------------------------------------------------------------------------


def test_files_are_read_in_name_order_and_rules_in_order_within_them(tmp_path: Path) -> None:
    for name in ("20-b.toml", "10-a.toml", "9-c.toml"):
        (tmp_path / name).write_text(
            f'[[rule]]\nname = "{name} 1"\nto = ["pacs"]\n[[rule]]\nname = "{name} 2"\nto = ["pacs"]\n'
        )
    names = [rule.name for rule in load(tmp_path, ["pacs"]).rules]
    assert names == ["10-a.toml 1", "10-a.toml 2", "20-b.toml 1", "20-b.toml 2", "9-c.toml 1", "9-c.toml 2"]


def test_problems_of_all_files_come_in_one_run(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, one_rule('Modalty = "CT"'), "[[rule", "x = 1")
    assert [problem.partition(":")[0] for problem in problems] == ["a.toml", "b.toml", "c.toml"]


def test_a_name_is_unique_over_all_files(tmp_path: Path) -> None:
    assert problems_of(tmp_path, one_rule('Modality = "CT"'), one_rule('Modality = "MR"')) == [
        'b.toml:2:1: name: there is another rule "r", at a.toml:1:1'
    ]


def test_the_version_changes_with_any_byte_of_the_rules_and_with_nothing_else(tmp_path: Path) -> None:
    first = rules_of(tmp_path, ADDING_UP).version
    assert rules_of(tmp_path, ADDING_UP).version == first
    assert len(first) == 12
    assert rules_of(tmp_path, ADDING_UP + "# comment").version != first
    assert rules_of(tmp_path, ADDING_UP, on_no_match="reject").version != first


def test_a_file_that_looks_like_rules_and_is_not_read_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.toml").write_text("")
    (tmp_path / "X.TOML").write_text("")
    (tmp_path / "README.md").write_text("")
    (tmp_path / ".a.toml.swp").write_text("")
    warnings = rules_of(tmp_path, '[[rule]]\nname = "r"\nto = ["pacs", "vna", "ai"]').warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["X.TOML", "more"]


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the rules"):
        load(tmp_path / "nowhere", [])


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()
    (tmp_path / "b.toml").write_bytes(b"#" * ((4 << 20) + 1))
    (tmp_path / "c.toml").write_text("x = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, [])
    assert caught.value.problems == [
        "a.toml:1:1: cannot be read: Is a directory",
        "b.toml:1:1: larger than 4 MiB",
        "c.toml:1:1: is nested too deep",
    ]


def test_conditions_nested_without_end_are_a_problem(tmp_path: Path) -> None:
    match = "not = { " * 20 + 'Modality = "CT"' + " }" * 20
    (problem,) = problems_of(tmp_path, one_rule(match))
    assert problem.endswith("is nested deeper than 16")


# Tests of rules --------------------------------------------------------------------------------------------


def with_test(given: str, expected: str) -> str:
    return f'{ADDING_UP}\n[[test]]\nname = "t"\ngiven = {{ {given} }}\n{expected}\n'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('Modality = "CT"', 'to = ["pacs", "ai", "vna"]'),
        ('Modality = "CT"', 'to = ["pacs", "ai", "vna"]\npriority = "stat"'),
        ('PatientID = "PHANTOM1"', "discard = true"),
        ('"0010,0020" = "VIP"', 'to = "pacs"'),
        ("", 'to = ["pacs", "vna"]'),
    ],
)
def test_a_test_that_holds_says_nothing(given: str, expected: str, tmp_path: Path) -> None:
    assert problems_of(tmp_path, with_test(given, expected)) == []


@pytest.mark.parametrize(
    ("match", "given"),
    [
        ('SOPClassUID = "CTImageStorage"', 'SOPClass = "CT Image Storage"'),
        ('SOPClass = "CTImageStorage"', 'SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"'),
        ("RequestAttributesSequence = { exists = true }", '"RequestAttributesSequence.0.AccessionNumber" = "1"'),
        ('"RequestAttributesSequence.0.AccessionNumber" = "1"', '"RequestAttributesSequence.0.AccessionNumber" = "1"'),
        ("PatientID = { exists = true }", 'PatientID = ""'),
        ("PatientID = { exists = true }", "PatientID = []"),
        ('ImageType = "AXIAL"', 'ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]'),
        ("SliceThickness = { max = 1.5 }", "SliceThickness = 1.50"),
        ("Rows = 512", "Rows = 512"),
        ('StudyDate = { min = "20260101" }', "StudyDate = 2026-01-31"),
        ('Size = { min = "1MiB" }', 'Size = "2MiB"'),
        ('PatientID = "*"', "PatientID = 123"),
        ('"0019,10ab" = { min = 1 }', '"0019,10ab" = 1.5'),
    ],
)
def test_what_a_test_gives_is_what_an_object_would_have(match: str, given: str, tmp_path: Path) -> None:
    text = one_rule(match) + f'[[test]]\nname = "t"\ngiven = {{ {given} }}\nto = ["pacs"]\n'
    assert problems_of(tmp_path, text) == []


def test_an_attribute_is_given_once(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, with_test('Modality = "CT", "0008,0060" = "MR"', 'to = ["pacs"]'))
    assert problem.endswith("given.0008,0060: is given twice, by keyword and by tag")


@pytest.mark.parametrize("on_no_match", ["hold", "reject", "discard"])
def test_a_test_may_expect_that_no_rule_takes_the_object(on_no_match: str, tmp_path: Path) -> None:
    text = one_rule('Modality = "CT"') + f'[[test]]\nname = "t"\ngiven = {{ Modality = "MR" }}\n{on_no_match} = true\n'
    assert problems_of(tmp_path, text, on_no_match=on_no_match) == []
    other = "reject" if on_no_match == "hold" else "hold"
    (problem,) = problems_of(tmp_path, text, on_no_match=other)
    assert f"expected {on_no_match}, the rules say {other} (no rule matched)" in problem


@pytest.mark.parametrize(
    ("match", "known"),
    [
        ('{ Modality = "CT" }', True),
        ("{ Size = { min = 1000 } }", False),
        ('{ any = [{ Modality = "CT" }, { not = { Size = { max = 1000 } } }] }', False),
    ],
)
def test_whether_the_head_of_a_data_set_is_enough_to_decide(tmp_path: Path, match: str, known: bool) -> None:
    rules = rules_of(tmp_path, f'[[rule]]\nname = "one"\nmatch = {match}\nto = ["pacs"]\n')
    assert rules.of_head is known


@pytest.mark.parametrize("name", ["10-ai.toml.txt", "10-AI.TOML", "10-ai.toml.off"])
def test_what_looks_like_a_rule_file_and_is_not_read_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(one_rule('Modality = "CT"'))
    for other in ("README.md", "a.toml~", ".a.toml.swp"):
        (tmp_path / other).write_text("")
    told = [warning for warning in rules_of(tmp_path, ADDING_UP).warnings if "is not read" in warning]
    assert told == [f"{name}: is not read, only files right here whose names end in .toml are"]
