"""Bulk past the page cache, written and read back.

A group is assembled in an aligned buffer that is used again and again, and written with O_DIRECT. Through the page
cache every group takes new pages, whose allocation on a busy machine costs more than ten times as much CPU as the copy
made here (figures in ``spool``), and the sync then still has all of it to write. Records are nearly always sent from
memory, so the pages would have helped nobody. What is large and is read back after all is read once, into memory that
is used again.

A file system that refuses O_DIRECT gets the same writes and reads through its cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from router._disk import write_blocks
from router.ports import Buffer
from router.spool.segment import BLOCK


class Staging:
    """An aligned buffer. One thread at a time."""

    def __init__(self, capacity: int) -> None:
        """Args: capacity: Bytes, a multiple of the block size."""
        self._memory = memoryview(mmap.mmap(-1, capacity))

    def write(self, descriptor: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write all of it at ``offset`` (a multiple of the block size), zeros up to the end of the last block; gives
        the offset behind that. Raises OSError."""
        return write_blocks(descriptor, buffers, offset, self._memory)


def read_past_cache(descriptor: int) -> None:
    """From here on, reads of this descriptor (with ``read_piece``) leave nothing in the page cache and find what was
    written past it. Nothing changes where the file system refuses it."""
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)


def can_write_direct(path: Path) -> bool:
    """Whether O_DIRECT works there, found out by trying. Raises OSError for anything else that is wrong.

    Args:
        path: A file whose content is of no use. One that is there already asks nothing more of a full disk.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    try:
        Staging(BLOCK).write(descriptor, [bytes(BLOCK)], 0)
    except OSError as error:
        # A full disk says nothing of O_DIRECT; it is met again by who has to write.
        return error.errno != errno.EINVAL
    finally:
        os.close(descriptor)
    return True
