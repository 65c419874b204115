"""The unit that is shipped: well formed, closed, and patient enough for a drain."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from router.app.config import load_config

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "dicom-router.service"


def setting(name: str) -> list[str]:
    lines = UNIT.read_text().splitlines()
    return [line.split("=", 1)[1] for line in lines if line.startswith(f"{name}=")]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: sh tests/install-peers.sh"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/dicom-router/bin/dicom-router", sys.executable))
    done = analyze("verify", "--man=no", str(unit))
    assert done.stdout + done.stderr == "" and done.returncode == 0


def test_its_exposure_is_at_most_2(tmp_path: Path) -> None:
    assert analyze("security", "--offline=true", "--threshold=20", str(UNIT)).returncode == 0
    opened = tmp_path / UNIT.name
    opened.write_text("\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith("Restrict")))
    assert analyze("security", "--offline=true", "--threshold=20", str(opened)).returncode != 0


def test_it_stops_no_earlier_than_the_router_has_drained() -> None:
    seconds = int(setting("TimeoutStopSec")[0].removesuffix("s"))
    assert seconds > 2 * load_config(None, {}).shutdown_grace


def test_a_wrong_configuration_is_not_tried_again() -> None:
    assert "78" in setting("RestartPreventExitStatus")[0].split()
    assert setting("Restart") == ["on-failure"]


def test_only_the_router_itself_speaks_to_systemd() -> None:
    assert (setting("Type"), setting("NotifyAccess")) == (["notify"], ["main"])
