"""Where audit messages go: a collector over TLS, or a file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from router.audit.syslog import frame
from router.folders import make_folder, sync_folder
from router.net import tuning
from router.net.tls import Credentials

HAND_OVER = 30.0
"""Seconds that a collector may take for a batch, and for a connection."""
LOOK_EVERY = 0.01
"""Seconds between looks whether the collector's system has everything."""
SETTLES = 10.0
"""Seconds that a connection must stand behind a message before that counts as told: RFC 5425 knows no answer, and what
a collector's system had and it had not read when it died is lost with it."""

REFUSAL = 0.5
"""Seconds that the refusal of a certificate may take."""


class Sink(Protocol):
    settles: float
    """Seconds without an error behind ``write`` after which messages are where they belong."""

    @property
    def place(self) -> str:
        """For people."""

    async def write(self, messages: Sequence[bytes]) -> None:
        """Raises OSError (TLS errors are such): none of those since ``settles`` ago may count as told."""

    async def check(self) -> None:
        """Raises OSError as soon as it is known that what was written may be lost."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Streams:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    transport: asyncio.WriteTransport
    """Below TLS."""

    @property
    def unacknowledged(self) -> int:
        """Bytes that the peer's system has not said to have."""
        waiting = self.writer.transport.get_write_buffer_size() + self.transport.get_write_buffer_size()
        return waiting or tuning.unacknowledged(self.transport)


class CollectorSink:
    """Syslog over TLS (RFC 5425). A connection is opened when there is something to tell."""

    settles = SETTLES

    def __init__(self, host: str, port: int, credentials: Credentials) -> None:
        self._host = host
        self._port = port
        self._credentials = credentials
        self._streams: _Streams | None = None

    @property
    def place(self) -> str:
        return f"syslog+tls://{self._host}:{self._port}"

    async def write(self, messages: Sequence[bytes]) -> None:
        try:
            async with asyncio.timeout(HAND_OVER):
                if self._streams is None:
                    self._streams = await self._connect()
                await self.check()
                streams = self._streams
                streams.writer.writelines([frame(message) for message in messages])
                await streams.writer.drain()
                await self.check()
                # What a firewall drops or a collector does not read stays here, and nobody would tell us for minutes.
                while streams.unacknowledged:
                    await asyncio.sleep(LOOK_EVERY)
                    await self.check()
        except TimeoutError:
            await self.close()
            raise OSError("the collector does not answer in time") from None
        except OSError:
            await self.close()
            raise

    async def greet(self) -> None:
        """Connect, and wait a moment: with TLS 1.3 a collector that does not take our certificate says so only behind
        the handshake. Raises OSError."""
        await self.write(())
        if self._streams is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFUSAL):
                    await self._streams.reader.read(1)
        await self.check()

    async def _connect(self) -> _Streams:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        streams = _Streams(reader, writer, writer.transport)
        try:
            plain = tuning.plain_socket(streams.transport)
            if plain is not None:
                tuning.prepare(plain)
                plain.detach()  # the transport closes it
            await writer.start_tls(
                self._credentials.context, server_hostname=self._credentials.settings.server_name or self._host
            )
            self._credentials.check_peer(writer.get_extra_info("ssl_object"))
        except BaseException:
            streams.transport.abort()
            raise
        return streams

    async def check(self) -> None:
        if self._streams is None:
            return
        reader, writer, transport = self._streams.reader, self._streams.writer, self._streams.transport
        if reader.at_eof() or writer.is_closing() or transport.is_closing() or reader.exception() is not None:
            await self.close()
            raise ConnectionResetError("the collector closed the connection")

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams.writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await streams.writer.wait_closed()


class FileSink:
    """One message a line, a file a day (UTC), for its owner alone. What is written is on the disk.

    Args:
        keep: Seconds after which a day's file is deleted; 0: never.
    """

    settles = 0.0

    def __init__(self, folder: Path, keep: float) -> None:
        self._folder = folder
        self._keep = keep
        self._swept = ""
        self._named: Path | None = None
        """The file whose name, by this run, is on the disk; a run before it may have been killed before its sync."""

    @property
    def place(self) -> str:
        return str(self._folder)

    async def write(self, messages: Sequence[bytes]) -> None:
        await asyncio.to_thread(self._write, b"".join(message + b"\n" for message in messages))

    async def check(self) -> None:
        """Nothing is lost that was written."""

    async def close(self) -> None:
        """Nothing is open."""

    def _write(self, data: bytes) -> None:
        day = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d")
        path = self._folder / f"audit-{day}.log"
        fresh = path != self._named or not path.exists()
        if fresh:
            make_folder(self._folder, 0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if fresh and size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # half a line of a run that was killed takes none of ours with it
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # no half a line before the next attempt
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if fresh:
            sync_folder(self._folder)
            self._named = path
        if day != self._swept:
            self._swept = day
            self._sweep()

    def _sweep(self) -> None:
        if not self._keep:
            return
        for path in self._folder.glob("audit-????-??-??.log"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - self._keep:
                    path.unlink()
