"""Objects that the rules cannot tell apart are decided once; all others each for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.app.decisions import LONGEST, REMEMBERED, Decisions
from router.dicom.attributes import Attributes
from router.model import InstanceInfo, Origin, Verdict
from router.routing import RuleSet, load

MODALITY, DESCRIPTION, CHARACTER_SET = (0x00080060,), (0x00081030,), (0x00080005,)
INFO = InstanceInfo(
    id=1,
    sop_class="1.2.840.10008.5.1.4.1.1.2",
    sop_instance="2.25.1",
    transfer_syntax="1.2.840.10008.1.2.1",
    origin=Origin(listener="l", peer="p", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1"),
    received=0.0,
    size=100,
    checksum=b"",
)
RULES = """
[[rule]]
name = "ct"
match = { Modality = "CT", StudyDescription = { regex = "K.pf" }, CallingAET = "CT*" }
to = ["pacs"]

[[rule]]
name = "mr"
match = { Modality = "MR" }
to = ["vna"]
"""


def rules_of(folder: Path, text: str = RULES) -> RuleSet:
    (folder / "rules.toml").write_text(text)
    return load(folder, ["pacs", "vna"], on_no_match="hold")


def attributes(modality: str = "CT", description: bytes = b"Kopf", **more: Any) -> Attributes:
    values = {
        MODALITY: ("CS", modality.encode()),
        DESCRIPTION: ("LO", description),
        CHARACTER_SET: ("CS", b"ISO_IR 100"),
    }
    return Attributes(values, **more)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every decision that the rules really make."""
    count: list[int] = []
    real = RuleSet.decide

    def decide(rules: RuleSet, *arguments: Any) -> Any:
        count.append(1)
        return real(rules, *arguments)

    monkeypatch.setattr(RuleSet, "decide", decide)
    return count


def test_a_series_is_decided_once(tmp_path: Path, asked: list[int]) -> None:
    rules, decisions = rules_of(tmp_path), Decisions()
    made = [
        decisions.of(rules, replace(INFO, id=number, sop_instance=f"2.25.{number}"), attributes())
        for number in (1, 2, 3)
    ]
    assert {decision.destinations for decision in made} == {("pacs",)}
    assert len(asked) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"attributes": attributes("MR")},
        {"attributes": attributes(description=b"Thorax")},
        {"attributes": Attributes({MODALITY: ("LO", b"CT"), DESCRIPTION: ("LO", b"Kopf")})},
        {"info": replace(INFO, sop_class="1.2.3")},
        {"info": replace(INFO, transfer_syntax="1.2.840.10008.1.2")},
        {"info": replace(INFO, origin=replace(INFO.origin, calling_ae="CT2"))},
        {"info": replace(INFO, origin=replace(INFO.origin, address="127.0.0.2"))},
    ],
)
def test_whatever_a_rule_may_see_makes_it_another(tmp_path: Path, asked: list[int], other: dict[str, Any]) -> None:
    rules, decisions = rules_of(tmp_path), Decisions()
    decisions.of(rules, INFO, attributes())
    info, seen = other.get("info", INFO), other.get("attributes", attributes())
    known = decisions.of(rules, info, seen)
    assert len(asked) == 2
    assert known == Decisions().of(rules, info, seen)


def test_other_rules_decide_anew(tmp_path: Path, asked: list[int]) -> None:
    decisions = Decisions()
    assert decisions.of(rules_of(tmp_path), INFO, attributes()).destinations == ("pacs",)
    new = rules_of(tmp_path, RULES.replace('["pacs"]', '["vna"]'))
    assert decisions.of(new, INFO, attributes()).destinations == ("vna",)


@pytest.mark.parametrize(
    "condition", ["Size = { max = 1000 }", 'StudyDate = { within = "7d" }', 'any = [{ StudyDate = { within = "7d" } }]']
)
def test_rules_of_the_size_or_the_time_are_asked_every_time(tmp_path: Path, asked: list[int], condition: str) -> None:
    rules, decisions = (
        rules_of(tmp_path, f'[[rule]]\nname = "r"\nmatch = {{ {condition} }}\nto = ["pacs"]\n'),
        Decisions(),
    )
    for _ in range(3):
        decisions.of(rules, INFO, attributes())
    assert len(asked) == 3


def test_what_is_held_is_decided_every_time(tmp_path: Path, asked: list[int]) -> None:
    rules, decisions = rules_of(tmp_path), Decisions()
    verdicts = {decisions.of(rules, INFO, attributes("US")).verdict for _ in range(3)}
    assert verdicts == {Verdict.HOLD}
    assert len(asked) == 3


def test_what_cannot_be_read_is_decided_every_time(tmp_path: Path, asked: list[int]) -> None:
    rules, decisions = rules_of(tmp_path), Decisions()
    for seen in (attributes(available=False), attributes(too_long=[(0x00204000,)])) * 2:
        decisions.of(rules, INFO, seen)
    assert len(asked) == 4


def test_what_is_remembered_has_a_bound(tmp_path: Path, asked: list[int]) -> None:
    rules, decisions = rules_of(tmp_path), Decisions()
    for _ in range(2):
        decisions.of(rules, INFO, attributes(description=b"Kopf" * LONGEST))
    assert len(asked) == 2
    for number in range(3 * REMEMBERED):
        decisions.of(rules, INFO, attributes(description=b"Kopf %d" % number))
    assert len(decisions._known) <= REMEMBERED
