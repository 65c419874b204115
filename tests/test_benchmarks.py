"""The benchmarks run: a small share of each, so that none rots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.peers import require

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.peer
@pytest.mark.timeout(300)
def test_the_flow_benchmark_delivers_everything_byte_identical(tmp_path: Path) -> None:
    for program in ("storescp", "dcmsend", "Orthanc", "cc"):
        require(program)
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.flow", "--quick", "--scale", "0.5", "--sizes", "16KiB,512KiB",
         "--folder", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for system in ("limit", "router", "storescp", "orthanc", "pynetdicom"):
        assert system in result.stdout
