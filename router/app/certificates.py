"""The certificates in force: read at the start, again whenever their files change or somebody asks, and told of before
they end.

What is wrong with a new file is said, and what was read before stays in force. Associations that are open are not
touched: they keep what they were opened with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from router.app.config import Config
from router.app.watching import looks
from router.errors import ConfigError
from router.model import TlsSettings
from router.net.tls import DAY, WARN_DAYS, Credentials, TlsFilesError
from router.ports import Log

COLLECTOR = "(audit collector)"
"""Its name where destinations have theirs; none of theirs has brackets."""

SetExpiry = Callable[[str, str, float], None]
"""(listener, destination, epoch seconds); one of the two names is empty."""


class CertificatesInForce:
    """One ``Credentials`` per listener and destination that speaks TLS.

    Args:
        expires: Told of the end of every certificate of ours.

    Raises:
        ConfigError: Files cannot be used; all problems at once.
    """

    def __init__(self, config: Config, *, expires: SetExpiry, log: Log) -> None:
        self.listeners: dict[str, Credentials] = {}
        self.destinations: dict[str, Credentials] = {}
        self.collector: dict[str, Credentials] = {}
        """Of the audit trail; empty where it has none."""
        self._expires = expires
        self._log = log
        self._lock = asyncio.Lock()
        self._told: dict[tuple[str, str], float] = {}
        problems: list[str] = []
        for listener in config.listeners:
            if listener.tls is not None:
                _load(self.listeners, listener.name, listener.tls, problems, server_side=True)
        for destination in config.destinations:
            if destination.tls is not None:
                _load(self.destinations, destination.name, destination.tls, problems, server_side=False)
        if config.audit.tls is not None:
            _load(self.collector, COLLECTOR, config.audit.tls, problems, server_side=False)
        if problems:
            raise ConfigError(problems)
        self._stamps = self._stamp()
        self._tell()

    async def reload(self) -> list[str]:
        """Read all files again; gives the problems. Whose files are wrong keeps what it has. Cancelling it is safe."""
        problems = []
        async with self._lock:
            self._stamps = await asyncio.to_thread(self._stamp)
            for _, _, credentials in self._all():
                before = credentials.certificate
                try:
                    await asyncio.to_thread(credentials.reload)
                except TlsFilesError as error:
                    problem = f"{credentials.settings.place}: {error}"
                    problems.append(problem)
                    self._log.error("certificate refused, what was read before stays in force", problem=problem)
                else:
                    if credentials.certificate != before:
                        self._log.info("certificate reloaded", place=credentials.settings.place)
            self._tell()
        return problems

    async def watch(self) -> None:
        """Reload whenever one of the files has changed; until cancelled."""
        folders = {file.parent for file in self._files()}
        if not folders:
            return
        # Folders, since files are replaced by renaming, perhaps far behind a symbolic link.
        async for _ in looks(folders, self._log):
            if await asyncio.to_thread(self._stamp) != self._stamps:
                await self.reload()
            else:
                self._tell()

    def _tell(self) -> None:
        """Once for each step towards an end."""
        now = time.time()
        for listener, destination, credentials in self._all():
            certificate = credentials.certificate
            if certificate is None:
                continue
            self._expires(listener, destination, certificate.not_after)
            left = certificate.not_after - now
            step = next((days * DAY for days in (0, *WARN_DAYS) if left < days * DAY), None)
            name = (listener, destination)
            if step is None:
                self._told.pop(name, None)
            elif step < self._told.get(name, step + 1):
                self._told[name] = step
                say = self._log.warning if left > 0 else self._log.error
                say(
                    "certificate expires soon" if left > 0 else "certificate is expired",
                    place=credentials.settings.place,
                    days=int(left // DAY),
                )

    def _all(self) -> list[tuple[str, str, Credentials]]:
        return [(name, "", one) for name, one in self.listeners.items()] + [
            ("", name, one) for name, one in (*self.destinations.items(), *self.collector.items())
        ]

    def _files(self) -> list[Path]:
        return [Path(file) for _, _, one in self._all() for file in _named_by(one.settings) if file]

    def _stamp(self) -> dict[Path, tuple[int, int, int]]:
        """What tells one state of the files from another."""
        found = {}
        for file in self._files():
            with suppress(OSError):
                stat = file.stat()
                found[file] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        return found


def _named_by(settings: TlsSettings) -> tuple[str, ...]:
    password = settings.key_password
    return settings.certificate, settings.key, settings.ca, settings.crl, "" if password is None else password.file


def _load(
    into: dict[str, Credentials], name: str, settings: TlsSettings, problems: list[str], *, server_side: bool
) -> None:
    try:
        into[name] = Credentials(settings, server_side=server_side)
    except TlsFilesError as error:
        problems.append(f"{settings.place}: {error}")
