"""The demonstration prints what the README says that it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_every_copy_arrives_identical_and_the_readme_shows_it() -> None:
    shown = next(
        block for block in re.findall(r"```\n(.*?)```", README.read_text(), re.DOTALL) if "copies arrived" in block
    )
    for _ in range(3):  # the second version of an object follows the ledger, at its own pace
        done = subprocess.run(
            [sys.executable, "-m", "router.app.cli", "demo"], capture_output=True, text=True, timeout=120, check=False
        )
        assert re.sub(r"127\.0\.0\.1:\d+([,;\n])", r"127.0.0.1:PORT\1", done.stdout) == shown, done.stderr
        assert done.returncode == 0
