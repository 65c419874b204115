"""What docs/threat-model.md names as holding a promise is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_that_the_threat_model_names_exists() -> None:
    """``test_b.py`` behind ``tests/a/test_a.py`` in one cell is of the same folder."""
    named = 0
    for row in (ROOT / "docs" / "threat-model.md").read_text().splitlines():
        folder = ROOT
        for name in re.findall(r"`((?:tests/|test_)[\w/.]*)`", row):
            path = ROOT / name if name.startswith("tests/") else folder / name
            assert path.exists(), f"{name}: {row[:80]}"
            folder = path if path.is_dir() else path.parent
            named += 1
    assert named > 60
