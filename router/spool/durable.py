"""The only module that may call sync.

A failed sync is final: Linux marks the pages clean afterwards, so a second call would succeed and mean nothing. Callers turn the
OSError into SpoolError and stop acknowledging.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_data(descriptor: int) -> None:
    """The file's bytes, and its size where it grew, are on stable storage. Raises OSError."""
    os.fdatasync(descriptor)


def sync_directory(path: Path) -> None:
    """The names in the directory are on stable storage. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
