"""Rules come into force when it is durable that they do, and not otherwise."""

from __future__ import annotations

from pathlib import Path

from router.app.rules_in_force import RulesInForce
from router.errors import LedgerError
from router.routing import RuleSet, load
from tests.net.doubles import RecordingLog

RULE = '[[rule]]\nname = "{name}"\nto = ["archive"]\n'


class Case:
    """Two versions of a rule folder, and what was told of them, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.failing = False
        self.write("before")
        self.rules = RulesInForce(
            self.load(),
            load=self.load,
            log=RecordingLog(),
            reloaded=lambda succeeded: self.told.append(f"reloaded: {succeeded}"),
            announce=self.announce,
            changed=lambda fresh: self.told.append(f"in force: {fresh.rules[0].name}"),
        )

    def write(self, name: str) -> None:
        (self.folder / "10-test.toml").write_text(RULE.format(name=name))

    def load(self) -> RuleSet:
        return load(self.folder, ["archive"])

    async def announce(self, fresh: RuleSet) -> None:
        assert self.rules.current.rules[0].name == "before", "not yet in force"
        if self.failing:
            raise LedgerError("disk I/O error")
        self.told.append(f"announced: {fresh.rules[0].name}")


async def test_other_rules_are_announced_before_they_are_in_force(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert await case.rules.reload() == []
    assert case.told == ["reloaded: True"], "the same rules are no news"
    case.write("after")
    assert await case.rules.reload() == []
    assert case.told[1:] == ["announced: after", "reloaded: True", "in force: after"]


async def test_rules_that_cannot_be_announced_do_not_come_into_force(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.failing = True
    case.write("after")
    assert await case.rules.reload() == ["the change cannot be recorded: disk I/O error"]
    assert case.told == ["reloaded: False"]
    assert case.rules.current.rules[0].name == "before"
