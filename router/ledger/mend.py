"""A ledger whose file is damaged: set aside at a start, so that the spool's records can rebuild it.

Damage is met where a page is used. What SQLite cannot even open is set aside at once. What it stumbles over later ends
the process, and leaves a note by which the next start reads every page before it relies on any.

Only damage counts, never a failed read: a disk that does not answer today may do so tomorrow.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path

import apsw

from router.ports import Log

DAMAGED = (apsw.CorruptError, apsw.NotADBError)
_PARTS = ("-wal", "-shm", "")
"""The database last: a log without it is nothing, but with a new one it would be taken for that one's."""


def _note(path: Path) -> Path:
    return path.with_suffix(".suspect")


def note_damage(path: Path, error: BaseException) -> None:
    """Have the next start read every page, if that is what the error says. Any thread."""
    if isinstance(error, DAMAGED):
        with suppress(OSError):
            _note(path).touch(mode=0o600)


def set_aside_if_damaged(path: Path, log: Log) -> None:
    """Rename a ledger that cannot be read; nothing is left at ``path`` then. While no process has it. Blocking.

    Raises apsw.Error for anything but damage, OSError.
    """
    suspect = _note(path).exists()
    if path.exists():
        try:
            _read(path, every_page=suspect)
        except DAMAGED:
            suffix = f".damaged-{time.time_ns()}"
            for part in _PARTS:
                with suppress(FileNotFoundError):
                    path.with_name(f"{path.name}{part}").rename(path.with_name(f"{path.name}{part}{suffix}"))
            log.error("the ledger is damaged and was set aside", file=f"{path.name}{suffix}")
    if suspect:
        _note(path).unlink()


def _read(path: Path, *, every_page: bool) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        tables = connection.execute("select count(*) from sqlite_schema").fetchone()
        if every_page and tables is not None:
            verdict = connection.execute("pragma integrity_check(1)").fetchone()
            if verdict is None or verdict[0] != "ok":
                raise apsw.CorruptError("integrity check failed")
