"""What the campaigns found, as figures: one line on the terminal each, and the table of ``docs/reliability.md``.

A test that proves a promise calls ``report`` when it has seen what it claims, never before. Short shares only print;
a campaign (``--torture``) also writes ``results/reliability/<test>-<subject>.json``, from which

    python -m tests.torture.figures

writes the table into ``docs/reliability.md``, between its two marker lines.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "reliability"
KEPT = ROOT / "docs" / "reliability.json"
TABLE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


@dataclass(frozen=True)
class Figure:
    """One row. ``n`` counts what was tried; ``found`` says what was seen of it; ``subject`` is the software it was
    seen on.

    ``met``: whether the goal was reached. A goal that the test asserts cannot be missed in a figure; any other has to
    be computed from the numbers that ``found`` tells.
    """

    test: str
    promise: str
    goal: str
    found: str
    n: int
    command: str
    subject: str = "dicom-router"
    met: bool = True
    date: str = ""
    commit: str = ""

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.test} {self.subject} {self.promise}".lower()).strip("-")[:100]


def report(figure: Figure, *, keep: bool) -> None:
    """Prints the figure; with ``keep`` it becomes a row of the table."""
    print(
        f"\n{figure.test} {figure.subject}: {figure.promise}: {figure.found} (n = {figure.n:,}; goal: {figure.goal}"
        f"{'' if figure.met else '; NOT MET'})"
    )
    if not keep:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    row = asdict(figure) | {"date": datetime.now(UTC).date().isoformat(), "commit": commit}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{figure.name}.json").write_text(json.dumps(row, indent=1) + "\n")


def rows(folder: Path, kept: Path) -> list[Figure]:
    """All figures: those kept with the documents, replaced by newer ones of the same name."""
    known = {figure.name: figure for figure in (Figure(**row) for row in _read(kept))}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        figure = Figure(**json.loads(path.read_text()))
        known[figure.name] = figure
    return sorted(known.values(), key=lambda figure: (_number(figure.test), figure.promise, figure.subject))


def _read(kept: Path) -> list[dict[str, object]]:
    return json.loads(kept.read_text()) if kept.exists() else []


def _number(test: str) -> tuple[int, str]:
    digits = re.search(r"\d+", test)
    return (int(digits[0]) if digits else 999, test)


def table(figures: list[Figure]) -> str:
    heads = ["test", "promise", "subject", "goal", "met", "seen", "n", "date, commit", "command"]
    lines = [_line(heads), _line([{"n": "---:", "met": ":---:"}.get(head, "---") for head in heads])]
    for f in figures:
        met = "yes" if f.met else "**no**"
        when = f"{f.date}, {f.commit}"
        lines.append(
            _line([f.test, f.promise, f.subject, f.goal, met, f.found, f"{f.n:,}", when, f"`{_typed(f.command)}`"])
        )
    return "\n".join(lines)


def _typed(command: str) -> str:
    """``make torture (FILE, --amount A=N)`` as it is typed."""
    if named := re.fullmatch(r"make torture \((?P<tests>[^,]+)(, (?P<arguments>.*))?\)", command):
        arguments = f' ARGS="{named["arguments"]}"' if named["arguments"] else ""
        return f"make torture TESTS={named['tests']}{arguments}"
    return command


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(document: Path, kept: Path, figures: list[Figure]) -> None:
    """Puts the table between the marker lines of ``document``, and the figures themselves into ``kept``."""
    kept.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    before, rest = document.read_text().split(BEGIN)
    after = rest.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}")


if __name__ == "__main__":
    write(TABLE, KEPT, rows(RESULTS, KEPT))
