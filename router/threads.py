"""What the system calls our threads, so that ``top -H`` and ``perf`` show which one is busy."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

LONGEST = 15
"""Characters that Linux keeps."""


def name_this_thread(name: str) -> None:
    """Linux; elsewhere nothing happens. Of the first thread it is the process's name too."""
    with suppress(OSError):
        Path("/proc/thread-self/comm").write_text(name[:LONGEST], "ascii")
