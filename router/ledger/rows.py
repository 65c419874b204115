"""Rows to values and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import apsw

from router.model import Decision, Delivery, InstanceInfo, Location, Origin, Priority

INSTANCE_COLUMNS = (
    "i.id, i.study, i.series, i.sop, i.sop_class, i.ts, i.calling, i.called, i.peer, i.listener, i.address, i.patient_id, "
    "i.accession, i.modality, i.size, i.checksum, i.segment, i.epoch, i.at, i.length, i.received, i.move_aet, i.move_id"
)
INSTANCE_COUNT = 23
DELIVERY_COLUMNS = (
    "d.id, d.dest, d.priority, d.fence, d.attempts, d.first_attempt, d.after is not null and i.supersedes is not null"
)

NAMED = (
    "i.sop=?1 or i.study=?1 or (i.accession=?1 and i.accession<>'')",
    "i.series=?1",
)
"""What may name instances ``i``. In this order, the second only where the first finds nothing: there is no index of
series, and a UID of one is none of something else."""

LAST_ID = (1 << 63) - 1

DISCARDED = "discarded by an operator"
"""The last error of a delivery that was given up for good: it is done, and nothing was delivered."""

INSERT_INSTANCE = (
    "insert into instance(id, study, series, sop, sop_class, ts, calling, called, peer, listener, address, patient_id, "
    "accession, modality, size, checksum, segment, epoch, at, length, received, rule_version, rules, verdict, priority, "
    "move_aet, move_id, supersedes, settled)"
)
INSERT_DELIVERY = (
    "insert into delivery(id, instance_id, dest, state, priority, attempts, owner, fence, lease_until, last_status, after, "
    "updated)"
)

ROWS_AT_ONCE = 64


def insert_rows(connection: apsw.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """As few statements as there are ones in the binary form of their number, so that the cache of prepared
    statements holds them all."""
    at = 0
    while at < len(rows):
        count = min(ROWS_AT_ONCE, 1 << ((len(rows) - at).bit_length() - 1))
        connection.execute(_statement(insert, len(rows[0]), count), tuple(chain.from_iterable(rows[at : at + count])))
        at += count


@lru_cache(maxsize=64)
def _statement(insert: str, columns: int, rows: int) -> str:
    values = "(" + ",".join("?" * columns) + ")"
    return f"{insert} values{','.join([values] * rows)}"


def instance_row(
    info: InstanceInfo,
    decision: Decision,
    location: Location,
    verdict: str,
    supersedes: int | None,
    settled: float | None,
) -> tuple[Any, ...]:
    origin = info.origin
    move = info.move_originator
    return (
        info.id, info.study, info.series, info.sop_instance, info.sop_class, info.transfer_syntax, origin.calling_ae,
        origin.called_ae, origin.peer, origin.listener, origin.address, info.patient_id, info.accession, info.modality,
        info.size, info.checksum, location.segment, location.epoch, location.offset, location.length, info.received,
        decision.version, _names(decision.rules), verdict, decision.priority, move[0] if move else None,
        move[1] if move else None, supersedes, settled,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _names(rules: tuple[str, ...]) -> str:
    return json.dumps(rules)


def instance_of(row: Sequence[Any]) -> tuple[InstanceInfo, Location]:
    """From ``INSTANCE_COLUMNS``."""
    info = InstanceInfo(
        id=row[0], study=row[1], series=row[2], sop_instance=row[3], sop_class=row[4], transfer_syntax=row[5],
        origin=Origin(calling_ae=row[6], called_ae=row[7], peer=row[8], listener=row[9], address=row[10]),
        patient_id=row[11], accession=row[12], modality=row[13], size=row[14], checksum=row[15], received=row[20],
        move_originator=(row[21], row[22]) if row[21] is not None else None,
    )  # fmt: skip
    return info, Location(row[16], row[17], row[18], row[19])


def delivery_of(row: Sequence[Any]) -> Delivery:
    """From ``INSTANCE_COLUMNS`` followed by ``DELIVERY_COLUMNS``."""
    info, location = instance_of(row)
    number, destination, priority, fence, attempts, first_attempt, changed = row[INSTANCE_COUNT:]
    return Delivery(
        id=number,
        destination=destination,
        instance=info,
        location=location,
        priority=Priority(priority),
        fence=fence,
        attempts=attempts,
        first_attempt=first_attempt,
        changed=bool(changed),
    )
