"""Socket options that decide latency and how soon a vanished peer is noticed (Linux; others are left as they are)."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from contextlib import suppress

KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
USER_TIMEOUT = 60
"""Seconds that sent bytes may stay unacknowledged."""


def plain_socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    """The transport's own descriptor as a socket, to be ``detach``-ed when the transport is gone; None where bytes do
    not go to the wire as they are (TLS), or there is no descriptor."""
    if transport.get_extra_info("sslcontext") is not None:
        return None
    theirs = transport.get_extra_info("socket")
    if theirs is None or theirs.fileno() < 0:
        return None
    return socket.socket(theirs.family, theirs.type, theirs.proto, fileno=theirs.fileno())


def prepare(sock: socket.socket) -> None:
    """Set once per connection. A socket that refuses an option (another family, another system) works without it."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT * 1000)


def acknowledge_at_once(sock: socket.socket) -> None:
    """After every read: the option does not stick. A peer with Nagle on sends the body of a message only when its small
    header has been acknowledged; delayed, that costs about 40 ms per object."""
    if hasattr(socket, "TCP_QUICKACK"):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def unacknowledged(transport: asyncio.BaseTransport) -> int:
    """Bytes that our system has and the peer's has not said to have (SIOCOUTQ). Only while the transport is open."""
    theirs = transport.get_extra_info("socket")
    return int.from_bytes(fcntl.ioctl(theirs.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
