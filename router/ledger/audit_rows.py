"""What the audit trail has to tell (PS3.15 §A.5), written in the transaction of what happened.

A row stands until the trail has brought it where it belongs. Transfers are one row per transaction, study and partner,
not one per object: the trail puts those of one transfer together. Rows of a ledger that follows the spool's log again
are written again; a repeated audit message is legal, a missing one is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import apsw

from router.ledger.rows import insert_rows
from router.model import InstanceInfo

if TYPE_CHECKING:
    from router.ledger.store import Receipt, ReceiptResult

RECEIVED = "received"
DISCARDED = "discarded"
"""Received, and dropped as the rules say."""
SENT = "sent"
BEGUN = "begun"
"""The fact that a transfer's beginning has been told."""

RECEIVED_FACTS = ("calling", "called", "address", "study", "patient", "accession")
SENT_FACTS = ("destination", "study", "patient", "accession")
INSERT_AUDIT = "insert into audit(at, what, facts)"

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_name = lru_cache(maxsize=256)(_json)


@lru_cache(maxsize=1024)
def _whose(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """What is the same in all rows of a transfer, which can be one for each transaction."""
    return _json(dict(zip(names, values, strict=True)))[:-1]


def _facts(names: tuple[str, ...], values: tuple[str, ...], classes: dict[str, int], failed: bool) -> str:
    counts = ",".join([f"{_name(name)}:{count}" for name, count in classes.items()])
    return f'{_whose(names, values)},"classes":{{{counts}}},"failed":{"true" if failed else "false"}}}'


def _received_facts(info: InstanceInfo) -> tuple[str, ...]:
    origin = info.origin
    return origin.calling_ae, origin.called_ae, origin.address, info.study, info.patient_id, info.accession


class AuditRows:
    """Blocking; used as the store is.

    Args:
        wanted: False: nothing is written.
    """

    def __init__(self, connection: apsw.Connection, *, wanted: bool) -> None:
        self._connection = connection
        self.wanted = wanted

    def add(self, at: float, what: str, facts: dict[str, Any]) -> None:
        if self.wanted:
            self._insert([(at, what, _json(facts))])

    def received(self, receipts: Sequence[Receipt], results: Sequence[ReceiptResult], now: float) -> None:
        """What came, by who sent it and whose it is."""
        if not self.wanted:
            return
        groups: dict[tuple[tuple[str, ...], bool], dict[str, int]] = {}
        for receipt, result in zip(receipts, results, strict=True):
            info = receipt.info
            classes = groups.setdefault((_received_facts(info), result.kind == "rejected"), {})
            classes[info.sop_class] = classes.get(info.sop_class, 0) + 1
        self._insert(
            [
                (now, RECEIVED, _facts(RECEIVED_FACTS, group, classes, failed))
                for (group, failed), classes in groups.items()
            ]
        )

    def discarded(self, instances: Iterable[InstanceInfo], now: float) -> None:
        """What came and is nowhere kept."""
        groups: dict[tuple[str, ...], dict[str, int]] = {}
        for info in instances:
            classes = groups.setdefault(_received_facts(info), {})
            classes[info.sop_class] = classes.get(info.sop_class, 0) + 1
        self._insert(
            [(now, DISCARDED, _facts(RECEIVED_FACTS, group, classes, False)) for group, classes in groups.items()]
        )

    def sent(self, destination: str, instances: Iterable[InstanceInfo], now: float, *, failed: bool = False) -> None:
        """Delivered or given up."""
        if not self.wanted:
            return
        groups: dict[tuple[str, ...], dict[str, int]] = {}
        for info in instances:
            classes = groups.setdefault((destination, info.study, info.patient_id, info.accession), {})
            classes[info.sop_class] = classes.get(info.sop_class, 0) + 1
        self._insert([(now, SENT, _facts(SENT_FACTS, group, classes, failed)) for group, classes in groups.items()])

    def _insert(self, rows: list[tuple[float, str, str]]) -> None:
        insert_rows(self._connection, INSERT_AUDIT, rows)

    def operator(self, at: float, action: str, *, destination: str = "", count: int | None = None) -> None:
        """Somebody acted by way of the command line, the console or the API."""
        facts: dict[str, Any] = {"action": action, "destination": destination}
        if count is not None:
            facts["count"] = count
        self.add(at, "operator", facts)

    def settle(self, told: Iterable[int], begun: Iterable[int]) -> None:
        """What is where it belongs.

        Args:
            told: Rows that nothing is left to be told of.
            begun: First rows of transfers that go on: their beginning is not told again after the next start, or a
                router that starts again and again would fill its disk with beginnings.
        """
        for statement, ids in (
            (f"update audit set facts=json_set(facts, '$.{BEGUN}', json('true')) where id in ", begun),
            ("delete from audit where id in ", told),
        ):
            self._connection.execute(statement + "(select value from json_each(?))", (json.dumps(list(ids)),))
