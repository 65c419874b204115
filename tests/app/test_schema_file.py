"""The JSON Schema that editors read is the one that the configuration is checked by."""

from __future__ import annotations

import json
from pathlib import Path

from router.app.config_model import json_schema

ROOT = Path(__file__).resolve().parents[2]


def test_the_schema_in_the_repository_is_current() -> None:
    assert json.loads((ROOT / "router.schema.json").read_text()) == json_schema(), (
        "run: dicom-router schema > router.schema.json"
    )


def test_every_key_of_the_schema_refuses_what_it_does_not_know() -> None:
    schema = json_schema()
    tables = [schema, *schema["$defs"].values()]
    assert all(
        table["additionalProperties"] is False
        for table in tables
        if table.get("type") == "object" and "properties" in table
    )
