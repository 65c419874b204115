"""Room that the ledger gives up when the disk is full, so that it can go on telling what was delivered.

Below the floors of the spool nothing is received any more, but something else may still fill the disk to its last byte.
What is delivered then has to be recorded, or no room is ever made by letting go of it; and a start has to be recorded,
or nothing is delivered. It is a file like any other: who took the last byte may take these too.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LARGEST = 64 << 20
SHARE = 64
"""Of a small disk, one part in so many."""
SPARE = 4
"""It is made while at least so many times its size are free."""


class Ballast:
    """Beside the ledger at ``path``. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".ballast")

    def make(self) -> None:
        """If there is none, and room enough. Never raises: it is a help, and no need."""
        with suppress(OSError):
            state = os.statvfs(self._path.parent)
            size = min(LARGEST, state.f_blocks * state.f_frsize // SHARE)
            with suppress(FileNotFoundError):
                if self._path.stat().st_size >= size:
                    return
                self._path.unlink()  # who made it was killed over it
            if state.f_bavail * state.f_frsize < SPARE * size:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError:
                self._path.unlink()
            finally:
                os.close(descriptor)

    def give(self) -> bool:
        """Whether there was one: then there is room now."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
