"""The key of the hashes that stand for UIDs in logs: kept, so that the lines of one UID compare over restarts.

Whoever has the key can find out by trying which UID a hash stands for, so it is readable for the router's user alone.
It is no part of the promise and is not synced: losing it costs only that older lines compare with older ones.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

NAME = "log.key"
SIZE = 32
"""Bytes."""


def kept_key(folder: Path) -> tuple[bytes, str]:
    """The key in ``folder``, made if there is none; and what a person should know of it, or "".

    Several processes may ask at once: one key wins, and each gets it.

    Raises:
        OSError: It can be neither read nor made.
    """
    path = folder / NAME
    told = ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(SIZE + 1) if stat.S_ISREG(status.st_mode) else b""
        if len(key) == SIZE and not status.st_mode & 0o077:
            _tidy(folder)
            return key, ""
        told = "was readable by others" if status.st_mode & 0o077 else "was damaged"
        path.unlink(missing_ok=True)
    key = _make(path)
    _tidy(folder)
    return key, told and f"{path} {told}: a new key was made, and hashes of UIDs differ from earlier ones"


def _tidy(folder: Path) -> None:
    """A kill may have left a key that was being made. There is one now, so whoever still makes another needs it not."""
    for left in folder.glob(f".{NAME}.*"):
        with suppress(OSError):
            left.unlink()


def _make(path: Path) -> bytes:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SIZE))
        with suppress(FileExistsError, FileNotFoundError):  # another's key stands, and ours may have been tidied away
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    with path.open("rb") as file:
        return file.read(SIZE)
