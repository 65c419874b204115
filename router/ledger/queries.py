"""Questions that people ask, on a read-only connection of its own: they never wait for, or hold up, the writer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any

import apsw

from router.ledger.audit_rows import BEGUN
from router.ledger.counters import Counters
from router.ledger.rows import DISCARDED, LAST_ID, NAMED
from router.model import AuditRow, Location, Priority, format_id, parse_id

READ_TIMEOUT_MS = 5000
PAGE = 10_000
OPEN = "('ready','leased')"
TRACED = 100
"""Stories that are told at once."""
NAMED_BEFORE = "h.id=?2 or h.sop=?1 or h.study=?1 or (h.accession=?1 and h.accession<>'')"
AUDIT_COUNTED = 10_000
"""Rows of the audit trail up to which they are counted."""


class Queries:
    """Blocking; call in a thread. One question at a time, and one of those that may take seconds."""

    def __init__(self, path: Path) -> None:
        self._connection, self._searching = (_opened(path) for _ in range(2))
        self._lock, self._search_lock = Lock(), Lock()

    def close(self) -> None:
        with self._lock, self._search_lock:
            self._connection.close()
            self._searching.close()

    def _rows(self, sql: str, arguments: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        with self._lock:
            return _with_names(self._connection.execute(sql, arguments))

    def _search(self, sql: str, arguments: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        """For what may look at all instances there are: gauges and status do not wait for it."""
        with self._search_lock:
            return _with_names(self._searching.execute(sql, arguments))

    def instances(self) -> int:
        """How many there are."""
        with self._lock:
            row = self._connection.execute("select count(*) from instance").fetchone()
        return int(row[0]) if row is not None else 0

    def sop_instances(self) -> Iterator[str]:
        """The UIDs of all instances, in pages, so that others may ask in between."""
        last = ""
        while True:
            with self._lock:
                page = [
                    row[0]
                    for row in self._connection.execute(
                        "select distinct sop from instance where sop>? order by sop limit ?", (last, PAGE)
                    )
                ]
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1]

    def counters(self) -> Counters:
        """Of all processes that share the ledger."""
        with self._lock:
            return Counters.of_rows(self._connection.execute("select name, number, bytes from counter"))

    def audit_rows(self, after: int, limit: int) -> list[AuditRow]:
        with self._lock:
            return [
                AuditRow(id=number, at=at, what=what, facts=(read := json.loads(facts)), begun=read.pop(BEGUN, False))
                for number, at, what, facts in self._connection.execute(
                    "select id, at, what, facts from audit where id>? order by id limit ?", (after, limit)
                )
            ]

    def audit_waiting(self) -> tuple[int, float | None]:
        """How many rows, and when the oldest was written.

        Many are not counted one by one: everybody who asks something would wait for it. Their ids have few gaps, as
        they are told in order.
        """
        with self._lock:
            row = self._connection.execute(
                "select (select count(*) from (select 1 from audit limit ?1)), (select max(id) from audit), "
                "(select min(id) from audit), (select at from audit order by id limit 1)",
                (AUDIT_COUNTED,),
            ).fetchone()
        if row is None:
            return 0, None
        counted, last, first, oldest = row
        return (counted if counted < AUDIT_COUNTED else last - first + 1), oldest

    def place(self, instance: int) -> Location | None:
        """Where its record lies; None: nobody needs it any more."""
        with self._lock:
            row = self._connection.execute(
                "select segment, epoch, at, length from instance where id=?", (instance,)
            ).fetchone()
        return Location(*row) if row is not None else None

    def decided(self, instance: int) -> tuple[str, bool]:
        """Verdict, and whether it changes what was received under its SOP Instance UID; an empty one if it has gone."""
        with self._lock:
            row = self._connection.execute(
                "select verdict, supersedes is not null from instance where id=?", (instance,)
            ).fetchone()
        return (row[0], bool(row[1])) if row is not None else ("", False)

    def ready(self, destinations: list[str], now: float) -> list[str]:
        """Those to which a delivery may be tried now."""
        found = []
        for name in destinations:
            for priority in Priority:
                with self._lock:
                    row = self._connection.execute(
                        "select min(not_before) from delivery where dest=? and priority=? and state='ready'",
                        (name, int(priority)),
                    ).fetchone()
                if row is not None and row[0] is not None and row[0] <= now:
                    found.append(name)
                    break
        return found

    def oldest(self, destinations: list[str]) -> dict[str, float]:
        """Destination to the arrival (epoch seconds) of its oldest undelivered instance."""
        found = {}
        for name in destinations:
            with self._lock:
                row = self._connection.execute(
                    f"select i.received from delivery d join instance i on i.id=d.instance_id "
                    f"where d.dest=? and d.state in {OPEN} order by d.instance_id limit 1",
                    (name,),
                ).fetchone()
            if row is not None:
                found[name] = row[0]
        return found

    def queue(self, destination: str | None, limit: int) -> list[dict[str, Any]]:
        """What waits, and why; oldest first."""
        rows = self._of_each(
            destination,
            f"state in {OPEN}",
            "select d.id as delivery, d.dest as destination, d.state, d.attempts, d.not_before, d.last_error, d.last_status, "
            "i.id as instance, i.sop as sop_instance, i.study, i.modality, i.size, i.received "
            f"from delivery d join instance i on i.id=d.instance_id where d.dest=? and d.state in {OPEN} "
            "order by d.instance_id limit ?",
            limit,
        )
        return [_shown(row) for row in sorted(rows, key=itemgetter("instance"))[:limit]]

    def _of_each(self, destination: str | None, state: str, sql: str, limit: int) -> list[dict[str, Any]]:
        """``sql`` for one destination, or one after the other for all that have deliveries in this ``state``: so the
        indexes are used, and who looks at little does not look at all there ever were."""
        if destination is not None:
            return self._rows(sql, (destination, limit))
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            (first,) = self._rows(f"select min(dest) as name from delivery where {state} and dest>?", (after,))
            if first["name"] is None:
                return rows
            after = first["name"]
            rows += self._rows(sql, (after, limit))

    def dead_letters(self, destination: str | None, limit: int) -> list[dict[str, Any]]:
        rows = self._of_each(
            destination,
            "state='dead'",
            "select d.id as delivery, d.dest as destination, d.attempts, d.last_error, d.last_status, d.updated, "
            "i.id as instance, i.sop as sop_instance, i.sop_class, i.ts as transfer_syntax, i.study, i.size, i.received "
            "from delivery d join instance i on i.id=d.instance_id where d.dest=? and d.state='dead' order by d.id limit ?",
            limit,
        )
        return [_shown(row) for row in sorted(rows, key=itemgetter("delivery"))[:limit]]

    def dead_by_destination(self) -> dict[str, int]:
        with self._lock:
            return dict(
                self._connection.execute("select dest, count(*) from delivery where state='dead' group by dest")
            )

    def held(self, limit: int) -> list[dict[str, Any]]:
        rows = self._rows(
            "select i.id as instance, i.sop as sop_instance, i.study, i.modality, i.calling, i.size, i.received, "
            "i.rule_version from instance i where i.verdict='hold' order by i.id limit ?",
            (limit,),
        )
        return [_shown(row) for row in rows]

    def studies(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Studies by Study Instance UID, accession number or patient id; ``*`` at the end matches any rest, empty
        any study."""
        pattern = query.replace("%", "\\%").replace("_", "\\_").replace("*", "%")
        condition = (
            "i.study in (select value from json_each(?1))"
            if not query
            else "i.study=?1 or (i.accession=?1 and i.accession<>'') or (i.patient_id=?1 and i.patient_id<>'')"
            if "*" not in query
            else "i.study like ?1 escape '\\' or i.accession like ?1 escape '\\' or i.patient_id like ?1 escape '\\'"
        )
        rows = self._search(
            "select i.study, i.accession, i.modality, count(distinct i.id) as instances, min(i.received) as first, "
            "max(i.received) as last, "
            "sum(d.state='done' and d.last_error is not ?3) as delivered, sum(d.state in ('ready','leased')) as waiting, "
            "sum(d.state='dead') as dead, sum(i.verdict='hold') as held "
            f"from instance i left join delivery d on d.instance_id=i.id where {condition} "
            "group by i.study order by max(i.id) desc limit ?2",
            (pattern if query else json.dumps(self._latest_studies(limit)), limit, DISCARDED),
        )
        return rows

    def _latest_studies(self, limit: int) -> list[str]:
        """So many that something came of last."""
        found: dict[str, None] = {}
        last = LAST_ID
        while len(found) < limit:
            page = self._search("select id, study from instance where id<? order by id desc limit ?", (last, PAGE))
            found.update((row["study"], None) for row in page)
            if len(page) < PAGE:
                break
            last = page[-1]["id"]
        return list(found)[:limit]

    def named(self, key: str) -> int:
        """How many instances ``key`` names, as for ``trace``."""
        for named in NAMED:
            (row,) = self._search(
                f"select (select count(*) from instance i where i.id=?2 or {named}) "
                f"+ (select count(*) from history h where {NAMED_BEFORE}) as found",
                (key, _id_of(key)),
            )
            if row["found"]:
                break
        return int(row["found"])

    def trace(self, key: str) -> list[dict[str, Any]]:
        """The story of every instance that ``key`` names: SOP instance, study or series UID, accession number, or
        our id. Of more than ``TRACED``, those that are not settled come first: they are what is looked for."""
        number = _id_of(key)
        stories = []
        for named in NAMED:
            rows = self._search(
                "select i.id as instance, i.sop as sop_instance, i.sop_class, i.ts as transfer_syntax, i.study, i.series, "
                "i.accession, i.modality, i.calling, i.called, i.peer, i.listener, i.address, i.size, i.received, "
                "i.verdict, i.rules, i.rule_version, i.supersedes from instance i "
                f"where i.id=?2 or {named} order by i.settled is not null, i.id limit ?3",
                (key, number, TRACED),
            )
            if rows:
                break
        for row in sorted(rows, key=lambda row: int(row["instance"])):
            row["rules"] = json.loads(row["rules"])
            row["deliveries"] = self._rows(
                "select d.id as delivery, d.dest as destination, d.state, d.attempts, d.not_before, d.last_error, d.last_status, "
                "d.updated from delivery d where d.instance_id=? order by d.id",
                (row["instance"],),
            )
            if row["supersedes"] is not None:
                row["supersedes"] = format_id(row["supersedes"])
            stories.append(row)
        for row in self._search(
            "select h.id as instance, h.sop as sop_instance, h.study, h.accession, h.received, h.settled, h.delivered "
            f"from history h where {NAMED_BEFORE} order by h.id limit ?3",
            (key, number, TRACED - len(stories)),
        ):
            row["verdict"] = "settled and removed from the spool"
            row["deliveries"] = [
                {"destination": name, "state": "done", "updated": at}
                for name, at in json.loads(row.pop("delivered")).items()
            ]
            stories.append(row)
        for row in stories:
            row["events"] = self._rows(
                "select at, dest as destination, what, detail from event where instance_id=? order by id",
                (row["instance"],),
            )
        return [_shown(row) for row in stories]

    def settings(self, prefix: str) -> dict[str, str]:
        with self._lock:
            return {
                name[len(prefix) :]: value
                for name, value in self._connection.execute(
                    "select name, value from setting where substr(name, 1, ?)=?", (len(prefix), prefix)
                )
            }


def _opened(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(READ_TIMEOUT_MS)
    return connection


def _with_names(cursor: apsw.Cursor) -> list[dict[str, Any]]:
    found = []
    names: list[str] = []
    for row in cursor:
        if not names:
            names = [column[0] for column in cursor.get_description()]
        found.append(dict(zip(names, row, strict=True)))
    return found


def _id_of(key: str) -> int:
    """Our id, or one that nothing has."""
    try:
        return parse_id(key)
    except ValueError:
        return -1


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Ids as people see them."""
    row["instance"] = format_id(row["instance"])
    return row
