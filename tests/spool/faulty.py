"""A committer whose disk fails when a test says so."""

from __future__ import annotations

import os
import threading

from tests.support.plain_committer import PlainCommitter


class Faulty(PlainCommitter):
    """Says what happens by its class: there is one at a time."""

    write_problem = 0
    after_writing = False
    """The write fails with its bytes on the disk."""
    sync_problem = 0
    syncs = 0
    go_on = threading.Event()
    syncing = threading.Event()

    @classmethod
    def heal(cls) -> None:
        cls.write_problem = cls.sync_problem = cls.syncs = 0
        cls.after_writing = False
        cls.go_on, cls.syncing = threading.Event(), threading.Event()
        cls.go_on.set()

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.write_problem and not self.after_writing:
            raise OSError(self.write_problem, os.strerror(self.write_problem))
        super().write(descriptor, data, offset)
        if self.write_problem:
            raise OSError(self.write_problem, os.strerror(self.write_problem))

    def sync(self, descriptor: int) -> None:
        type(self).syncs += 1
        self.syncing.set()
        assert self.go_on.wait(20)
        if self.sync_problem:
            raise OSError(self.sync_problem, os.strerror(self.sync_problem))
        super().sync(descriptor)
