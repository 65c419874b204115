"""The spool and the ledger each by itself: ``python -m benchmarks.micro_storage``.

Objects per second and CPU microseconds per object, everything durable; 4 and 64 objects under way at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from router.ledger import Receipt, SqliteLedger
from router.model import (
    Decision,
    InstanceInfo,
    Location,
    LogPosition,
    Origin,
    Outcome,
    OutcomeKind,
    SpoolSettings,
    Verdict,
)
from router.ports import SpoolEntry
from router.spool import Spool

ORIGIN = Origin(listener="127.0.0.1:11112", peer="ct1", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1")
DECISION = Decision(verdict=Verdict.ROUTE, destinations=("pacs",), rules=("all",), version="0123456789ab")
PIECE = 128 << 10


class Silent:
    def error(self, event: str, **values: object) -> None: ...

    debug = info = warning = error


class Entry:
    def __init__(self, info: InstanceInfo, chunks: list[bytes]) -> None:
        self.info, self.decision, self.chunks = info, DECISION, chunks
        self.location: Location | None = None


def info_of(number: int, size: int, checksum: bytes) -> InstanceInfo:
    return InstanceInfo(
        id=number, sop_class="1.2.840.10008.5.1.4.1.1.2", sop_instance=f"2.25.{number}", study="2.25.1",
        series="2.25.2", transfer_syntax="1.2.840.10008.1.2.1", origin=ORIGIN, received=1.7e9, size=size,
        checksum=checksum, patient_id="SYNTHETIC1", accession="A1", modality="CT",
    )  # fmt: skip


async def spool(folder: Path, size: int, count: int, at_once: int) -> tuple[float, float]:
    """(objects per second, CPU seconds per object)"""
    loop = asyncio.get_running_loop()
    data = os.urandom(size)
    checksum = xxhash.xxh3_128_digest(data)
    chunks = [data[at : at + PIECE] for at in range(0, size, PIECE)]
    store = Spool.open(folder, SpoolSettings(), log=Silent())
    store.adopt({}, store.end())
    room = asyncio.Semaphore(at_once)
    left = count
    over = loop.create_future()

    def synced(entries: Sequence[SpoolEntry], position: LogPosition | None) -> None:
        nonlocal left
        left -= len(entries)
        store.settled([entry.location for entry in entries if entry.location is not None])
        for _ in entries:
            room.release()
        if not left:
            over.set_result(None)

    def failed(entries: Sequence[SpoolEntry], problem: Exception) -> None:
        if not over.done():
            over.set_exception(problem)
        for _ in entries:
            room.release()  # who waits for room looks whether it is over

    store.start(loop, synced=synced, failed=failed)
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(1, count + 1):
        await room.acquire()
        if over.done():
            break
        store.submit(Entry(info_of(number, size, checksum), chunks))
    await over
    result = count / (time.perf_counter() - began), (time.process_time() - cpu) / count
    await store.close()
    return result


async def ledger(folder: Path, count: int, at_once: int) -> tuple[float, float]:
    """Recorded and, in the same transactions, the delivery of what was recorded before."""
    loop = asyncio.get_running_loop()
    book = SqliteLedger.open(folder / "ledger.db", node="bench", log=Silent())
    book.start(loop, failed=lambda error: None)
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, at_once):
        receipts = [
            Receipt(
                info=info_of(number, 1000, number.to_bytes(16, "big")), decision=DECISION,
                location=Location(1, 1, 4096 * number, 2000), direct=frozenset(DECISION.destinations),
            )
            for number in range(start + 1, start + at_once + 1)
        ]  # fmt: skip
        future: asyncio.Future[list[Outcome]] = loop.create_future()

        def done(results: object, future: asyncio.Future[list[Outcome]] = future) -> None:
            if isinstance(results, list):
                loop.call_soon_threadsafe(future.set_result, [d for result in results for d in result.deliveries])
            else:
                loop.call_soon_threadsafe(future.set_exception, RuntimeError(str(results)))

        book.record(receipts, done, position=LogPosition(1, start), owed=True)
        for delivery in await future:
            book.settle(
                Outcome(
                    delivery_id=delivery.id, destination=delivery.destination, instance=delivery.instance, fence=delivery.fence,
                    kind=OutcomeKind.DELIVERED, status=0,
                )
            )  # fmt: skip
    await book.flush()
    result = count / (time.perf_counter() - began), (time.process_time() - cpu) / count
    await book.close()
    return result


def show(name: str, measure: Callable[[Path], tuple[float, float]], folder: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        rate, cpu = measure(Path(temporary))
    print(f"{name:34} {rate:10,.0f}/s {cpu * 1e6:8.0f} us CPU each", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro_storage", description="Spool and ledger alone.")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    for size, count in ((16 << 10, 20_000), (512 << 10, 3_000)):
        for at_once in (4, 64):
            number = max(64, int(count * options.scale))
            show(
                f"spool, {size >> 10} KiB, {at_once} at once",
                lambda folder, n=number, s=size, a=at_once: asyncio.run(spool(folder / "spool", s, n, a)),  # type: ignore[misc]
                options.folder,
            )
    for at_once in (4, 64):
        number = max(64, int(20_000 * options.scale)) // at_once * at_once
        show(
            f"ledger, 1 destination, {at_once} a group",
            lambda folder, n=number, a=at_once: asyncio.run(ledger(folder, n, a)),  # type: ignore[misc]
            options.folder,
        )


if __name__ == "__main__":
    main()
