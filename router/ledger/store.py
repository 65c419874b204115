"""The ledger's transitions as SQL on one connection. Blocking; used by one thread, inside a transaction that the
writer opens.

A delivery is *open* while it is ready or leased. States::

    ready ──lease──▶ leased ──done──▶ done
      ▲                │  └──dead──▶ dead ──resend──▶ ready
      └────retry───────┘

A lease carries a fence that rises with each lease: whoever lost it changes nothing with a late outcome.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from router.errors import LedgerError
from router.ledger.audit_rows import AuditRows
from router.ledger.counters import Counters
from router.ledger.rows import (
    DELIVERY_COLUMNS,
    DISCARDED,
    INSERT_DELIVERY,
    INSERT_INSTANCE,
    INSTANCE_COLUMNS,
    LAST_ID,
    NAMED,
    delivery_of,
    insert_rows,
    instance_of,
    instance_row,
)
from router.model import (
    ALONE,
    LOG_SEGMENTS,
    Decision,
    Delivery,
    InstanceInfo,
    Location,
    LogPosition,
    Outcome,
    OutcomeKind,
    Priority,
    Share,
    Verdict,
)

LEASE_SECONDS = 60.0
LONGEST_WAIT = 300.0
"""Seconds that anything waits after a start."""
BEHIND = 60.0
"""Seconds between looks at deliveries that wait for an older version of their object."""
JUST_NOW = 1.0
"""Seconds within which one may have become ready since somebody looked."""
HISTORY_SECONDS = 90 * 86400.0
HISTORY_AT_ONCE = 5000
"""Rows that are past their time and go in one transaction; the rest has its turn with the next."""


@dataclass(slots=True, kw_only=True)
class Receipt:
    """One instance whose bytes are written: to be committed with everything it owes."""

    info: InstanceInfo
    decision: Decision
    location: Location
    direct: frozenset[str] = frozenset()
    """Destinations whose lane takes it after the commit: their deliveries are born leased."""
    sent: tuple[Delivery, ...] = ()
    """Those whose lane has it already; only for an instance that surely is new."""
    on_duplicate: str = "version"
    """``version``, ``reject`` or ``hold``: other bytes under a known SOP Instance UID."""


@dataclass(slots=True, kw_only=True)
class ReceiptResult:
    kind: str
    """``new``, ``duplicate``, ``version``, ``held``, ``rejected``."""
    deliveries: list[Delivery] = field(default_factory=list)
    """The ones born leased."""
    backlog: set[str] = field(default_factory=set)
    """Destinations that got a ready row."""
    unneeded: Location | None = None
    """A record that nobody needs: of an identical duplicate, or of a rejected one."""


_NEW = ReceiptResult(kind="new")
"""The result of nearly all that were sent at once."""
_HOLD, _DELIVERED = Verdict.HOLD, OutcomeKind.DELIVERED
"""To ask an enumeration for a member runs Python, and here it is done for every object."""


def is_plain(outcome: Outcome) -> bool:
    """Delivered, and nothing to be said about it."""
    return outcome.kind is _DELIVERED and outcome.status == 0 and not outcome.reason


class Store:
    """See the module's text.

    Args:
        owner: Names this run of this node in leases.
        share: Whether other processes write here too, and which log is ours.
        audit: Whether an audit trail is kept.
    """

    def __init__(self, connection: apsw.Connection, owner: str, share: Share = ALONE, *, audit: bool = False) -> None:
        self.connection = connection
        self.audit = AuditRows(connection, wanted=audit)
        self.owner = owner
        self.share = share
        self.delta = Counters()
        """What the transaction under way changes; the writer applies or drops it."""
        self.woken: set[str] = set()
        """Destinations to which the transaction under way owes something again."""
        self._early: dict[str, list[InstanceInfo]] = {}
        """Of the receipts under way: what was delivered before they were told."""
        self._numbers = itertools.count(self._max("delivery") + 1)

    # Transactions --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.delta = Counters()
        self.woken = set()
        self._early.clear()  # of one that was rolled back
        self.connection.execute("begin immediate")
        if not self.share.alone:
            # No number that we have seen comes again when its delivery is gone: somebody may still hold it, and tell us
            # of it when it has come to mean another.
            self._numbers = itertools.count(max(self._max("delivery") + 1, self.next_number()))

    def commit(self) -> None:
        """Among several processes the counters stand in a table, changed with what they count."""
        if not self.share.alone:
            self._count(self.delta)
        self.connection.execute("commit")

    def _count(self, delta: Counters) -> None:
        for row in delta.rows():
            self.connection.execute(
                "insert into counter values(?,?,?) on conflict(name) do update "
                "set number=number+excluded.number, bytes=bytes+excluded.bytes",
                row,
            )

    def count_anew(self) -> None:
        """Fill the table of counters from the others. In a transaction."""
        self.connection.execute("delete from counter")
        self._count(self.counters())

    def shared_counters(self) -> Counters:
        return Counters.of_rows(self.connection.execute("select name, number, bytes from counter"))

    def _one(self, sql: str, arguments: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """A row that is there by construction."""
        row: tuple[Any, ...] | None = self.connection.execute(sql, arguments).fetchone()
        if row is None:
            raise LedgerError("a row of the ledger is missing")
        return row

    def _max(self, table: str) -> int:
        row = self._one(f"select coalesce(max(id), 0) from {table}")
        return int(row[0])

    def counters(self) -> Counters:
        """Counted from the tables; for the start."""
        counters = Counters()
        for dest, count, size in self.connection.execute(
            "select d.dest, count(*), sum(i.size) from delivery d join instance i on i.id = d.instance_id "
            "where d.state in ('ready','leased') group by d.dest"
        ):
            counters.open[dest] = [count, size]
        counters.dead = self._one("select count(*) from delivery where state='dead'")[0]
        counters.held = self._one("select count(*) from instance where verdict='hold'")[0]
        for log, size in self.connection.execute(
            f"select segment / {LOG_SEGMENTS}, sum(length) from instance where settled is not null group by 1"
        ):
            counters.kept[log] = size
        return counters

    def next_number(self) -> int:
        """An id for a delivery. Any thread."""
        return next(self._numbers)

    # The place in the spool's log ----------------------------------------------------------------------------

    def position(self, log: int) -> LogPosition:
        """Everything before it in this log of the spool is known here."""
        row = self.connection.execute("select epoch, at from log_position where log=?", (log,)).fetchone()
        return LogPosition(*row) if row is not None else LogPosition()

    def reach(self, position: LogPosition, log: int) -> None:
        self.connection.execute(
            "insert into log_position(epoch, at, log) values(?,?,?) "
            "on conflict(log) do update set epoch=excluded.epoch, at=excluded.at",
            (position.epoch, position.offset, log),
        )

    def knows(self, instance: int) -> bool:
        """Whether the instance was ever recorded, whatever became of it."""
        return bool(
            self._one(
                "select exists(select 1 from instance where id=?1) or exists(select 1 from history where id=?1)",
                (instance,),
            )[0]
        )

    def knows_streamed(self, instance: int, place: Location) -> bool:
        """Whether a streamed record needs no further look: its id is known, or it lies where an instance has its record.

        The latter is an identical duplicate that took the place of an older record (``_identical``). Its own id is in
        no row: recorded once more, it would give what has been given up since another chance at every start. Not for
        records of the log: places are found by their segment, of which thousands of those share one.
        """
        return self.knows(instance) or bool(
            self._one(
                "select exists(select 1 from instance where segment=? and epoch=? and at=?)",
                (place.segment, place.epoch, place.offset),
            )[0]
        )

    def place(self, instance: int) -> Location | None:
        row = self.connection.execute(
            "select segment, epoch, at, length from instance where id=?", (instance,)
        ).fetchone()
        return Location(*row) if row is not None else None

    # Receiving ---------------------------------------------------------------------------------------------

    def record(
        self, receipts: Sequence[Receipt], now: float, delivered: dict[int, Outcome] | None = None
    ) -> list[ReceiptResult]:
        """Instances and what they owe; one result each.

        Args:
            delivered: Plain successes by delivery; those of these instances are taken out and recorded with them.

        New ones, nearly all there are, take three statements together. A statement costs the thread the interpreter
        twice, which on a busy process is more than the rows in it.
        """
        known = {
            row[0]
            for row in self.connection.execute(
                "select i.sop from json_each(?) j cross join instance i on i.sop = j.value",
                (json.dumps([receipt.info.sop_instance for receipt in receipts]),),
            )
        }
        results: list[ReceiptResult | None] = []
        instances: list[tuple[Any, ...]] = []
        deliveries: list[tuple[Any, ...]] = []
        for receipt in receipts:
            if receipt.info.sop_instance in known:
                results.append(None)
                continue
            known.add(receipt.info.sop_instance)
            results.append(self._owe(receipt, now, None, instances, deliveries, delivered))
        insert_rows(self.connection, INSERT_INSTANCE, instances)
        insert_rows(self.connection, INSERT_DELIVERY, deliveries)
        whole = [
            self._again(receipt, now) if result is None else result
            for receipt, result in zip(receipts, results, strict=True)
        ]
        self.audit.received(receipts, whole, now)
        for destination, early in self._early.items():
            self.audit.sent(destination, early, now)
        self._early.clear()
        return whole

    def _again(self, receipt: Receipt, now: float) -> ReceiptResult:
        """An instance under a UID that is known."""
        info = receipt.info
        number = 0
        for number, checksum, size, syntax, verdict in self._versions(info.sop_instance, info.id):
            if (checksum, size, syntax) == (info.checksum, info.size, info.transfer_syntax):
                return self._identical(number, verdict, receipt, now)
        if receipt.on_duplicate == "reject":
            self.event(now, number, None, "duplicate refused", "other bytes under this SOP Instance UID")
            return ReceiptResult(kind="rejected", unneeded=receipt.location)
        instances: list[tuple[Any, ...]] = []
        deliveries: list[tuple[Any, ...]] = []
        result = self._owe(receipt, now, number, instances, deliveries)
        insert_rows(self.connection, INSERT_INSTANCE, instances)
        insert_rows(self.connection, INSERT_DELIVERY, deliveries)
        self.event(now, info.id, None, "new version", "other bytes came under this SOP Instance UID")
        return result

    def _versions(self, sop: str, instance: int) -> list[tuple[Any, ...]]:
        """The newest version, and if that came later than ``instance`` also the one before ``instance``: another
        process may have recorded a later one first."""
        select = "select id, checksum, size, ts, verdict from instance where sop=? and id<? order by id desc limit 1"
        found = [self._one(select, (sop, LAST_ID))]
        if found[0][0] > instance:
            found += self.connection.execute(select, (sop, instance))
        return found

    def _owe(
        self,
        receipt: Receipt,
        now: float,
        supersedes: int | None,
        instances: list[tuple[Any, ...]],
        deliveries: list[tuple[Any, ...]],
        delivered: dict[int, Outcome] | None = None,
    ) -> ReceiptResult:
        """Make the rows of an instance whose bytes are new."""
        info, decision = receipt.info, receipt.decision
        hold = decision.verdict is _HOLD or (supersedes is not None and receipt.on_duplicate == "hold")
        if hold:
            instances.append(instance_row(info, decision, receipt.location, Verdict.HOLD, supersedes, None))
            self.delta.held += 1
            return ReceiptResult(kind="held")
        done = 0
        for delivery in receipt.sent:
            number, destination = delivery.id, delivery.destination
            if delivered is not None and delivered.pop(number, None) is not None:
                done += 1
                self._early.setdefault(destination, []).append(info)
                deliveries.append(
                    (number, info.id, destination, "done", decision.priority, 1, None, 1, None, 0, None, now)
                )
            else:
                deliveries.append(self._delivery_row(number, info.id, destination, True, decision.priority, None, now))
                self.delta.add_open(destination, 1, info.size)
        settled = now if done and done == len(decision.destinations) else None
        if settled is not None:
            self.delta.keep(receipt.location.segment, receipt.location.length)
        instances.append(instance_row(info, decision, receipt.location, decision.verdict, supersedes, settled))
        if supersedes is None and len(receipt.sent) == len(decision.destinations):
            return _NEW
        result = ReceiptResult(kind="new" if supersedes is None else "version")
        sent = {delivery.destination for delivery in receipt.sent}
        for destination in decision.destinations:
            if destination in sent:
                continue
            number = self.next_number()
            after = None if supersedes is None else self._in_order(info.sop_instance, info.id, destination, number)
            leased = destination in receipt.direct and after is None
            deliveries.append(self._delivery_row(number, info.id, destination, leased, decision.priority, after, now))
            if leased:
                result.deliveries.append(
                    Delivery(
                        id=number, destination=destination, instance=info, location=receipt.location,
                        priority=decision.priority, fence=1,
                    )
                )  # fmt: skip
            else:
                result.backlog.add(destination)
            self.delta.add_open(destination, 1, info.size)
        return result

    def _insert(self, instance: int, destination: str, priority: int, now: float) -> None:
        """A delivery that is ready, in its place among those of other versions."""
        number = self.next_number()
        (sop,) = self._one("select sop from instance where id=?", (instance,))
        after = self._in_order(sop, instance, destination, number)
        row = self._delivery_row(number, instance, destination, False, priority, after, now)
        insert_rows(self.connection, INSERT_DELIVERY, [row])

    def _delivery_row(
        self, number: int, instance: int, destination: str, leased: bool, priority: int, after: int | None, now: float
    ) -> tuple[Any, ...]:
        return (
            number, instance, destination, "leased" if leased else "ready", priority, 0, self.owner if leased else None,
            1 if leased else 0, now + LEASE_SECONDS if leased else None, None, after, now,
        )  # fmt: skip

    def _in_order(self, sop: str, instance: int, destination: str, number: int) -> int | None:
        """A mark for a delivery of an instance of which other versions are, or were, owed there; None: there are none.

        Versions come in the order of their ids, which is that of their arrival: what is marked is leased when nothing
        older is open and nothing newer under way (``lease``). One that comes late, since another process or a restart
        was in between or people send it again, may find a newer one delivered: that is then sent once more
        (``_newer_again``). The newest version is the last to arrive.
        """
        others = list(
            self.connection.execute(
                "select d.id, d.state from delivery d join instance i on i.id = d.instance_id "
                "where i.sop=? and d.dest=? and d.id<>?",
                (sop, destination, number),
            )
        )
        for other, state in others:
            if state in ("ready", "leased"):
                self.connection.execute("update delivery set after=? where id=?", (number, other))
        return int(others[-1][0]) if others else None

    def _newer_again(self, instance: int, destination: str, now: float) -> None:
        """``instance`` has arrived. If a newer version had done so before, and none is still to come, that one is owed
        again."""
        newest = self.connection.execute(
            "select d.id, d.state, d.instance_id, i.size from instance me join instance i on i.sop = me.sop "
            "join delivery d on d.instance_id = i.id and d.dest = ?2 "
            "where me.id = ?1 and i.id > ?1 and d.state in ('ready','leased','done') "
            "order by d.state = 'done', i.id desc limit 1",
            (instance, destination),
        ).fetchone()
        if newest is not None and newest[1] == "done":
            self._requeue(newest[0], now)
            self._unsettle(newest[2])
            self.delta.add_open(destination, 1, newest[3])
            self.woken.add(destination)
            self.event(now, newest[2], destination, "resend", "an older version arrived after it")

    def _others_may_leave(self, instance: int, destination: str) -> None:
        """``instance`` is not under way any more: other versions of it may have waited for that, and for nothing
        else."""
        if self._one(
            "select exists(select 1 from instance me join instance i on i.sop = me.sop and i.id <> me.id "
            "join delivery d on d.instance_id = i.id and d.dest = ? and d.state = 'ready' where me.id = ?)",
            (destination, instance),
        )[0]:
            self.woken.add(destination)

    def _identical(self, instance: int, verdict: str, receipt: Receipt, now: float) -> ReceiptResult:
        """The same bytes again: owed only where they were never owed; what had been given up gets another chance."""
        execute = self.connection.execute
        result = ReceiptResult(kind="duplicate", unneeded=receipt.location)
        existing = {
            row[1]: (row[0], row[2])
            for row in execute("select id, dest, state from delivery where instance_id=?", (instance,))
        }
        states = {state for _, state in existing.values()}
        if "dead" in states and "leased" not in states:
            # The old record may be what was wrong: from here on the new one is read.
            row = self._one("select segment, epoch, at, length from instance where id=?", (instance,))
            result.unneeded = Location(*row)
            place = receipt.location
            execute(
                "update instance set segment=?, epoch=?, at=?, length=? where id=?",
                (place.segment, place.epoch, place.offset, place.length, instance),
            )
        if receipt.decision.verdict is not Verdict.ROUTE:
            return result
        if verdict == Verdict.HOLD:
            supersedes = self._one("select supersedes from instance where id=?", (instance,))[0]
            if supersedes is not None and receipt.on_duplicate == "hold":
                return result  # held for what it changes: a person decides
            execute("update instance set verdict=? where id=?", (Verdict.ROUTE, instance))
            self.delta.held -= 1
        for destination in receipt.decision.destinations:
            found = existing.get(destination)
            if found is None:
                self._insert(instance, destination, int(receipt.decision.priority), now)
            elif found[1] == "dead":
                self._requeue(found[0], now)
                self.delta.dead -= 1
            else:
                continue
            self.delta.add_open(destination, 1, receipt.info.size)
            result.backlog.add(destination)
            # The story of the object has the decision of its first arrival, which does not explain this delivery.
            rules = f"{', '.join(receipt.decision.rules)} (rules {receipt.decision.version})"
            self.event(now, instance, destination, "came again", f"owed by {rules}")
        if result.backlog:
            self._unsettle(instance)
        return result

    def _requeue(self, delivery: int, now: float) -> None:
        """It is owed again, in its place among those of other versions."""
        instance, destination, sop = self._one(
            "select d.instance_id, d.dest, i.sop from delivery d join instance i on i.id=d.instance_id where d.id=?",
            (delivery,),
        )
        after = self._in_order(sop, instance, destination, delivery)
        self.connection.execute(
            "update delivery set state='ready', attempts=0, first_attempt=null, not_before=0, owner=null, after=?, updated=? "
            "where id=?",
            (after, now, delivery),
        )

    def _unsettle(self, instance: int) -> None:
        row = self.connection.execute(
            "update instance set settled=null where id=? and settled is not null returning segment, length", (instance,)
        ).fetchone()
        if row is not None:
            self.delta.keep(row[0], -row[1])

    # Delivering --------------------------------------------------------------------------------------------

    def lease(self, destination: str, limit: int, now: float) -> list[Delivery]:
        """The next ready ones, in order, leased to us. Empty when there are none."""
        ids: list[int] = []
        for priority in Priority:  # one by one: so those that wait for their time are not looked at
            ids += [
                row[0]
                for row in self.connection.execute(
                    "select d.id from delivery d where d.dest=? and d.priority=? and d.state='ready' and d.not_before<=? "
                    "and (d.after is null or not exists "
                    "(select 1 from instance me join instance i on i.sop=me.sop "
                    "join delivery o on o.instance_id=i.id and o.dest=d.dest where me.id=d.instance_id "
                    "and (i.id<me.id and o.state in ('ready','leased') or i.id>me.id and o.state='leased'))) "
                    "order by d.not_before, d.id limit ?",
                    (destination, int(priority), now, limit - len(ids)),
                )
            ]
        if not ids:
            return []
        listed = json.dumps(ids)
        self.connection.execute(
            "update delivery set state='leased', owner=?, lease_until=?, fence=fence+1, updated=? "
            "where id in (select value from json_each(?)) and state='ready'",
            (self.owner, now + LEASE_SECONDS, now, listed),
        )
        rows = self.connection.execute(
            f"select {INSTANCE_COLUMNS}, {DELIVERY_COLUMNS} from delivery d join instance i on i.id = d.instance_id "
            "where d.id in (select value from json_each(?)) and d.owner=? and d.state='leased'",
            (listed, self.owner),
        )
        found = {delivery.id: delivery for delivery in map(delivery_of, rows)}
        return [found[number] for number in ids if number in found]

    def release(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Give leases back unused."""
        self.connection.executemany(
            "update delivery set state='ready', owner=null, updated=? where id=? and fence=? and state='leased'",
            [(now, delivery.id, delivery.fence) for delivery in deliveries],
        )

    def leases(self) -> list[tuple[int, int, str]]:
        """(delivery, fence, destination) of all that this run has leased."""
        return list(
            self.connection.execute(
                "select id, fence, dest from delivery where state='leased' and owner=?", (self.owner,)
            )
        )

    def reclaim(self, leases: Iterable[tuple[int, int, str]], now: float) -> set[str]:
        """Make ready what nobody has any more; gives the destinations of what was still leased."""
        found = set()
        for number, fence, destination in leases:
            rows: list[Any] = self.connection.execute(
                "update delivery set state='ready', owner=null, updated=? where id=? and fence=? and state='leased' "
                "returning instance_id",
                (now, number, fence),
            ).fetchall()
            for (instance,) in rows:
                self.event(now, instance, destination, "lost sight of", "ready again after a fault of ours")
                found.add(destination)
        return found

    def renew(self, now: float) -> None:
        self.connection.execute(
            "update delivery set lease_until=? where owner=? and state='leased'", (now + LEASE_SECONDS, self.owner)
        )

    def next_ready_at(self, destination: str, now: float) -> float | None:
        """When to look again for deliveries to this destination, if none may be leased now; None: there are none.

        What was ready before stays behind an older version of its object: that is looked for ``BEHIND`` later.
        """
        moments: list[float] = []
        behind = False
        for priority in Priority:
            moment, ready = self._one(
                "select (select min(not_before) from delivery where dest=?1 and priority=?2 and state='ready' "
                "and not_before>?3), "
                "exists(select 1 from delivery where dest=?1 and priority=?2 and state='ready' and not_before<=?3)",
                (destination, int(priority), now - JUST_NOW),
            )
            behind |= bool(ready)
            if moment is not None:
                moments.append(moment)
        if behind:
            moments.append(now + BEHIND)
        return min(moments, default=None)

    def settle_all(self, outcomes: Sequence[Outcome], now: float) -> None:
        """What became of attempts. Plain successes, nearly all there are, take two statements together."""
        plain: dict[int, dict[int, Outcome]] = {}
        for outcome in outcomes:
            if is_plain(outcome):
                plain.setdefault(outcome.fence, {})[outcome.delivery_id] = outcome
            else:
                self.settle(outcome, now)
        arrived: dict[str, list[InstanceInfo]] = {}
        for fence, group in plain.items():
            instances = set()
            late = []
            for number, instance, after in self.connection.execute(
                "update delivery set state='done', owner=null, last_status=0, last_error=null, attempts=attempts+1, "
                "updated=? where id in (select value from json_each(?)) and fence=? and state='leased' "
                "returning id, instance_id, after",
                (now, json.dumps(list(group)), fence),
            ):
                instances.add(instance)
                destination, info = group[number].destination, group[number].instance
                arrived.setdefault(destination, []).append(info)
                self.delta.add_open(destination, -1, -info.size)
                if after is not None:
                    late.append((instance, destination))
            for segment, length in self.connection.execute(
                "update instance set settled=? where id in (select value from json_each(?)) and settled is null "
                "and not exists (select 1 from delivery d where d.instance_id=instance.id and d.state<>'done') "
                "returning segment, length",
                (now, json.dumps(list(instances))),
            ):
                self.delta.keep(segment, length)
            for instance, destination in late:
                self._newer_again(instance, destination, now)
                self._others_may_leave(instance, destination)
        for name, infos in arrived.items():
            self.audit.sent(name, infos, now)

    def settle(self, outcome: Outcome, now: float) -> None:
        """What became of an attempt; nothing if the lease was lost."""
        kind = outcome.kind
        status, reason, charge = outcome.status, outcome.reason, int(outcome.charge)
        execute = self.connection.execute
        if kind is OutcomeKind.DELIVERED or kind is OutcomeKind.WARNING:
            row = execute(
                "update delivery set state='done', owner=null, last_status=?, last_error=?, attempts=attempts+1, updated=? "
                "where id=? and fence=? and state='leased' returning instance_id, dest, after",
                (status, reason or None, now, outcome.delivery_id, outcome.fence),
            ).fetchone()
            if row is not None:
                self.audit.sent(row[1], (outcome.instance,), now)
                self._closed(row[0], row[1], now, settle=True)
                if row[2] is not None:
                    self._newer_again(row[0], row[1], now)
                    self._others_may_leave(row[0], row[1])
            return
        if kind is OutcomeKind.DEAD:
            row = execute(
                "update delivery set state='dead', owner=null, last_status=?, last_error=?, attempts=attempts+?, updated=? "
                "where id=? and fence=? and state='leased' returning instance_id, dest, after",
                (status, reason, charge, now, outcome.delivery_id, outcome.fence),
            ).fetchone()
            if row is not None:
                if row[2] is not None:
                    self._others_may_leave(row[0], row[1])
                self._closed(row[0], row[1], now, settle=False)
                self.delta.dead += 1
                self.audit.sent(row[1], (outcome.instance,), now, failed=True)
                self.event(now, row[0], row[1], "dead letter", reason)
            return
        row = execute(
            "update delivery set state='ready', owner=null, last_status=?, last_error=?, attempts=attempts+?, "
            "first_attempt=case when ?=1 then coalesce(first_attempt, ?) else first_attempt end, not_before=?, updated=? "
            "where id=? and fence=? and state='leased' returning instance_id, dest, after",
            (status, reason, charge, charge, now, outcome.not_before, now, outcome.delivery_id, outcome.fence),
        ).fetchone()
        if row is not None and row[2] is not None:
            self._others_may_leave(row[0], row[1])
        if row is not None and charge:
            self.event(now, row[0], row[1], "retry", reason)

    def _closed(self, instance: int, destination: str, now: float, *, settle: bool) -> None:
        size, segment, length = self._one("select size, segment, length from instance where id=?", (instance,))
        self.delta.add_open(destination, -1, -size)
        if settle:
            self.connection.execute(
                "update instance set settled=? where id=? and settled is null "
                "and not exists (select 1 from delivery where instance_id=? and state<>'done')",
                (now, instance, instance),
            )
            if self.connection.changes():
                self.delta.keep(segment, length)

    # Starting, and looking after the spool -------------------------------------------------------------------

    def take_over(self, owners: str, now: float) -> int:
        """Leases of earlier runs, whose owners begin like this, and expired ones of anybody, are ready again.

        Nothing waits for longer than ``LONGEST_WAIT``: the clock may have been set while nobody looked.
        """
        self.connection.execute(
            "update delivery set not_before=?1 where state='ready' and not_before>?1", (now + LONGEST_WAIT,)
        )
        self.connection.execute(
            "update delivery set state='ready', owner=null, updated=?, not_before=min(not_before, ?) "
            "where state='leased' and (owner is null or substr(owner, 1, length(?))=? or lease_until<?)",
            (now, now + LONGEST_WAIT, owners, owners, now),
        )
        return self.connection.changes()

    def clock_was_set(self, seconds: float) -> None:
        """The time of day went on by so much more than time did: what waits, waits as long as it would have."""
        self.connection.execute(
            "update delivery set not_before=case when not_before>0 then max(0.001, not_before+?1) else 0 end, "
            "first_attempt=first_attempt+?1, lease_until=lease_until+?1 where state in ('ready','leased') "
            "and (not_before>0 or first_attempt is not null or lease_until is not null)",
            (seconds,),
        )

    def take_over_expired(self, now: float) -> int:
        """Leases that another process did not renew are ready again."""
        self.connection.execute(
            "update delivery set state='ready', owner=null, updated=? where state='leased' and lease_until<?",
            (now, now),
        )
        return self.connection.changes()

    def excess(self, keep_bytes: int) -> int:
        """Bytes of settled records in our logs that are more than may be kept: our part of what is too much."""
        kept = self.shared_counters().kept
        total = sum(kept.values())
        ours = sum(size for log, size in kept.items() if self.share.owns(log))
        return -(-max(0, total - keep_bytes) * ours // total) if total > 0 else 0

    def live(self) -> dict[int, tuple[int, int]]:
        """Segment to (records, bytes) that the ledger knows."""
        return {
            row[0]: (row[1], row[2])
            for row in self.connection.execute("select segment, count(*), sum(length) from instance group by segment")
        }

    def instances_in(self, segment: int) -> list[tuple[InstanceInfo, Decision, Location]]:
        found = []
        for row in self.connection.execute(
            f"select {INSTANCE_COLUMNS}, i.verdict, i.priority, i.rules, i.rule_version, "
            "(select json_group_array(d.dest) from delivery d where d.instance_id=i.id) from instance i where i.segment=?",
            (segment,),
        ):
            info, location = instance_of(row)
            verdict, priority, rules, version, destinations = row[-5:]
            decision = Decision(
                verdict=Verdict(verdict),
                destinations=tuple(json.loads(destinations)),
                priority=priority,
                rules=tuple(json.loads(rules)),
                version=version,
            )
            found.append((info, decision, location))
        return found

    def forget(self, ids: Iterable[int]) -> None:
        """Rows of instances that are needed no more."""
        for number in ids:
            self.connection.execute("delete from instance where id=?", (number,))

    def relocate(self, number: int, old: Location, new: Location) -> bool:
        """The record lies elsewhere now; False if the instance has gone or moved meanwhile."""
        self.connection.execute(
            "update instance set segment=?, epoch=?, at=?, length=? where id=? and segment=? and epoch=? and at=?",
            (new.segment, new.epoch, new.offset, new.length, number, old.segment, old.epoch, old.offset),
        )
        return bool(self.connection.changes())

    def expire(
        self, keep_seconds: float, excess_bytes: int, now: float, limit: int = 500
    ) -> list[tuple[int, Location]]:
        """Let go of settled instances in our logs: those past their time, and the oldest ones until ``excess_bytes``
        are freed."""
        gone: list[tuple[int, Location]] = []
        which = "settled is not null" if excess_bytes > 0 else "settled<=?1"
        if not self.share.alone:
            which += f" and segment / {LOG_SEGMENTS} % {self.share.of} = {self.share.worker}"
        rows = list(
            self.connection.execute(
                "select id, settled, segment, epoch, at, length, sop, study, accession, received from instance "
                f"where {which} order by settled limit ?2",
                (now - keep_seconds, limit),
            )
        )
        freed = 0
        for number, settled, segment, epoch, at, length, sop, study, accession, received in rows:
            if settled > now - keep_seconds and freed >= excess_bytes:
                break
            freed += length
            delivered = self._one(
                "select json_group_object(dest, updated) from delivery where instance_id=? and last_error is not ?",
                (number, DISCARDED),
            )[0]
            self.connection.execute(
                "insert into history(id, sop, study, accession, received, settled, delivered) values(?,?,?,?,?,?,?)",
                (number, sop, study, accession, received, settled, delivered),
            )
            gone.append((number, Location(segment, epoch, at, length)))
            self.delta.keep(segment, -length)
        self.forget(number for number, _ in gone)
        if gone:
            for table, column in (("history", "settled"), ("event", "at")):
                self.connection.execute(
                    f"delete from {table} where id in "
                    f"(select id from {table} where {column}<? order by {column} limit {HISTORY_AT_ONCE})",
                    (now - HISTORY_SECONDS,),
                )
        return gone

    # People ------------------------------------------------------------------------------------------------

    def event(self, now: float, instance: int | None, destination: str | None, what: str, detail: str) -> None:
        self.connection.execute(
            "insert into event(at, instance_id, dest, what, detail) values(?,?,?,?,?)",
            (now, instance, destination, what, detail),
        )

    def select(self, selector: dict[str, Any]) -> list[tuple[int, int]]:
        """(instance, size) of a selector: ``id``, or ``uid``: a SOP instance, series or study UID or an accession
        number."""
        if "id" in selector:
            found = list(self.connection.execute("select id, size from instance where id=?", (selector["id"],)))
            if found:
                return found
        for named in NAMED:
            uid = (selector["uid"],)
            found = list(
                self.connection.execute(f"select i.id, i.size from instance i where {named} order by i.id", uid)
            )
            if found:
                break
        return found

    def find(self, selector: dict[str, Any]) -> tuple[InstanceInfo, Location] | None:
        """The newest instance of a selector."""
        chosen = self.select(selector)
        if not chosen:
            return None
        row = self._one(
            f"select {INSTANCE_COLUMNS} from instance i where i.id=?",
            (chosen[-1][0],),
        )
        return instance_of(row)

    def resend(
        self, selector: dict[str, Any], destination: str | None, now: float, among: Collection[str] | None = None
    ) -> dict[str, int]:
        """Deliver again what was delivered or given up; to ``destination`` also if it was never owed there.

        Args:
            among: Without a ``destination``: only to these. None: wherever it was owed.
        """
        counts: dict[str, int] = {}
        for instance, size in self.select(selector):
            rows = {
                row[1]: (row[0], row[2])
                for row in self.connection.execute(
                    "select id, dest, state from delivery where instance_id=?", (instance,)
                )
            }
            wanted = [destination] if destination is not None else [n for n in rows if among is None or n in among]
            for name in wanted:
                found = rows.get(name)
                if found is None:
                    self._insert(instance, name, 1, now)
                elif found[1] in ("done", "dead"):
                    self._requeue(found[0], now)
                    self.delta.dead -= found[1] == "dead"
                else:
                    continue
                self.delta.add_open(name, 1, size)
                self.event(now, instance, name, "resend", "by an operator")
                counts[name] = counts.get(name, 0) + 1
            if wanted:
                self._unsettle(instance)
                if self.connection.execute(
                    "update instance set verdict='route' where id=? and verdict='hold' returning id", (instance,)
                ).fetchone():
                    self.delta.held -= 1
        self._told("resend", counts, now)
        return counts

    def _told(self, action: str, counts: dict[str, int], now: float) -> None:
        for name, count in counts.items():
            self.audit.operator(now, action, destination=name, count=count)

    def dead(
        self, ids: Sequence[int] | None, destination: str | None, among: Collection[str] | None = None
    ) -> list[int]:
        """The deliveries that are dead letters: all of them, those of a destination, or of these.

        Args:
            among: Only those of these destinations. None: of any.
        """
        return [row[0] for row in self._dead(ids, destination) if among is None or row[1] in among]

    def retry_dead(self, ids: Sequence[int], now: float) -> dict[str, int]:
        """Dead letters are ready again."""
        counts: dict[str, int] = {}
        for delivery, name, instance, size in self._dead(ids, None):
            self._requeue(delivery, now)
            self._unsettle(instance)
            self.delta.dead -= 1
            self.delta.add_open(name, 1, size)
            self.woken.add(name)
            self.event(now, instance, name, "dead letter retried", "by an operator")
            counts[name] = counts.get(name, 0) + 1
        self._told("retry dead letters", counts, now)
        return counts

    def discard_dead(self, ids: Sequence[int], now: float) -> int:
        """An operator gives them up for good; they count as settled."""
        counts: dict[str, int] = {}
        for delivery, name, instance, _ in self._dead(ids, None):
            self.connection.execute(
                "update delivery set state='done', last_error=?, updated=? where id=?", (DISCARDED, now, delivery)
            )
            self.event(now, instance, name, "dead letter discarded", "by an operator")
            self.delta.dead -= 1
            row = self.connection.execute(
                "update instance set settled=? where id=? and settled is null "
                "and not exists (select 1 from delivery where instance_id=? and state<>'done') "
                "returning segment, length",
                (now, instance, instance),
            ).fetchone()
            if row is not None:
                self.delta.keep(row[0], row[1])
            counts[name] = counts.get(name, 0) + 1
        self._told("discard dead letters", counts, now)
        return sum(counts.values())

    def _dead(self, ids: Sequence[int] | None, destination: str | None) -> list[tuple[int, str, int, int]]:
        sql = (
            "select d.id, d.dest, d.instance_id, i.size from delivery d join instance i on i.id=d.instance_id "
            "where d.state='dead'"
        )
        arguments: list[Any] = []
        if ids is not None:
            sql += " and d.id in (select value from json_each(?))"
            arguments.append(json.dumps(list(ids)))
        if destination is not None:
            sql += " and d.dest=?"
            arguments.append(destination)
        return list(self.connection.execute(sql, arguments))

    def held_instances(
        self, after: int, limit: int, *, other_than: str | None = None, changes: bool = True
    ) -> list[tuple[InstanceInfo, Location]]:
        """Held ones with an id above ``after``, in order.

        Args:
            other_than: Only those that other rules than this version held.
            changes: Also those that came under a SOP Instance UID with other bytes.
        """
        return [
            instance_of(row)
            for row in self.connection.execute(
                f"select {INSTANCE_COLUMNS} from instance i where i.verdict='hold' and i.id>?1 "
                "and (?3 is null or i.rule_version<>?3) and (?4 or i.supersedes is null) order by i.id limit ?2",
                (after, limit, other_than, changes),
            )
        ]

    def route_held(self, decisions: Sequence[tuple[int, Decision]], now: float, why: str) -> set[int]:
        """Held instances get a decision; gives those that were still held."""
        routed: set[int] = set()
        released = 0
        for number, decision in decisions:
            row = self.connection.execute(
                "update instance set verdict=?, rules=?, rule_version=?, priority=? where id=? and verdict='hold' returning size",
                (decision.verdict, json.dumps(decision.rules), decision.version, int(decision.priority), number),
            ).fetchone()
            if row is None:
                continue
            self.delta.held -= 1
            routed.add(number)
            released += bool(decision.destinations)
            self.event(now, number, None, "released" if decision.destinations else "discarded", why)
            for destination in decision.destinations:
                self._insert(number, destination, int(decision.priority), now)
                self.delta.add_open(destination, 1, row[0])
            if not decision.destinations:
                segment, length = self._one(
                    "update instance set settled=? where id=? returning segment, length", (now, number)
                )
                self.delta.keep(segment, length)
        if released:
            self.audit.operator(now, "release held instances", count=released)
        if discarded := len(routed) - released:
            self.audit.operator(now, "discard held instances", count=discarded)
        return routed

    def rules_in_force(self, version: str, now: float) -> None:
        before = self.connection.execute("select value from setting where name='rules'").fetchone()
        if before is not None and before[0] == version:
            return
        self.set_setting("rules", version)
        if before is not None:
            self.audit.operator(now, "rules changed")

    def set_setting(self, name: str, value: str | None) -> None:
        if value is None:
            self.connection.execute("delete from setting where name=?", (name,))
        else:
            self.connection.execute("insert or replace into setting values(?,?)", (name, value))
