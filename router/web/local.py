"""The admin application of one process of several, on a Unix socket that only its user can reach, and asking it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from router.errors import RouterError

MAX_PATH = 100
"""Of a socket's address, bytes; the system takes a few more."""


class NoAnswer(RouterError):
    """A process did not answer. ``asked``: it may have heard the question."""

    def __init__(self, text: str, *, asked: bool) -> None:
        super().__init__(text)
        self.asked = asked


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path, or a short way to it: addresses of sockets are short."""
    if len(os.fsencode(path)) <= MAX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def bind_local(path: Path) -> socket.socket:
    """A listening socket, in place of what an earlier process left there. Raises RouterError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        with _address(path) as address:
            listening.bind(address)
        path.chmod(0o600)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise RouterError(f"admin: cannot listen on {path.name}: {error.strerror or error}") from error
    listening.setblocking(False)
    return listening


async def ask(path: Path, method: str, target: str, body: bytes, within: float) -> tuple[int, bytes]:
    """One HTTP request; gives the status and the body of the answer. Cancelling it is safe.

    Args:
        target: Path and query, encoded.
        within: Seconds for all of it.

    Raises:
        NoAnswer: Nobody listens, or no whole answer came in time.
    """
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    asked = False
    try:
        async with asyncio.timeout(within):
            with _address(path) as address:
                reader, writer = await asyncio.open_unix_connection(address)
            with closing(writer):
                asked = True
                writer.write(head.encode() + body)
                answer = await reader.read(-1)
    except (OSError, TimeoutError) as error:
        raise NoAnswer(f"does not answer: {type(error).__name__}", asked=asked) from None
    top, end, content = answer.partition(b"\r\n\r\n")
    words = top.split(b" ", 2)
    if not end or len(words) < 3 or not words[1].isdigit():
        raise NoAnswer("did not answer to the end", asked=True)
    return int(words[1]), content
