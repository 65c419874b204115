"""Whether the disk below can still be believed, and what an error of the operating system says about it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from threading import Lock

from router.errors import SpoolError, SpoolFull

PASSING = {
    errno.ENOSPC: "no space left for the spool",
    errno.EDQUOT: "the spool's disk quota is used up",
    errno.EFBIG: "a segment would exceed the largest file allowed",
    errno.EMFILE: "no file descriptor left",
    errno.ENFILE: "no file descriptor left",
    errno.ENOMEM: "no memory left",
}
"""Errors that refuse this write and say nothing of what was written before."""


class Health:
    """Turns from sound to failed once, and never back. Any thread."""

    def __init__(self) -> None:
        self.failure: SpoolError | None = None
        self.on_failure: Callable[[SpoolError], None] | None = None
        """Called once, in the thread that met the failure."""
        self._lock = Lock()

    def fail(self, problem: SpoolError) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = problem
        if self.on_failure is not None:
            self.on_failure(problem)

    def judge(self, error: OSError | SpoolError) -> SpoolError:
        """What to tell the waiters; anything but want of room ends the spool."""
        if isinstance(error, OSError):
            passing = PASSING.get(error.errno or 0)
            problem = SpoolError(f"write failed: {error.strerror}") if passing is None else SpoolFull(passing)
        else:
            problem = error
        if not isinstance(problem, SpoolFull):
            self.fail(problem)
        return problem
