"""The ledgers of the oracle: what a sender meant to send, what it was answered, and what arrived where.

A sender keeps two: a line ``UID SHA-256 DESTINATIONS`` in the one each time before it sends an object, and the same
line, synced, in the other after the answer 0x0000. A destination's line, synced before it answers, is ``UID SHA-256
SECONDS``, of the system's monotonic clock.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

INTENDED = "intended-"
"""Begins the name of the ledger of what was to be sent; the rest is that of the one of answers."""


class Book:
    """A sender's pair of ledgers, written by whoever sends.

    Args:
        path: Of the ledger of answers.
        destinations: Where the rules want everything from this sender.
    """

    def __init__(self, path: Path, destinations: Sequence[str]) -> None:
        self._where = ",".join(destinations)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._answers = os.open(path, flags, 0o600)
        self._intentions = os.open(path.with_name(INTENDED + path.name), flags, 0o600)
        self._lines: dict[str, bytes] = {}

    def intend(self, uid: str, body: bytes) -> None:
        """Before it is sent, each time. Only the router is ever killed, so nothing of this needs a sync."""
        self._lines[uid] = f"{uid} {hashlib.sha256(body).hexdigest()} {self._where}\n".encode()
        os.write(self._intentions, self._lines[uid])

    def answered(self, uid: str) -> None:
        """It was answered 0x0000; on the disk when this returns."""
        os.write(self._answers, self._lines.pop(uid))
        os.fdatasync(self._answers)

    def close(self) -> None:
        os.close(self._answers)
        os.close(self._intentions)


class Page:
    """Reads a ledger that grows, each whole line once; the last may be torn if its writer was killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def turn(self) -> list[list[str]]:
        """The lines that have come since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as ledger:
            ledger.seek(self._at)
            whole, end, _ = ledger.read().rpartition(b"\n")
        self._at += len(whole) + len(end)
        return [line.decode().split() for line in whole.splitlines()]


def files(folder: Path) -> dict[str, list[str]]:
    """UID to the SHA-256 of the data set of each file in a folder destination. What no router should have left there
    has the UID "". Shares no code with who wrote them (PS3.10 §7.1)."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*.dcm"):
        content = path.read_bytes()
        uid, at = "", 144
        if content[128:140] == b"DICM\2\0\0\0UL\4\0":
            end = at + int.from_bytes(content[140:144], "little")
            while at + 12 <= end <= len(content):
                group, element, vr, size = struct.unpack_from("<HH2sH", content, at)
                at += 8
                if vr == b"OB":
                    (size,) = struct.unpack_from("<I", content, at)
                    at += 4
                if (group, element) == (2, 3):
                    uid = content[at : at + size].rstrip(b"\0").decode()
                at += size
        found.setdefault(uid, []).append(hashlib.sha256(content[at:]).hexdigest())
    return found
