"""The only module by which the spool may sync, itself or by its ``Committer``.

A failed sync is final: Linux marks the pages clean afterwards, so a second call would succeed and mean nothing.
``SyncFailed`` is therefore never retried, whatever its cause: who meets it stops acknowledging.
"""

from __future__ import annotations

import os
from pathlib import Path

from router._disk import Committer
from router.errors import SpoolError

__all__ = ["Committer", "SyncFailed", "sync_data", "sync_directory"]


class SyncFailed(SpoolError):
    """Bytes that were written may never reach the disk."""


def sync_data(descriptor: int) -> None:
    """The file's bytes, and its size where it grew, are on stable storage. Raises SyncFailed."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise SyncFailed(f"sync failed: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """The names in the directory are on stable storage. Raises SyncFailed, and OSError if it cannot be opened: that
    says nothing of what was written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailed(f"sync of a directory failed: {error.strerror}") from error
    finally:
        os.close(descriptor)
