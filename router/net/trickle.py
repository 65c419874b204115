"""Peers that say their bytes one by one: the system gathers them, not the loop.

A read of the loop costs the same for one byte as for thousands, so a thousand slow senders could take a good part of
it. From one whose reads bring next to nothing the socket says "readable" only when more of what is missing is there
(SO_RCVLOWAT). Its end, an error and full buffers are told as before, and deadlines are not the socket's.
"""

from __future__ import annotations

import socket
from contextlib import suppress

SMALL = 64
"""A read of fewer bytes than these, beyond what was awaited, is a small one."""
PATIENCE = 2
"""Small reads one after the other that are taken as they come: headers in a write of their own."""
LOW_WATER = 256
"""Most bytes that are awaited in the system: a quarter of a second at the smallest rate that is allowed."""


class LowWater:
    """How much one socket awaits before it is readable."""

    __slots__ = ("_mark", "small")

    def __init__(self) -> None:
        self._mark = 1
        self.small = 0
        """Small reads one after the other; while there are none, a read of which nothing is missing changes nothing."""

    def after_read(self, sock: socket.socket, size: int, missing: int) -> None:
        """Call after each read.

        Args:
            size: Bytes that were read.
            missing: To the end of the unit that they are part of; 0: it is complete, or nothing has come of it.
        """
        if size >= self._mark + SMALL:
            self.small = 0
        elif missing:
            self.small += 1
        # Never more than what surely comes: the rest of a unit would otherwise be awaited in vain.
        mark = max(1, min(missing, LOW_WATER)) if self.small > PATIENCE else 1
        if mark != self._mark:
            self._mark = mark
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)


class TlsRecords:
    """Where the records of a TLS connection end (RFC 8446 §5.1: type, version, length of two bytes)."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0

    @property
    def missing(self) -> int:
        """Bytes to the end of the record under way, or of its header; 0 between two."""
        if self._header:
            return 5 - len(self._header)
        return self._left

    def feed(self, data: memoryview) -> None:
        position = 0
        while position < len(data):
            if not self._left:
                piece = data[position : position + 5 - len(self._header)]
                self._header += piece
                position += len(piece)
                if len(self._header) == 5:
                    self._left = int.from_bytes(self._header[3:], "big")
                    self._header.clear()
            else:
                taken = min(self._left, len(data) - position)
                self._left -= taken
                position += taken
