"""What a disk may hold after a power cut, from the journal of ``strict.c``.

The strictest reading of POSIX: the bytes of a file are durable when a sync of that file came after them, a name when a
sync of its folder did; neither brings the other, nor anything of another file. So it makes no difference whether two
folders share a file system. What is not durable is, at each power cut, kept, dropped, or torn in sectors.

A sync that failed settles nothing, then or later: the kernel takes the pages for clean, and half of what was not
durable is lost for good.

Leaving a class of syncs out of the journal shows what the disk would hold had the program not called them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

SECTOR = 512
_ENTRY = struct.Struct("=IIQQQII")


class What(IntEnum):
    """As in ``strict.c``."""

    CREATE = 1
    MKDIR = 2
    UNLINK = 3
    RMDIR = 4
    RENAME = 5
    WRITE = 6
    TRUNCATE = 7
    ALLOCATE = 8
    SYNC = 9
    SYNCDIR = 10
    FAILED = 11
    KNOWN = 12


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the journal. ``length``: of a truncation the size, of a failure its errno."""

    what: What
    file: int
    path: str
    data: bytes
    offset: int
    length: int
    seconds: float
    """Of the system's monotonic clock."""


class Journal:
    """Reads the events of a journal that may still grow, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def events(self) -> Iterator[Event]:
        """Those that have come since the last time."""
        with self._path.open("rb") as stream:
            stream.seek(self._at)
            while len(head := stream.read(_ENTRY.size)) == _ENTRY.size:
                what, file, offset, length, nanoseconds, path, size = _ENTRY.unpack(head)
                name, data = stream.read(path), stream.read(size)
                if len(name) < path or len(data) < size:
                    return  # it is being written
                self._at = stream.tell()
                text = name.decode().removeprefix("/")
                yield Event(What(what), file, text, data, offset, length, nanoseconds / 1e9)


def events(journal: Path) -> Iterator[Event]:
    return Journal(journal).events()


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)


def _write(content: bytearray, data: bytes, offset: int) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _apply(content: bytearray, event: Event, chance: random.Random | None = None) -> None:
    """``chance``: torn, each sector by itself."""
    if event.what is What.TRUNCATE:
        if event.length < len(content):
            del content[event.length :]
        else:
            content.extend(bytes(event.length - len(content)))
    elif event.what is What.ALLOCATE:
        content.extend(bytes(max(0, event.offset + event.length - len(content))))
    elif chance is None:
        _write(content, event.data, event.offset)
    else:
        at = 0
        while at < len(event.data):
            end = at + SECTOR - (event.offset + at) % SECTOR
            if chance.random() < 0.5:
                _write(content, event.data[at:end], event.offset + at)
            at = end


Fate = Callable[[int], float]
"""Of what is not durable, by its age (0 the oldest, 1 the newest): how likely it is kept."""
FATES: dict[str, Callable[[random.Random], Callable[[float], float]]] = {
    "nothing that was not synced": lambda chance: lambda age: 0.0,
    "everything": lambda chance: lambda age: 1.0,
    "what was written first": lambda chance: (lambda cut: lambda age: float(age < cut))(chance.random()),
    "any of it": lambda chance: lambda age: 0.5,
}


class StrictDisk:
    """Fed with events in order; ``image`` writes one of the states that a power cut may leave now.

    Args:
        leave_out: Syncs that are taken as not called.
        base: A folder with what is durable from the beginning.
    """

    def __init__(
        self, seed: int = 0, leave_out: Callable[[Event], bool] = lambda event: False, base: Path | None = None
    ) -> None:
        self._chance = random.Random(seed)
        self._leave_out = leave_out
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        """Durable ones of files, and of folders (as 0)."""
        self._pending_names: dict[str, list[Event]] = {}
        for number, path in enumerate(sorted(base.rglob("*")) if base is not None else (), start=1):
            name = str(path.relative_to(base))  # type: ignore[arg-type]
            self._names[name] = 0 if path.is_dir() else -number
            if path.is_file():
                self._files[-number] = _File(bytearray(path.read_bytes()))

    def feed(self, event: Event) -> None:
        match event.what:
            case What.KNOWN:
                self._files[event.file] = self._files[self._names[event.path]]
                self._names[event.path] = event.file
            case What.CREATE:
                self._files[event.file] = _File()
                self._pending_names.setdefault(folder_of(event.path), []).append(event)
            case What.MKDIR | What.UNLINK | What.RMDIR | What.RENAME:
                self._pending_names.setdefault(folder_of(event.path), []).append(event)
            case What.WRITE | What.TRUNCATE | What.ALLOCATE:
                self._files[event.file].pending.append(event)
            case What.SYNC if not self._leave_out(event):
                file = self._files[event.file]
                for change in file.pending:
                    _apply(file.durable, change)
                file.pending.clear()
            case What.SYNCDIR if not self._leave_out(event):
                for change in self._pending_names.pop(event.path, []):
                    _rename(self._names, change)
            case What.FAILED if event.file and event.data == b"sync":
                file = self._files[event.file]
                file.pending = [change for change in file.pending if self._chance.random() < 0.5]
            case _:
                pass

    def image(self, target: Path, under: str, chance: random.Random, fate: str | None = None) -> str:
        """Write the files below ``under`` to the folder ``target``; gives the fate of what was not durable.

        Args:
            fate: One of ``FATES``; None: any of them, by chance.
        """
        name = chance.choice(list(FATES)) if fate is None else fate
        kept = FATES[name](chance)
        names = dict(self._names)
        changes = [change for pending in self._pending_names.values() for change in pending]
        changes.sort(key=lambda change: change.seconds)
        for at, change in enumerate(changes):
            if chance.random() < kept(at / len(changes)):
                _rename(names, change)
        target.mkdir()
        prefix = f"{under}/"
        folders = {under}
        for path, number in sorted(names.items()):
            if not path.startswith(prefix) or folder_of(path) not in folders:
                continue  # its folder is gone, and so is what would be in it
            place = target / path.removeprefix(prefix)
            if number:
                self._write(place, self._files[number], chance, name, kept)
            else:
                place.mkdir()
                folders.add(path)
        return name

    @staticmethod
    def _write(place: Path, file: _File, chance: random.Random, name: str, kept: Callable[[float], float]) -> None:
        content, count = file.durable, len(file.pending)
        if count:
            content = bytearray(content)
            for at, change in enumerate(file.pending):
                if chance.random() < kept(at / count):
                    torn = name == "any of it" and chance.random() < 0.5
                    _apply(content, change, chance if torn else None)
        with place.open("wb") as output:
            output.write(content.rstrip(b"\0"))
            output.truncate(len(content))


def _rename(names: dict[str, int], change: Event) -> None:
    """One change of a folder. What another dropped change has made impossible does nothing."""
    match change.what:
        case What.CREATE:
            names[change.path] = change.file
        case What.MKDIR:
            names[change.path] = 0
        case What.UNLINK | What.RMDIR:
            names.pop(change.path, None)
        case What.RENAME if change.path in names:
            names[change.data.decode().removeprefix("/")] = names.pop(change.path)
        case _:
            pass
