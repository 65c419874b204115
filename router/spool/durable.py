"""The only module that may call sync.

A failed sync is final: Linux marks the pages clean afterwards, so a second call would succeed and mean nothing.
``SyncFailed`` is therefore never retried, whatever its cause: who meets it stops acknowledging.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from router._disk import write_blocks
from router.errors import SpoolError
from router.ports import Buffer


class SyncFailed(SpoolError):
    """Bytes that were written may never reach the disk."""


def sync_data(descriptor: int) -> None:
    """The file's bytes, and its size where it grew, are on stable storage. Raises SyncFailed."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise SyncFailed(f"sync failed: {error.strerror}") from error


def write_and_sync(descriptor: int, buffers: Sequence[Buffer], offset: int, staging: memoryview) -> int:
    """``Staging.write`` and ``sync_data`` in one go; gives the offset behind the last block.

    Raises:
        OSError: It could not be written, and was not synced.
        SyncFailed: It was written.
    """
    end, problem = write_blocks(descriptor, buffers, offset, staging, sync=True)
    if problem:
        raise SyncFailed(f"sync failed: {os.strerror(problem)}")
    return end


def sync_directory(path: Path) -> None:
    """The names in the directory are on stable storage. Raises SyncFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SyncFailed(f"sync of a directory failed: {error.strerror}") from error
