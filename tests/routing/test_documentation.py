"""The rules that people copy work: those of docs/rules.md, of the repository and of ``init``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.app.cli.starter import RULES_TOML
from router.routing import load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "rules.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_documentation_hold_and_say_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text, "utf-8")
    assert load(tmp_path, ["ai", "pacs", "vna"]).warnings == ()


def test_the_message_that_the_documentation_shows_is_the_one_that_is_given() -> None:
    shown = re.findall(r"```\n(20-ai\.toml:.*?)\n```", (ROOT / "docs" / "rules.md").read_text("utf-8"))
    given = (Path(__file__).parent / "cases" / "failing.txt").read_text("utf-8").splitlines()
    assert [text.replace("20-ai.toml", "failing.toml") for text in shown] == given[:1]


def test_the_rules_of_the_repository_say_nothing() -> None:
    assert load(ROOT / "rules", ["archive"]).warnings == ()


@pytest.mark.parametrize("commented", [False, True])
def test_the_starter_rules_say_nothing(commented: bool, tmp_path: Path) -> None:
    """Also when somebody takes the comment signs off the rule that is an example."""
    text = re.sub(r"^# (?=\[\[rule|\w+ +=)", "", RULES_TOML, flags=re.MULTILINE) if commented else RULES_TOML
    (tmp_path / "a.toml").write_text(text, "utf-8")
    rules = load(tmp_path, ["archive", "ai"] if commented else ["archive"])
    assert len(rules.rules) == 1 + commented
    assert rules.warnings == ()
