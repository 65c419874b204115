"""``Committer`` in plain Python: the reference that the native one is compared with, and the place where a test can
look between a write and its sync, or have either fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from router.ports import Buffer
from router.spool.segment import BLOCK


class PlainCommitter:
    def __init__(self, staging: int, group_bytes: int) -> None:
        self._group_bytes = group_bytes
        self._lock = threading.Condition()
        self._waiting: list[tuple[int, bytes, int, object]] = []
        self._done: list[tuple[Any, int, int]] = []
        self._closing = self._broken = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    # What a test changes -------------------------------------------------------------------------------------

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Raises OSError."""
        if not data:
            return
        os.fstat(descriptor)
        cached = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)  # past O_DIRECT, which wants aligned memory
        try:
            assert os.pwrite(cached, data, offset) == len(data)
        finally:
            os.close(cached)

    def sync(self, descriptor: int) -> None:
        """Raises OSError."""
        os.fdatasync(descriptor)

    # The interface -------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._event

    def submit(self, descriptor: int, buffers: Sequence[Buffer], offset: int, token: object) -> None:
        data = b"".join(buffers)
        data = data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")
        if offset % BLOCK:
            raise ValueError("not the beginning of a block")
        with self._lock:
            if self._closing:
                raise ValueError("closed")
            self._waiting.append((descriptor, data, offset, token))
            self._lock.notify()

    def done(self) -> list[tuple[Any, int, int]]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with self._lock:
            found, self._done = self._done, []
        return found

    def reset(self) -> None:
        with self._lock:
            self._broken = False

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def __del__(self) -> None:
        os.close(self._event)

    # The thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closing:
                    self._lock.wait()
                if not self._waiting:
                    return
                group = [self._waiting.pop(0)]
                size = len(group[0][1])
                while (
                    self._waiting
                    and self._waiting[0][0] == group[0][0]
                    and self._waiting[0][2] == group[0][2] + size
                    and size < self._group_bytes
                ):
                    group.append(self._waiting.pop(0))
                    size += len(group[-1][1])
                broken = self._broken
            problems = (errno.ECANCELED, 0) if broken else self._commit(group)
            with self._lock:
                self._broken = self._broken or any(problems)
                self._done += [(token, *problems) for *_, token in group]
            os.eventfd_write(self._event, 1)

    def _commit(self, group: list[tuple[int, bytes, int, object]]) -> tuple[int, int]:
        descriptor, _, offset, _ = group[0]
        try:
            self.write(descriptor, b"".join(data for _, data, _, _ in group), offset)
        except OSError as error:
            return error.errno or errno.EIO, 0
        try:
            self.sync(descriptor)
        except OSError as error:
            return 0, error.errno or errno.EIO
        return 0, 0
