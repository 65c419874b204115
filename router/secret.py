"""Secrets by reference: the configuration says where one is, never what it is.

A reference can be shown, logged and handed to another process. The secret itself is read when it is needed, so that a
new one takes effect with the next reload, and is held no longer than that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from router.errors import RouterError

LONGEST = 64 << 10
"""Bytes of a file that holds a secret."""


class SecretError(RouterError):
    """A secret cannot be had; the text names its reference and what would do."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """One of the two is set."""

    env: str = ""
    """Name of an environment variable."""
    file: str = ""
    """Path of a file that holds nothing else, but for a line's end."""

    def __str__(self) -> str:
        return f"environment variable {self.env}" if self.env else self.file

    def read(self, env: Mapping[str, str] | None = None) -> str:
        """The secret. Blocking.

        Args:
            env: The process's environment by default.

        Raises:
            SecretError: It is not there, is empty, or others can read it.
        """
        secret = (os.environ if env is None else env).get(self.env, "") if self.env else _content(self.file)
        if not secret:
            raise SecretError(f"{self} is not set" if self.env else f"{self} is empty")
        return secret


def readable_by_others(status: os.stat_result) -> bool:
    """Whether more people than the router's user can read a file, or write to it.

    A file of root's may have a group if we are not root: that is how a service without privileges is given one
    (systemd's LoadCredential=, Debian's ssl-cert, a mounted secret).
    """
    given = status.st_uid == 0 and os.geteuid() != 0
    return bool(status.st_mode & (0o037 if given else 0o077))


def _content(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SecretError(f"{path} is no file")
            if readable_by_others(status):
                raise SecretError(f"{path} can be read by others: chmod go= {path}")
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise SecretError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > LONGEST:
        raise SecretError(f"{path}: larger than {LONGEST >> 10} KiB")
    try:
        return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8") from None
