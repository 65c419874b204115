"""What an operator reads of a rule file: pairs of a file and its expected problems and warnings, in ``cases/``.

A ``.txt`` file holds what comes of the ``.toml`` file beside it, one message a line. After a change of wording run
``python -m tests.routing.test_messages`` and read the difference.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.routing import load
from tests.routing.rulebook import DESTINATIONS

ARRIVALS = {"Listener": ["0.0.0.0:104"], "CallingAET": ["CT01", "MR01", "N1", "N2"], "CalledAET": ["ROUTER"]}
CASES = sorted((Path(__file__).parent / "cases").glob("*.toml"))


def messages_of(file: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file.name).write_bytes(file.read_bytes())
        try:
            rules = load(Path(folder), DESTINATIONS, arrivals=ARRIVALS)
        except ConfigError as error:
            lines = error.problems
        else:
            lines = [f"warning: {warning}" for warning in rules.warnings] or ["nothing to say"]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_the_operator_reads(file: Path) -> None:
    assert messages_of(file) == file.with_suffix(".txt").read_text("utf-8")


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_every_problem_says_where_it_is(file: Path) -> None:
    for line in messages_of(file).splitlines():
        if not line.startswith(("warning: rules:", "warning: destination ", "nothing")):
            assert line.removeprefix("warning: ").startswith(f"{file.name}:"), line


def main() -> None:
    for file in CASES:
        file.with_suffix(".txt").write_text(messages_of(file), "utf-8")


if __name__ == "__main__":
    main()
