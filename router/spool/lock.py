"""The lock of a spool: one router at a time, however many processes it has.

It belongs to the open file, not to a process: the processes of one router inherit it, and it is free when the last of
them has ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from router.errors import SpoolError

LOCK = "lock"
"""The file's name; nobody reads it."""
RETRY = 0.05
"""Seconds between attempts."""


def take_lock(folder: Path, wait: float = 0.0) -> int:
    """A descriptor that holds the lock until it is closed, here and in all who inherited it. Blocking.

    Args:
        wait: Seconds to wait for processes that are about to end.

    Raises:
        SpoolError: Another router has it.
        OSError: The folder cannot be written to.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(RETRY)
                continue
            os.close(descriptor)
            raise SpoolError(f"the spool {folder} is in use by another process") from None
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
