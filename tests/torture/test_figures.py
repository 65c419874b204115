"""The table of the reliability page says what the campaigns wrote, and keeps what they did not run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.torture.figures import BEGIN, END, Figure, report, rows, table, write

KILL = Figure("T2", "killed", "0 lost", "0 lost", 2000, "make torture", date="2026-11-23", commit="abc")
CUT = Figure("T3", "power cut", "0 lost", "0 lost", 100, "make torture", date="2026-11-23", commit="abc")


def test_a_newer_figure_replaces_the_one_that_was_kept_and_the_others_stay(tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept.json", tmp_path / "results"
    kept.write_text(json.dumps([asdict(CUT), asdict(KILL)]))
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(asdict(replace(KILL, n=5000))))
    assert rows(folder, kept) == [replace(KILL, n=5000), CUT]


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    document, kept = tmp_path / "page.md", tmp_path / "kept.json"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(document, kept, [KILL])
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| T2 | killed | dicom-router | 0 lost | yes | 0 lost | 2,000 | 2026-11-23, abc | `make torture` |" in text
    assert rows(tmp_path / "none", kept) == [KILL]


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("make torture", "make torture"),
        ("make torture (tests/a.py)", "make torture TESTS=tests/a.py"),
        ("make torture (tests/a.py, --amount 'b c=5')", "make torture TESTS=tests/a.py ARGS=\"--amount 'b c=5'\""),
        ("make fuzz SECONDS=5", "make fuzz SECONDS=5"),
    ],
)
def test_commands_stand_there_as_they_are_typed(said: str, typed: str) -> None:
    assert f"| `{typed}` |" in table([replace(KILL, command=said)])


def test_a_goal_that_was_missed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missed = replace(KILL, goal="1 s", found="2 s", met=False)
    assert "| 1 s | **no** | 2 s |" in table([missed])
    report(missed, keep=False)
    assert "NOT MET" in capsys.readouterr().out
