"""Each writer of the router by itself, doing what it does, and writing down what it may be relied on for.

    python -m tests.torture.writers PROGRAM FOLDER BOOK [SITE | ORDERING]

A line of ``BOOK`` is written when a caller would be told that the thing is on the disk. ``PROGRAM`` is a function of
this module. What a run that was killed may have left behind, names without their syncs, each of them finds there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.sync_sites import leave_out

Note = Callable[[str], None]


def spool(folder: Path, note: Note) -> None:
    """Groups and streams, segments used again; until it is killed."""
    from tests.spool import crash_writer

    asyncio.run(crash_writer.main(folder / "s", Path(sys.argv[3]), 1))


def tail(folder: Path, note: Note) -> None:
    """Records that a killed run had written and not synced, found by the next, which relies on them."""
    from router.model import LogPosition
    from router.spool import Spool, durable
    from tests.spool.support import SMALL, Log, Running, entry_of
    from tests.support.plain_committer import PlainCommitter

    class Unsynced(PlainCommitter):
        def sync(self, descriptor: int) -> None: ...

    async def killed() -> None:
        async with Running(folder / "s") as running:
            for number in range(1, 9):
                await running.put(entry_of(number, 3000 * number))

    committer, durable.Committer = durable.Committer, Unsynced  # type: ignore[assignment,misc]
    asyncio.run(killed())
    durable.Committer = committer  # type: ignore[misc]
    found = Spool.open(folder / "s", SMALL, log=Log())
    for record in found.tail(LogPosition()):
        if record.ok and record.info is not None:
            note(str(record.info.id))
    found.close_files()


def quarantine(folder: Path, note: Note) -> None:
    """Damaged records, copied aside."""
    from tests.spool.support import Running, entry_of

    async def run() -> None:
        async with Running(folder / "s") as running:
            for number in range(1, 7):
                entry = entry_of(number, 5000 * number)
                await running.put(entry)
                path = running.spool.quarantine(entry.place)
                assert path is not None
                note(f"{path.name} {digest(path.read_bytes())}")

    asyncio.run(run())


def files(folder: Path, note: Note) -> None:
    """Objects to folder destinations: one that is new, and one of which a killed run had made the folders."""
    from router.delivery.folder_sender import SHARD, FolderSender
    from router.model import Destination, format_id
    from tests.spool.support import bytes_of, info_of

    async def deliver(target: Path, first: int) -> None:
        sender = await FolderSender.open(Destination(name="archive", kind="file", path=str(target)))

        async def one(number: int) -> None:
            data = bytes_of(700 * number, number)
            info = info_of(number << 44 | number, data)
            await sender.store(info, _Data([data]))  # type: ignore[arg-type]
            note(f"{info.sop_instance} {digest(data)}")

        for group in range(first, first + 9, 3):
            await asyncio.gather(*(one(number) for number in range(group, group + 3)))
        await sender.release()

    asyncio.run(deliver(folder / "new" / "archive", 1))
    there = folder / "there" / "archive"
    for number in range(20, 29):
        (there / format_id(number << 44 | number)[:SHARD]).mkdir(parents=True, exist_ok=True)
    asyncio.run(deliver(there, 20))


def audit(folder: Path, note: Note) -> None:
    """Messages to the audit file of a new folder, and to one that a killed run had begun, with half a line."""
    from router.audit.sinks import FileSink

    async def tell(target: Path, first: int) -> None:
        sink = FileSink(target, 0)
        for batch in range(first, first + 12, 3):
            messages = [f"message {number} {'x' * number * 100}".encode() for number in range(batch, batch + 3)]
            await sink.write(messages)
            for message in messages:
                note(message.decode())

    asyncio.run(tell(folder / "new" / "audit", 100))
    there = folder / "there" / "audit"
    asyncio.run(tell(there, 200))
    (path,) = there.iterdir()
    begun = folder / "begun" / "audit"
    begun.mkdir(parents=True)
    (begun / path.name).write_bytes(b"message 1\nmess")
    asyncio.run(tell(begun, 300))


def export(folder: Path, note: Note) -> None:
    """``dicom-router spool export``."""
    from router.app.cli.spool import _export
    from tests.spool.support import Running, entry_of

    source = Path(sys.argv[3]).resolve().parents[2] / "source"

    async def fill() -> None:
        async with Running(source) as running:
            for number in range(1, 7):
                await running.put(entry_of(number, 5000 * number))

    asyncio.run(fill())
    for target in (folder / "new" / "export", folder / "there" / "export"):
        if target.parent.name == "there":
            target.mkdir(parents=True)
        assert _export(source, target, frozenset())[0] == 6
        for path in sorted(target.iterdir()):
            note(f"{path.relative_to(folder)} {digest(path.read_bytes())}")


@dataclass
class _Data:
    buffers: list[bytes]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_are_named_before_they_are_synced() -> None:
    from router.delivery import folder_sender

    def complete(descriptor: int, temporary: Path, final: Path) -> None:
        try:
            temporary.rename(final)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        folder_sender.sync_folder(final.parent)

    assert callable(folder_sender.FolderSender._complete)
    folder_sender.FolderSender._complete = staticmethod(complete)  # type: ignore[method-assign]


def groups_are_not_synced() -> None:
    from router.spool import durable
    from tests.support.plain_committer import PlainCommitter

    class Unsynced(PlainCommitter):
        def sync(self, descriptor: int) -> None: ...

    assert callable(durable.Committer)
    durable.Committer = Unsynced  # type: ignore[assignment,misc]


OTHERS: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (files_are_named_before_they_are_synced, groups_are_not_synced)
}
"""What is no call that can be left out: an order, and native code, of which a plain reference stands in its place."""
PROGRAMS: dict[str, Callable[[Path, Note], Any]] = {
    program.__name__: program for program in (spool, tail, quarantine, files, audit, export)
}


def main() -> None:
    program, folder, book = PROGRAMS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    without = sys.argv[4] if len(sys.argv) > 4 else ""
    if without in OTHERS:
        OTHERS[without]()
    elif without:
        leave_out(without)
    output = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    program(folder, lambda line: os.write(output, f"{line}\n".encode()) and None)


if __name__ == "__main__":
    main()
