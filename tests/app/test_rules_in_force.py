"""Rules come into force when it is durable that they do, and not otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from router.app.rules_in_force import RulesInForce, state_of
from router.errors import LedgerError
from router.routing import RuleSet, load
from tests.net.doubles import RecordingLog

RULE = '[[rule]]\nname = "{name}"\nto = ["archive"]\n'


class Case:
    """Two versions of a rule folder, and what was told of them, in order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.told: list[str] = []
        self.failing = False
        self.fault: Exception | None = None
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
        if self.fault is not None:
            raise self.fault
        return load(self.folder, ["archive"])

    async def announce(self, fresh: RuleSet) -> None:
        assert self.rules.current is not fresh, "not yet in force"
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


async def test_whoever_has_just_added_a_destination_hears_that_it_needs_a_restart(tmp_path: Path) -> None:
    case = Case(tmp_path)
    (tmp_path / "10-test.toml").write_text('[[rule]]\nname = "after"\nto = ["pacs"]\n')
    problem, hint = await case.rules.reload()
    assert problem == '10-test.toml:3:7: rule "after": to.0: unknown destination "pacs", there are: archive'
    assert "restart" in hint
    (tmp_path / "10-test.toml").write_text('[[rule]]\nname = "after"\ntoo = ["archive"]\n')
    assert not [problem for problem in await case.rules.reload() if "restart" in problem]


async def test_rules_that_cannot_be_announced_do_not_come_into_force(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.failing = True
    case.write("after")
    assert await case.rules.reload() == ["the change cannot be recorded: disk I/O error"]
    assert case.told == ["reloaded: False"]
    assert case.rules.current.rules[0].name == "before"


def move_another_there(folder: Path) -> None:
    folder.rename(folder.with_name("old"))
    folder.with_name("new").rename(folder)


def name_another(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to("new")
    link.rename(folder)


def write_where_a_link_leads(folder: Path) -> None:
    (folder / "10-test.toml").resolve().write_text(RULE.format(name="after"))


@pytest.mark.parametrize("change", [move_another_there, name_another, write_where_a_link_leads])
async def test_rules_are_read_again_however_others_took_their_place(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "rules"
    if change is name_another:
        (tmp_path / "old").mkdir()
        folder.symlink_to("old")
    case = Case(folder)
    if change is write_where_a_link_leads:
        (folder / "10-test.toml").rename(tmp_path / "elsewhere.toml")
        (folder / "10-test.toml").symlink_to(tmp_path / "elsewhere.toml")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "10-test.toml").write_text(RULE.format(name="after"))
    watching = asyncio.create_task(case.rules.watch(folder, state_of(folder)))
    try:
        await asyncio.sleep(0.5)
        change(folder)
        await in_force(case, "after")
        case.write("in the end")
        await in_force(case, "in the end")
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def in_force(case: Case, name: str) -> None:
    async with asyncio.timeout(20):
        while case.rules.current.rules[0].name != name:
            await asyncio.sleep(0.05)


async def test_what_was_written_before_anybody_watched_is_read_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    seen = state_of(tmp_path)
    case.write("after")
    watching = asyncio.create_task(case.rules.watch(tmp_path, seen))
    await in_force(case, "after")
    watching.cancel()


async def test_a_fault_of_ours_is_told_as_what_is_wrong_with_a_file_is(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.fault = OverflowError("DOE^JANE")
    (problem,) = await case.rules.reload()
    assert "for a fault of ours" in problem
    assert "DOE" not in problem
    assert case.rules.problems == [problem]
    assert case.told == ["reloaded: False"]
