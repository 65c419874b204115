"""The file system of ``strict.c``, compiled and mounted.

What a program writes there is journalled in the order in which it happened; ``disk`` reads the journal. ``fail`` makes
operations fail as a broken disk would, at the system call: whatever writes, native code and SQLite too, meets it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.peers import require, wait_for

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent


def build() -> Path:
    """The file system's program."""
    require("pkg-config")
    return _built("strict.c", *_run(["pkg-config", "--cflags", "--libs", "fuse3"]).split())


def short_writes() -> dict[str, str]:
    """The environment of a program whose writes to files are cut short by the kernel, time and again."""
    return {"LD_PRELOAD": str(_built("short.c", "-shared", "-fPIC", "-ldl"))}


def _built(name: str, *flags: str) -> Path:
    """Compiled once for each version of its source. Raises OSError where it cannot be."""
    source = HERE / name
    result = ROOT / "build" / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not result.exists():
        result.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=result.parent) as folder:
            fresh = Path(folder) / "fresh"
            _run([require("gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(fresh), str(source), *flags])
            fresh.rename(result)  # others may build it at the same time
    return result


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def unable() -> str:
    """Why nothing can be mounted here; empty if it can. A missing program is for the caller to meet."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse here"
    program = build()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with StrictMount(Path(folder), program=program):
                return ""
        except (OSError, TimeoutError) as error:
            return f"no FUSE file system can be mounted here: {error}"


class StrictMount:
    """Mounted at ``path`` while the ``with`` block lasts; what lies there goes to ``folder/backing``."""

    def __init__(self, folder: Path, *, program: Path | None = None) -> None:
        self.path = folder / "mount"
        self.journal = folder / "journal"
        self.backing = folder / "backing"
        """What is put there before is durable from the beginning."""
        self._program = build() if program is None else program
        self._process: subprocess.Popen[bytes] | None = None
        for name in (self.path, self.backing):
            name.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> StrictMount:
        self._process = subprocess.Popen(
            [str(self._program), "-f", "-s", "-o", "default_permissions", str(self.path)],
            env={**os.environ, "STRICT_BACKING": str(self.backing), "STRICT_JOURNAL": str(self.journal)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(lambda: self._process.poll() is not None or os.path.ismount(self.path), 10, "mount")  # type: ignore[union-attr]
            if self._process.poll() is not None:
                raise OSError(self._process.stderr.read().decode(errors="replace").strip())  # type: ignore[union-attr]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if os.path.ismount(self.path):
            # Whoever was killed a moment ago may not have let go of its files yet.
            for _ in range(100):
                if not subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode:
                    break
                time.sleep(0.05)
            else:
                subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        if process.stderr is not None:
            process.stderr.close()

    def fail(self, kind: str, pattern: str, *, at: int = 1, number: int = errno.EIO, times: int = 1) -> None:
        """Arm one fault: the ``at``-th operation of that kind (see ``strict.c``) on a path of that pattern, counted
        from now, and ``times`` in all from there on; 0: all. Of a "sector" ``at`` is the offset."""
        os.setxattr(self.path, "user.fault", f"{kind} {pattern} {at} {number} {times}".encode())

    def heal(self) -> None:
        os.setxattr(self.path, "user.fault", b"")

    def seen(self) -> tuple[int, int]:
        """Operations that the armed fault is about, and how many of them failed."""
        seen, fired = os.getxattr(self.path, "user.fault").split()
        return int(seen), int(fired)
