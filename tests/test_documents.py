"""What the manual promises to name is named there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.app.cli.root import COMMANDS
from router.app.config_model import json_schema

ROOT = Path(__file__).resolve().parents[1]
MANUAL = (ROOT / "docs" / "operations.md").read_text()
EVERYTHING = "\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))


@pytest.mark.parametrize("table", [*sorted(json_schema()["$defs"]), ""])
def test_every_setting_stands_in_the_manual(table: str) -> None:
    schema = json_schema()
    keys = (schema["$defs"][table] if table else schema)["properties"]
    words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`[^`\n]+`|```toml.*?```", MANUAL, re.DOTALL))))
    assert not keys.keys() - words


def test_every_command_that_the_documents_name_exists() -> None:
    named = set(re.findall(r"(?:^|`|/)dicom-router ([a-z][a-z-]+)", EVERYTHING, re.MULTILINE))
    assert named <= COMMANDS.keys()
    assert len(named) > 15


def test_every_metric_that_the_documents_name_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "router").rglob("*.py"))
    for name in set(re.findall(r"dicom_router_[a-z_]+[a-z]", EVERYTHING)):
        assert name.removesuffix("_total") in sources, name
