"""What the audit trail has to tell (PS3.15 §A.5), written in the transaction of what happened.

A row stands until the trail has brought it where it belongs. Transfers are one row per transaction, study and partner,
not one per object: the trail puts those of one transfer together. Rows of a ledger that follows the spool's log again
are written again; a repeated audit message is legal, a missing one is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import apsw

from router.model import InstanceInfo

if TYPE_CHECKING:
    from router.ledger.store import Receipt, ReceiptResult

RECEIVED = "received"
SENT = "sent"
BEGUN = "begun"
"""The fact that a transfer's beginning has been told."""


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
            self._connection.execute(
                "insert into audit(at, what, facts) values(?,?,?)",
                (at, what, json.dumps(facts, ensure_ascii=False, separators=(",", ":"))),
            )

    def received(self, receipts: Sequence[Receipt], results: Sequence[ReceiptResult], now: float) -> None:
        """What came, by who sent it and whose it is."""
        if not self.wanted:
            return
        groups: dict[tuple[Any, ...], dict[str, int]] = {}
        for receipt, result in zip(receipts, results, strict=True):
            info, origin = receipt.info, receipt.info.origin
            classes = groups.setdefault(
                (
                    origin.calling_ae, origin.called_ae, origin.address,
                    info.study, info.patient_id, info.accession, result.kind == "rejected",
                ),
                {},
            )  # fmt: skip
            classes[info.sop_class] = classes.get(info.sop_class, 0) + 1
        for (calling, called, address, study, patient, accession, failed), classes in groups.items():
            self.add(
                now,
                RECEIVED,
                {
                    "calling": calling, "called": called, "address": address,
                    "study": study, "patient": patient, "accession": accession,
                    "classes": classes, "failed": failed,
                },
            )  # fmt: skip

    def sent(self, destination: str, instances: Iterable[InstanceInfo], now: float) -> None:
        """Delivered before their receipt was told."""
        if not self.wanted:
            return
        groups: dict[tuple[str, str, str], dict[str, int]] = {}
        for info in instances:
            classes = groups.setdefault((info.study, info.patient_id, info.accession), {})
            classes[info.sop_class] = classes.get(info.sop_class, 0) + 1
        for group, classes in groups.items():
            self._sent(destination, group, classes, now, failed=False)

    def sent_rows(self, destination: str, instances: Iterable[int], now: float, *, failed: bool = False) -> None:
        """Delivered or given up; known by their rows."""
        if not self.wanted:
            return
        groups: dict[tuple[str, str, str], dict[str, int]] = {}
        for study, patient, accession, sop_class, count in self._connection.execute(
            "select study, patient_id, accession, sop_class, count(*) from instance "
            "where id in (select value from json_each(?)) group by 1, 2, 3, 4",
            (json.dumps(list(instances)),),
        ):
            groups.setdefault((study, patient, accession), {})[sop_class] = count
        for group, classes in groups.items():
            self._sent(destination, group, classes, now, failed=failed)

    def _sent(
        self, destination: str, group: tuple[str, str, str], classes: dict[str, int], now: float, *, failed: bool
    ) -> None:
        study, patient, accession = group
        self.add(
            now,
            SENT,
            {
                "destination": destination, "study": study, "patient": patient, "accession": accession,
                "classes": classes, "failed": failed,
            },
        )  # fmt: skip

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
