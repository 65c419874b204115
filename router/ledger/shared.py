"""One ledger, several processes: how each opens it, how they take turns, and what is done before the first of them.

SQLite lets one process write at a time and has the others ask again after a while. So that none starves and none waits
longer than it must, they queue for a lock of the system's instead. It ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import apsw

from router.errors import LedgerError
from router.ledger.ballast import Ballast
from router.ledger.mend import note_damage, set_aside_if_damaged
from router.ledger.schema import immediate, migrate
from router.ledger.store import Store
from router.ports import Log

BUSY_TIMEOUT_MS = 60_000
"""For a program that is none of ours: a copy being made, a person who looks. Before anything is served."""
CACHE_KIB = 64 << 10


def connect(path: Path) -> apsw.Connection:
    """A connection that writes. Raises apsw.Error."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.execute("pragma locking_mode=normal")
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    # What a statement would put back if it failed: of a large one it went to a file, and it never has to be durable.
    connection.execute("pragma temp_store=memory")
    connection.execute("pragma foreign_keys=on")
    connection.execute(f"pragma cache_size=-{CACHE_KIB}")
    return connection


class Turn:
    """Held by whoever writes to the ledger: a context that waits until it is our turn. One thread."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_exc: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """More than once, if need be."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def prepare(path: Path, *, node: str, log: Log) -> bool:
    """What must be done once, while no process has the ledger: its tables brought up to date, leases of earlier runs
    made ready, everything counted. True if the ledger was empty. Blocking.

    Raises LedgerTooNew, LedgerError with the reason.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        set_aside_if_damaged(path, log)
        connection = connect(path)
        try:
            fresh = migrate(connection)
            store = Store(connection, "")
            with immediate(connection):
                taken = store.take_over(f"{node}/", time.time())
                store.count_anew()
        finally:
            connection.close()
    except apsw.Error as error:
        if isinstance(error, apsw.FullError) and Ballast(path).give():
            log.warning("the disk is full: the ledger gives up its ballast")
            return prepare(path, node=node, log=log)
        note_damage(path, error)
        raise LedgerError(f"cannot use the ledger {path}: {error}") from error
    if taken:
        log.info("took over unfinished deliveries", count=taken)
    return fresh
