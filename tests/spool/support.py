"""Entries, and a spool that tells the loop what became of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from router.errors import SpoolError
from router.model import (
    Decision,
    Delivery,
    InstanceInfo,
    Location,
    LogPosition,
    Origin,
    Priority,
    SpoolSettings,
    Verdict,
)
from router.ports import SpoolEntry
from router.spool import FoundRecord, Spool
from router.spool.pool import Segment, SegmentPool

ORIGIN = Origin(listener="127.0.0.1:11112", peer="ct1", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1")
DECISION = Decision(
    verdict=Verdict.ROUTE,
    destinations=("PACS", "VNA"),
    priority=Priority.STAT,
    rules=("ct-to-pacs",),
    version="0123456789ab",
)
SMALL = SpoolSettings(segment_size=64 << 10, spare_segments=2, reserve_associations=0, reserve_objects=0)
"""Segments that are soon full, on any disk."""


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def _add(self, level: str, event: str, values: dict[str, Any]) -> None:
        self.lines.append((level, event, values))

    def debug(self, event: str, **values: Any) -> None:
        self._add("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        self._add("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._add("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        self._add("error", event, values)

    def errors(self) -> list[str]:
        return [event for level, event, _ in self.lines if level == "error"]


@dataclass(eq=False)
class Entry:
    info: InstanceInfo
    decision: Decision
    chunks: list[bytes] | None
    location: Location | None = None

    @property
    def place(self) -> Location:
        assert self.location is not None
        return self.location

    def data(self) -> bytes:
        return b"".join(self.chunks or ())


def info_of(number: int, data: bytes, **values: Any) -> InstanceInfo:
    info = InstanceInfo(
        id=number,
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        sop_instance=f"1.2.826.0.1.{number}",
        transfer_syntax="1.2.840.10008.1.2.1",
        origin=ORIGIN,
        received=1_700_000_000.5,
        size=len(data),
        checksum=xxhash.xxh3_128_digest(data),
        study="1.2.3",
        series="1.2.3.4",
        patient_id="SYNTHETIC1",
        accession="A1",
        modality="CT",
    )
    return replace(info, **values)


def bytes_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def entry_of(number: int, size: int = 1000, *, chunk: int = 400, **values: Any) -> Entry:
    data = bytes_of(size, number)
    chunks = [data[at : at + chunk] for at in range(0, size, chunk)]
    return Entry(info_of(number, data, **values), DECISION, chunks)


@dataclass
class Told:
    """What the spool said, in order: ("synced" | "failed", ids)."""

    calls: list[tuple[str, list[int]]] = field(default_factory=list)
    problems: list[SpoolError] = field(default_factory=list)
    settled: dict[int, SpoolError | None] = field(default_factory=dict)


class Running:
    """A started spool and what became of its entries. ``async with``."""

    def __init__(
        self,
        folder: Path,
        settings: SpoolSettings = SMALL,
        *,
        live: dict[int, tuple[int, int]] | None = None,
        on_synced: Callable[[Sequence[SpoolEntry]], None] = lambda entries: None,
    ) -> None:
        self.folder = folder
        self.log = Log()
        self.told = Told()
        self.broken: list[SpoolError] = []
        self.position = LogPosition()
        """The end of the log that was told last."""
        self._settings = settings
        self._live = live or {}
        self._on_synced = on_synced
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Running:
        self.loop = asyncio.get_running_loop()
        self.spool = Spool.open(self.folder, self._settings, log=self.log)
        self.spool.adopt(self._live, self.spool.end())
        self.spool.start(self.loop, synced=self._synced, failed=self._failed, broken=self.broken.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.spool.close()

    @property
    def pool(self) -> SegmentPool:
        return self.spool._pool

    def segment(self, entry: Entry) -> Segment:
        return self.pool.segments[entry.place.segment]

    def _synced(self, entries: Sequence[SpoolEntry], position: LogPosition | None) -> None:
        if position is not None:
            assert position > self.position
            self.position = position
        try:
            self._on_synced(entries)
        finally:
            self._end("synced", entries, None)

    def _failed(self, entries: Sequence[SpoolEntry], problem: SpoolError) -> None:
        self.told.problems.append(problem)
        self._end("failed", entries, problem)

    def _end(self, what: str, entries: Sequence[SpoolEntry], problem: SpoolError | None) -> None:
        numbers = [entry.info.id for entry in entries]
        self.told.calls.append((what, numbers))
        for number in numbers:
            assert number not in self.told.settled, "an entry is told of once"
            self.told.settled[number] = problem
        self.loop.call_soon_threadsafe(self._wake, numbers, problem)

    def _wake(self, numbers: list[int], problem: SpoolError | None) -> None:
        for number in numbers:
            future = self._waiting.setdefault(number, self.loop.create_future())
            if problem is None:
                future.set_result(None)
            else:
                future.set_exception(problem)
                future.exception()  # it may be of no interest to anybody

    async def ended(self, entry: Entry) -> None:
        """Until the entry is synced; raises what it failed with."""
        await self._waiting.setdefault(entry.info.id, self.loop.create_future())

    async def put(self, *entries: Entry) -> None:
        for entry in entries:
            self.spool.submit(entry)
        for entry in entries:
            await self.ended(entry)

    async def put_stream(self, number: int, size: int, *, piece: int = 100_000, **values: Any) -> Entry:
        data = bytes_of(size, number)
        stream = self.spool.stream()
        for at in range(0, size, piece):
            stream.write(data[at : at + piece])
        entry = Entry(info_of(number, data, **values), DECISION, None)
        stream.finish(entry)
        await self.ended(entry)
        return entry

    async def read(self, entry: Entry) -> bytes:
        return b"".join(await self.spool.load(entry.info, entry.place))

    async def files_settled(self) -> None:
        """Until the thread that makes and deletes files has nothing to do."""
        await self.loop.run_in_executor(self.spool._files, lambda: None)


def delivery_of(entry: Entry, *, chunks: list[bytes] | None = None) -> Delivery:
    return Delivery(id=1, destination="PACS", instance=entry.info, location=entry.place, chunks=chunks)


async def streamed(spool: Spool, entry: Entry) -> bytes:
    return b"".join([piece async for piece in spool.source(delivery_of(entry)).chunks()])


def found(folder: Path, settings: SpoolSettings = SMALL) -> list[FoundRecord]:
    """What a new process finds."""
    spool = Spool.open(folder, settings, log=Log())
    try:
        return list(spool.scan())
    finally:
        spool.close_files()


def live_of(*entries: Entry) -> dict[int, tuple[int, int]]:
    """What the ledger says at the next start."""
    live: dict[int, tuple[int, int]] = {}
    for entry in entries:
        records, size = live.get(entry.place.segment, (0, 0))
        live[entry.place.segment] = records + 1, size + entry.place.length
    return live
