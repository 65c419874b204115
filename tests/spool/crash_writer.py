"""A process that stores until it is killed, keeping the books that a ledger and a sender would keep.

``books`` gets a line when an entry is synced (the sender hears 0x0000, and the ledger gets a row) and before one is
settled. SIGKILL loses nothing that was given to write(2), so the books need no sync of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from router.model import InstanceInfo, Location, LogPosition
from router.ports import SpoolEntry
from router.spool import Spool
from tests.spool.support import DECISION, SMALL, Entry, Log, bytes_of, info_of

STREAMED = 7
"""Every so many entries one is streamed."""
UNKNOWN = 3 * STREAMED
"""And every so many one is an object that the ledger has already: it gets no row, and its record is needed no more."""


def data_of(number: int) -> bytes:
    return bytes_of(random.Random(number).choice((0, 10, 500, 5000, 17_000)), number)


def info_for(number: int, size: int | None = None) -> InstanceInfo:
    return info_of(number, data_of(number) if size is None else bytes_of(size, number))


def stream_size(number: int) -> int:
    return 70_000 + number % 1000 * 100


def info_in_books(number: int) -> InstanceInfo:
    return info_for(number, stream_size(number) if number % STREAMED == 0 else None)


class Books:
    """What the parent reads after the kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[int, Location] = {}
        """What was answered and is still needed."""
        self.known: set[int] = set()
        """What was ever answered."""
        self.position = LogPosition()
        """The end of the log that was told last, as a ledger would remember it."""
        if path.exists():
            for line in path.read_text().splitlines():
                what, number, *place = json.loads(line)
                if what == "answered":
                    self.rows[number] = Location(*place)
                    self.known.add(number)
                elif what == "position":
                    self.position = LogPosition(number, *place)
                else:
                    del self.rows[number]

    def live(self) -> dict[int, tuple[int, int]]:
        live: dict[int, tuple[int, int]] = {}
        for place in self.rows.values():
            records, size = live.get(place.segment, (0, 0))
            live[place.segment] = records + 1, size + place.length
        return live


async def main(folder: Path, books_path: Path, seed: int) -> None:
    books = Books(books_path)
    descriptor = os.open(books_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    chance = random.Random(seed)

    def note(lines: list[list[object]]) -> None:
        os.write(descriptor, "".join(json.dumps(line) + "\n" for line in lines).encode())

    settleable: list[tuple[int, Location]] = []
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(30)

    def synced(entries: Sequence[SpoolEntry], position: LogPosition | None) -> None:
        lines: list[list[object]] = []
        for entry in entries:
            place = entry.location
            assert place is not None
            if entry.info.id % UNKNOWN == 0:
                continue
            lines.append(["answered", entry.info.id, place.segment, place.epoch, place.offset, place.length])
        if position is not None:
            lines.insert(0, ["position", position.epoch, position.offset])  # if a write is torn: never behind them
        note(lines)
        loop.call_soon_threadsafe(answered, list(entries))

    def answered(entries: list[SpoolEntry]) -> None:
        for entry in entries:
            room.release()
            assert entry.location is not None
            if entry.info.id % UNKNOWN == 0:
                spool.settled([entry.location])
                continue
            settleable.append((entry.info.id, entry.location))

    def failed(entries: Sequence[SpoolEntry], problem: Exception) -> None:
        os._exit(9)

    spool = Spool.open(folder, SMALL, log=Log())
    spool.adopt(books.live(), spool.end())
    settleable += books.rows.items()
    spool.start(loop, synced=synced, failed=failed)
    number = max([seed << 24, *books.rows])
    print("ready", flush=True)
    while True:
        number += 1
        await room.acquire()
        if number % STREAMED == 0:
            data = bytes_of(stream_size(number), number)
            stream = spool.stream()
            for at in range(0, len(data), 20_000):
                stream.write(data[at : at + 20_000])
                await asyncio.sleep(0)
            stream.finish(Entry(info_of(number, data), DECISION, None))
        else:
            data = data_of(number)
            spool.submit(Entry(info_of(number, data), DECISION, [data] if data else []))
        # Most are needed no more soon after: segments are used again and again.
        while len(settleable) > 60:
            gone = settleable.pop(chance.randrange(len(settleable)))
            note([["settled", gone[0]]])
            spool.settled([gone[1]])
        if number % 10 == 0:
            await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
