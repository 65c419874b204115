"""Clocks that are set while a program runs, by libfaketime and by time namespaces of the kernel.

libfaketime moves what the program is told of the time, at every call. What is monotonic either stays
(``DONT_FAKE_MONOTONIC=1``) or moves with the time of day. ``native/waits.c`` goes before it and mends two of its waits:
without that, ``time.sleep`` of Python fails with EINVAL where monotonic time stays, and where it moves a lock's time
limit of a second lasts ten days.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.peers import require

DAY = 86_400
TEN_DAYS = 10 * DAY


@functools.cache
def _library() -> Path:
    require("faketime")
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class FakeClock:
    """Of the programs that get its ``environment``; files are in ``folder``.

    Args:
        monotonic: Whether monotonic time jumps and drifts with the time of day, as it never should.
    """

    def __init__(self, folder: Path, *, monotonic: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        waits = folder / "waits.so"
        source = Path(__file__).parent / "native" / "waits.c"
        command = [
            require("gcc"),
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-o",
            waits,
            source,
            "-ldl",
        ]
        subprocess.run(command, check=True)
        self._file = folder / "time"
        self.seconds = 0
        """Ahead of the real clock, less what it drifts."""
        self.environment = {
            "LD_PRELOAD": f"{waits}:{_library()}",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
            "DONT_FAKE_MONOTONIC": str(int(not monotonic)),
        }
        self.set(0)

    def set(self, seconds: int, *, rate: float = 1.0) -> None:
        """So far ahead of the real clock (negative: behind), and from the program's start on so much faster."""
        text = f"{seconds:+d}" + (f" x{rate}" if rate != 1.0 else "")
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text + "\n")
        fresh.rename(self._file)  # it is read at any moment
        self.seconds = seconds


def steps() -> Iterator[int]:
    """Places of a clock that jumps ten days on, and ten days back, for ever: seconds ahead of the real one."""
    while True:
        yield from (TEN_DAYS, 0, -TEN_DAYS, 0)


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


@functools.cache
def unable() -> str:
    """Why there are no time namespaces here; empty if there are."""
    if not os.path.exists("/proc/self/ns/time"):
        return "this kernel has no time namespaces"
    done = subprocess.run([require("unshare"), "--time", "true"], capture_output=True, text=True, check=False)
    return f"no time namespace can be made here: {done.stderr.strip()}" if done.returncode else ""


def in_another_time(seconds: float) -> list[str]:
    """Goes before a command: what is monotonic is so far ahead of this machine's (negative: behind) for it."""
    offset = str(round(seconds))
    return [require("unshare"), "--time", "--monotonic", offset, "--boottime", offset]
