"""What a site builds from DCMTK: ``storescp --fork`` writes studies into folders, ``dcmsend`` sends each complete one.

    python -m benchmarks.dcmtk_pipeline STORE PER_STUDY SIZE SINK_PORT ENDED

A study is complete when PER_STUDY files of SIZE bytes are there; that is more than a site knows, and in the peer's favour.
When the file ENDED appears, whatever remains is sent. Four ``dcmsend`` at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PARALLEL = 4


def complete(folder: Path, count: int, size: int) -> bool:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size >= size for entry in entries) >= count


def main() -> None:
    store, per_study, size, port, ended = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        sys.argv[4],
        Path(sys.argv[5]),
    )
    done: set[Path] = set()
    children: list[subprocess.Popen[bytes]] = []
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        last = ended.exists()
        for folder in sorted(path for path in store.iterdir() if path.is_dir()):
            if folder in done or len(children) >= PARALLEL or not (last or complete(folder, per_study, size)):
                continue
            done.add(folder)
            children.append(
                subprocess.Popen(
                    [
                        "dcmsend",
                        "-q",
                        "-aec",
                        "SINK",
                        "--max-send-pdu",
                        "131072",
                        "--scan-directories",
                        "127.0.0.1",
                        port,
                        str(folder),
                    ]
                )
            )
        children = [child for child in children if child.poll() is None]
        time.sleep(0.005)


if __name__ == "__main__":
    main()
