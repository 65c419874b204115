"""Receipts, and a ledger of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.errors import LedgerError
from router.ledger import Receipt, ReceiptResult, SqliteLedger
from router.model import (
    Decision,
    Delivery,
    InstanceInfo,
    Location,
    LogPosition,
    Origin,
    Outcome,
    OutcomeKind,
    Priority,
    Verdict,
)

ORIGIN = Origin(listener="127.0.0.1:104", peer="ct1", calling_ae="CT1", called_ae="ROUTER", address="127.0.0.1")
_numbers = itertools.count(1)


class SilentLog:
    def debug(self, event: str, **values: Any) -> None: ...

    def info(self, event: str, **values: Any) -> None: ...

    def warning(self, event: str, **values: Any) -> None: ...

    def error(self, event: str, **values: Any) -> None: ...


def receipt(
    sop: str | None = None,
    *,
    to: Sequence[str] = ("a", "b"),
    direct: Sequence[str] = (),
    content: bytes = b"x",
    verdict: Verdict = Verdict.ROUTE,
    priority: Priority = Priority.NORMAL,
    on_duplicate: str = "version",
    segment: int = 1,
) -> Receipt:
    number = next(_numbers)
    info = InstanceInfo(
        id=number, sop_class="1.2.840.10008.5.1.4.1.1.2", sop_instance=sop or f"2.25.{number}",
        transfer_syntax="1.2.840.10008.1.2.1", origin=ORIGIN, received=1_000_000.0 + number, size=100,
        checksum=content * 16, study="2.25.9", series="2.25.8", accession="A1", patient_id="SYNTHETIC1",
    )  # fmt: skip
    destinations = tuple(to) if verdict is Verdict.ROUTE else ()
    decision = Decision(verdict=verdict, destinations=destinations, priority=priority, rules=("r",), version="v1")
    return Receipt(
        info=info, decision=decision, location=Location(segment, 7, 4096 * number, 200), direct=frozenset(direct),
        on_duplicate=on_duplicate,
    )  # fmt: skip


def open_ledger(folder: Path) -> SqliteLedger:
    ledger = SqliteLedger.open(folder / "ledger.db", node="n1", log=SilentLog())
    ledger.start(asyncio.get_running_loop(), failed=lambda error: None)
    return ledger


async def record(
    ledger: SqliteLedger, *receipts: Receipt, position: LogPosition | None = None, owed: bool = False
) -> list[ReceiptResult]:
    """Commit; raises LedgerError if the ledger refused."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[ReceiptResult]] = loop.create_future()

    def done(outcome: list[ReceiptResult] | LedgerError) -> None:
        if isinstance(outcome, LedgerError):
            loop.call_soon_threadsafe(future.set_exception, outcome)
        else:
            loop.call_soon_threadsafe(future.set_result, outcome)

    ledger.record(receipts, done, position=position, owed=owed)
    return await asyncio.wait_for(future, 10)


def settle(ledger: SqliteLedger, delivery: Delivery, kind: OutcomeKind = OutcomeKind.DELIVERED, **more: Any) -> None:
    more.setdefault("status", 0 if kind is OutcomeKind.DELIVERED else None)
    ledger.settle(
        Outcome(
            delivery_id=delivery.id, destination=delivery.destination, instance=delivery.instance,
            fence=delivery.fence, kind=kind, **more,
        )
    )  # fmt: skip


def recount(ledger: SqliteLedger) -> dict[str, Any]:
    """What the tables say, to compare with the counters."""
    fresh = ledger._store.counters()
    return {
        "open": {name: tuple(pair) for name, pair in fresh.open.items() if pair[0]},
        "dead": fresh.dead,
        "held": fresh.held,
        "kept": fresh.kept_bytes,
    }


def counted(ledger: SqliteLedger) -> dict[str, Any]:
    counts = ledger.counts
    return {
        "open": {name: tuple(pair) for name, pair in counts.open.items() if pair[0]},
        "dead": counts.dead,
        "held": counts.held,
        "kept": counts.kept_bytes,
    }
