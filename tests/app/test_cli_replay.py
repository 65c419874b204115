"""``replay``: what other rules would have done with what is in the spool."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.app.cli.console_log import QUIET, ConsoleLog
from router.model import Decision, Priority, SpoolSettings, Verdict, format_id
from router.spool import Spool
from tests.app.test_cli_spool import Entry, entry, harm, run, store

PACS = Decision(verdict=Verdict.ROUTE, destinations=("pacs",))
EVERYTHING = '[[rule]]\nname = "everything"\nto = ["pacs"]\n'


@pytest.fixture
def stored(tmp_path: Path) -> list[Entry]:
    """Two of one study were held, four of another went to pacs; one is ten days old."""
    entries = [entry(number, "2.25.1" if number < 2 else "2.25.2") for number in range(6)]
    now = time.time()
    for number, one in enumerate(entries):
        one.info = replace(one.info, received=now - (10 * 86_400 if number == 5 else 3600))
        one.decision = Decision(verdict=Verdict.HOLD) if number < 2 else PACS

    async def main() -> None:
        spool = Spool.open(tmp_path / "data" / "spool", SpoolSettings(segment_size=4 << 20), log=ConsoleLog(QUIET))
        await store(spool, entries)
        await spool.close()

    asyncio.run(main())
    (tmp_path / "rules").mkdir()
    (tmp_path / "router.toml").write_text(
        f'[node]\ndata_dir = "{tmp_path / "data"}"\n[rules]\npath = "{tmp_path / "rules"}"\n'
        '[[listen]]\nbind = "127.0.0.1:11112"\naccept = "any"\ntls = "off"\n'
        '[destinations.pacs]\nurl = "dicom://PACS@127.0.0.1:104"\n[destinations.ai]\nurl = "dicom://AI@127.0.0.1:105"\n'
    )
    return entries


def replay(folder: Path, rules: str, *more: str) -> dict[str, Any]:
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / "rules.toml").write_text(rules)
    result = run("replay", "-c", folder / "router.toml", "--against", folder / "new", "--json", *more)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_what_would_be_different_is_counted_by_kind_with_examples(tmp_path: Path, stored: list[Entry]) -> None:
    found = replay(
        tmp_path,
        EVERYTHING + '[[rule]]\nname = "study 2"\nmatch = { StudyInstanceUID = "2.25.2" }\nto = ["ai"]\n',
    )
    assert (found["objects"], found["unchanged"], found["unreadable"]) == (5, 0, 0)
    to_both, released = found["changes"]
    assert (to_both["objects"], to_both["was"]["destinations"]) == (3, ["pacs"])
    assert to_both["would_be"] == {
        "verdict": "route", "destinations": ["pacs", "ai"], "priority": "normal", "rules": ["everything", "study 2"],
    }  # fmt: skip
    assert to_both["examples"] == [format_id(one.info.id) for one in stored[2:5]]
    assert (released["objects"], released["was"]["verdict"], released["would_be"]["destinations"]) == (
        2,
        "hold",
        ["pacs"],
    )


def test_rules_that_only_have_other_names_change_nothing(tmp_path: Path, stored: list[Entry]) -> None:
    found = replay(tmp_path, '[[rule]]\nname = "other"\nmatch = { StudyInstanceUID = "2.25.2" }\nto = ["pacs"]\n')
    assert found["changes"] == []
    assert found["unchanged"] == 5


def test_another_priority_is_a_difference(tmp_path: Path, stored: list[Entry]) -> None:
    found = replay(tmp_path, EVERYTHING.replace("to =", 'priority = "stat"\nto ='))
    assert {change["would_be"]["priority"] for change in found["changes"]} == {Priority.STAT.name.lower()}


@pytest.mark.parametrize(("since", "count"), [("30m", 0), ("7d", 5), ("30d", 6)])
def test_since_says_how_far_back(tmp_path: Path, stored: list[Entry], since: str, count: int) -> None:
    assert replay(tmp_path, EVERYTHING, "--since", since)["objects"] == count


def test_without_a_folder_the_rules_on_disk_are_tried(tmp_path: Path, stored: list[Entry]) -> None:
    (tmp_path / "rules" / "rules.toml").write_text(EVERYTHING)
    result = run("replay", "-c", tmp_path / "router.toml")
    assert result.exit_code == 0, result.output
    assert "3 as they were, 2 otherwise" in result.output
    line = next(line for line in result.output.splitlines() if "hold" in line)
    assert line.split()[:4] == ["2", "hold", "to", "pacs"]
    assert format_id(stored[0].info.id) in line


def test_rules_that_are_wrong_are_told_and_nothing_is_decided(tmp_path: Path, stored: list[Entry]) -> None:
    (tmp_path / "rules" / "rules.toml").write_text('[[rule]]\nname = "typo"\nto = ["pcas"]\n')
    result = run("replay", "-c", tmp_path / "router.toml")
    assert result.exit_code == 78
    assert "rules.toml:3" in result.output
    assert "pacs" in result.output


def test_a_damaged_record_is_counted_and_hides_no_other(tmp_path: Path, stored: list[Entry]) -> None:
    location = stored[0].location
    assert location is not None
    harm(tmp_path / "data", location, 10)
    found = replay(tmp_path, EVERYTHING)
    assert (found["objects"], found["unreadable"]) == (4, 1)


def test_a_wrong_time_is_a_wrong_use(tmp_path: Path, stored: list[Entry]) -> None:
    assert run("replay", "-c", tmp_path / "router.toml", "--since", "yesterday").exit_code == 2


def test_without_a_spool_it_says_so(tmp_path: Path, stored: list[Entry]) -> None:
    (tmp_path / "rules" / "rules.toml").write_text(EVERYTHING)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    result = run("replay", "-c", tmp_path / "router.toml")
    assert result.exit_code == 1
    assert "cannot read the spool" in result.output
