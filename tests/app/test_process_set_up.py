"""What a process of the router is before its loop runs: what it logs, what it leaves behind if it dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, os, resource, sys
from pathlib import Path
from router.app import supervisor
from router.app.config import load_config
from router.observe.logs import get_logger
config = load_config(Path(sys.argv[1]), {})
supervisor.set_up(config)
limits = resource.getrlimit(resource.RLIMIT_CORE)
get_logger().info(
    "seen", sop_instance="2.25.4711", core=list(limits), umask=os.umask(0), collects=gc.isenabled(),
    looked_through=len(gc.get_objects()), left_alone=gc.get_freeze_count(),
)
"""


def seen(folder: Path, data: Path, *, before: str = "") -> tuple[dict[str, object], list[dict[str, object]]]:
    """What a process says, and what else it logged."""
    folder.mkdir(exist_ok=True)
    config = folder / "router.toml"
    config.write_text(f'[node]\ndata_dir = "{data}"\n[log]\nformat = "json"\n')
    ended = subprocess.run(
        [sys.executable, "-c", before + PROGRAM, str(config)], capture_output=True, text=True, timeout=60, check=True
    )
    *others, last = [json.loads(line) for line in ended.stderr.splitlines()]
    return last, others


def test_a_uid_has_one_hash_over_all_restarts_and_another_on_another_router(tmp_path: Path) -> None:
    first, others = seen(tmp_path, tmp_path / "data")
    again, _ = seen(tmp_path, tmp_path / "data")
    elsewhere, _ = seen(tmp_path, tmp_path / "elsewhere")
    assert str(first["sop_instance"]).startswith("uid:")
    assert first["sop_instance"] == again["sop_instance"] != elsewhere["sop_instance"]
    assert not others


def test_a_key_that_cannot_be_kept_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said, (warning,) = seen(tmp_path, tmp_path / "file" / "data")
    assert str(said["sop_instance"]).startswith("uid:")
    assert "this run only" in str(warning["told"])


def test_a_process_leaves_no_core_and_no_file_for_others(tmp_path: Path) -> None:
    said, _ = seen(tmp_path, tmp_path / "data")
    assert said["core"] == [1, 1], "1, not 0: a program that the kernel hands cores to gets none either"
    assert said["umask"] == 0o077
    none = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    assert seen(tmp_path, tmp_path / "data", before=none)[0]["core"] == [0, 0], "and does not fail where none may be"


def test_what_was_imported_is_not_looked_through_for_garbage_again(tmp_path: Path) -> None:
    said, _ = seen(tmp_path, tmp_path / "data", before="import gc; gc.disable()\n")
    assert said["collects"] is True
    assert int(str(said["looked_through"])) < 2_000 < 20_000 < int(str(said["left_alone"]))
