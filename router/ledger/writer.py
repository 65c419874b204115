"""The ledger of one process: one connection that writes, in one thread, everything that waits in one transaction.

Receipts, outcomes of deliveries and leases share a commit; with WAL and ``synchronous=FULL`` a commit that has
returned is on the disk. The ledger follows the spool's log: what it has not committed when the process dies is read
from there at the next start, so nothing waits for it, and it can take its time to gather much into one transaction.

After the first I/O error the ledger is *failed*: nobody is told success any more. While the disk is full, or another
program holds the file, what must not be lost is kept for the next transaction, and the rest refused.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import apsw

from router.errors import LedgerError, fault_location
from router.ledger.ballast import Ballast
from router.ledger.counters import Counters
from router.ledger.mend import note_damage, set_aside_if_damaged
from router.ledger.queries import Queries
from router.ledger.schema import immediate, migrate
from router.ledger.shared import Turn, connect
from router.ledger.store import Receipt, ReceiptResult, Store, is_plain
from router.model import ALONE, AuditRow, Decision, Delivery, InstanceInfo, Location, LogPosition, Outcome, Share
from router.ports import Log
from router.threads import name_this_thread

T = TypeVar("T")
GROUP_JOBS = 2048
RENEW_EVERY = 20.0
COMMIT_EVERY = 0.025
"""Seconds from one commit to the next where nobody waits for it: a larger transaction costs little more than a small
one, and each sync is taken from those of the spool."""
CLOCK_STEP = 2.0
"""Seconds by which two clocks differ more than before when somebody has set one."""
BLOCKED_WAIT = 0.2
"""Seconds between attempts while nothing can be written."""
SERVING_BUSY_TIMEOUT_MS = 2_000
"""As ``shared.BUSY_TIMEOUT_MS``, while objects come: what is answered meanwhile gathers in memory. Past it nothing new is
taken (``SqliteLedger.blocked``)."""
NO_ROOM, IN_USE = "out of disk space", "the ledger is in use by another program"
CHECKPOINT_PAGES = 4000
"""WAL pages (4 KiB each) after which a passive checkpoint runs between two transactions."""
RETRIED_AT_ONCE = 500
"""Dead letters that one transaction makes ready again: some 0.1 s."""
FOLLOW_ROWS = 500
"""Instances of a log that are taken in by one transaction."""

Done = Callable[["list[ReceiptResult] | LedgerError"], None]


class _Record:
    __slots__ = ("done", "owed", "position", "receipts", "results")

    def __init__(self, receipts: Sequence[Receipt], done: Done, position: LogPosition | None, owed: bool) -> None:
        self.receipts = receipts
        self.done = done
        self.position = position
        self.owed = owed
        self.results: list[ReceiptResult] = []


class _Discarded:
    """Only the audit trail is to know of it."""

    __slots__ = ("info",)

    def __init__(self, info: InstanceInfo) -> None:
        self.info = info


class _Call:
    """Any other work of the store, with somebody who waits for what it returns."""

    __slots__ = ("future", "problem", "result", "work")

    def __init__(self, work: Callable[[Store, float], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.result: Any = None
        self.problem: Exception | None = None


_CLOSE = object()


class SqliteLedger:
    """Implements ``ports.Ledger``; made by ``open``. Called on the loop unless it says otherwise."""

    def __init__(self, path: Path, node: str, log: Log, share: Share = ALONE) -> None:
        self.path = path
        self.node = node
        self.log = log
        self.share = share
        self.ready: Callable[[str], None] = lambda destination: None
        """Called on the loop when a destination is owed something that no lane asked for."""
        self._turn: AbstractContextManager[object] = nullcontext()
        self.fresh = False
        """The ledger was empty when it was opened."""
        self.failed = False
        self.blocked = ""
        """Why the last transaction could not be written, although nothing is broken; empty: it was."""
        self.counts = Counters()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_failure: Callable[[LedgerError], None] = lambda error: None
        self._wal_pages = 0
        self._postponed: list[Any] = []
        """Jobs of such a transaction that must not be lost, in order."""
        self._committed_at = 0.0
        self._clock = time.time() - time.monotonic()
        """The time of day less the monotonic time, at the last transaction."""
        self._stepped = False
        self._working_since = 0.0
        """Monotonic; 0: there is nothing to do."""
        self._renewed_at = time.monotonic()
        self._trusted_at = 0.0
        """Monotonic time from when on a lease that has run out is one of a process that does not renew it."""
        self._ballast = Ballast(path)
        self._connection: apsw.Connection
        self._store: Store
        self._queries: Queries

    # Opening (blocking, before the loop) ---------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, *, node: str, log: Log, share: Share = ALONE, audit: bool = False) -> SqliteLedger:
        """Open or create. Raises LedgerTooNew, LedgerError with the reason.

        Args:
            share: Of a process that shares the ledger with others; ``shared.prepare`` has run before the first of them.
            audit: Whether to write what the audit trail has to tell.
        """
        ledger = cls(path, node, log, share)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if share.alone:
                set_aside_if_damaged(path, log)
            connection = ledger._connection = connect(path)
            connection.set_wal_hook(ledger._wal_grew)
            owners = f"{node}/"
            if not share.alone:
                owners = f"{node}/{share.worker}/"
                ledger._turn = Turn(path)
            ledger.fresh = migrate(connection)
            store = ledger._store = Store(connection, f"{owners}{time.time_ns()}", share, audit=audit)
            with immediate(connection):
                taken = store.take_over(owners, time.time())
            if taken:
                log.info("took over unfinished deliveries", count=taken)
            ledger._count()
            ledger._queries = Queries(path)
        except apsw.Error as error:
            if isinstance(error, apsw.FullError) and ledger._ballast.give():
                log.warning("the disk is full: the ledger gives up its ballast")
                ledger._forsake()
                return cls.open(path, node=node, log=log, share=share, audit=audit)
            note_damage(path, error)
            raise LedgerError(f"cannot use the ledger {path}: {error}") from error
        if share.worker == 0:
            ledger._ballast.make()
        return ledger

    def _forsake(self) -> None:
        """Let go of what a failed ``open`` holds."""
        if isinstance(self._turn, Turn):
            self._turn.close()
        with suppress(AttributeError, apsw.Error):
            self._connection.close()

    def _count(self) -> None:
        self.counts = self._store.counters() if self.share.alone else self._store.shared_counters()

    def live(self) -> dict[int, tuple[int, int]]:
        """Segment to (records, bytes). Blocking; before ``start``."""
        return self._store.live()

    def position(self, log: int = 0) -> LogPosition:
        """Everything before it in this log of the spool is known here. Blocking; before ``start``."""
        return self._store.position(log)

    def knows(self, instance: int) -> bool:
        """Whether the instance was ever recorded, whatever became of it. Blocking; before ``start``, or among the records
        of ``follow``."""
        return self._store.knows(instance)

    def knows_streamed(self, instance: int, place: Location) -> bool:
        """See ``Store.knows_streamed``. Blocking; as ``knows``."""
        return self._store.knows_streamed(instance, place)

    def place(self, instance: int) -> Location | None:
        """Where its record lies, as far as is known. Blocking; as ``knows``."""
        return self._store.place(instance)

    def moved(self, instance: int, old: Location, new: Location) -> None:
        """Blocking; among the records of ``follow``."""
        self._store.relocate(instance, old, new)

    def follow(self, records: Iterable[Receipt], position: LogPosition, log: int = 0) -> None:
        """Take in what a log of the spool has up to ``position``. Blocking; before ``start``. Raises LedgerError.

        In several transactions, since reading a log takes time and others may want to write.
        """
        store, rest = self._store, iter(records)
        try:
            while batch := list(islice(rest, FOLLOW_ROWS)):
                with self._turn, self._writing():
                    for receipt in batch:
                        # A record that was moved is there twice until its old place is used again.
                        if not store.knows(receipt.info.id):
                            store.record([receipt], receipt.info.received)
            with self._turn, self._writing():
                store.reach(position, log)
            self._count()
        except apsw.Error as error:
            note_damage(self.path, error)
            raise LedgerError(f"cannot use the ledger {self.path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction outside of the thread."""
        self._store.begin()
        try:
            yield
            self._store.commit()
        except BaseException:
            self._rollback()
            raise

    def last_id(self) -> int:
        row = self._connection.execute(
            "select max(coalesce((select max(id) from instance), 0), coalesce((select max(id) from history), 0))"
        ).fetchone()
        return int(row[0]) if row is not None else 0

    def start(self, loop: asyncio.AbstractEventLoop, *, failed: Callable[[LedgerError], None]) -> None:
        """``failed`` is called in the ledger's thread, once."""
        self._loop = loop
        self._on_failure = failed
        self._connection.set_busy_timeout(SERVING_BUSY_TIMEOUT_MS)
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Commit what was submitted, checkpoint, close."""
        if self._thread is not None:
            self._queue.put(_CLOSE)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._thread = None
        self.close_files()

    def close_files(self) -> None:
        self._queries.close()
        self._connection.close()
        if isinstance(self._turn, Turn):
            self._turn.close()

    # The hot path ------------------------------------------------------------------------------------------

    def record(self, receipts: Sequence[Receipt], done: Done, *, position: LogPosition | None, owed: bool) -> None:
        """Any thread. ``done`` is called in the ledger's thread after the commit, with one result per receipt, or
        an error.

        Args:
            position: The end of the spool's log behind them.
            owed: Their senders have been answered: a full disk delays them. Others it refuses.
        """
        self._queue.put(_Record(receipts, done, position, owed))

    def next_delivery(self) -> int:
        """The id of a delivery that a lane gets before the ledger knows of it: told by ``Receipt.sent``."""
        return self._store.next_number()

    def settle(self, outcome: Outcome) -> None:
        self._queue.put(outcome)

    def discarded(self, info: InstanceInfo) -> None:
        """An instance that came and is not kept, for the audit trail. Its sender has been answered."""
        if self._store.audit.wanted:
            self._queue.put(_Discarded(info))

    def _call(self, work: Callable[[Store, float], T]) -> asyncio.Future[T]:
        if self._loop is None:
            raise LedgerError("the ledger has not been started")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(work, future))
        return future

    # ports.Ledger ------------------------------------------------------------------------------------------

    async def lease(self, destination: str, limit: int) -> list[Delivery]:
        return await self._call(lambda store, now: store.lease(destination, limit, now))

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        await self._call(lambda store, now: store.release(deliveries, now))

    async def leases(self) -> list[tuple[int, int, str]]:
        """(delivery, fence, destination) of all that this run has leased, once all that was settled before is."""
        return await self._call(lambda store, now: store.leases())

    async def reclaim(self, leases: Sequence[tuple[int, int, str]]) -> set[str]:
        return await self._call(lambda store, now: store.reclaim(leases, now))

    async def next_ready_in(self, destination: str) -> float | None:
        """Seconds until the earliest waiting delivery may be tried (0: now); None when none is ready."""

        def ask(store: Store, now: float) -> float | None:
            moment = store.next_ready_at(destination, now)
            return None if moment is None else max(0.0, moment - now)

        return await self._call(ask)

    # Housekeeping and people -------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Everything submitted before is committed when this returns."""
        await self._call(lambda store, now: None)

    async def expire(self, keep_seconds: float, keep_bytes: int) -> list[tuple[int, Location]]:
        """Let go of settled records in our logs: those past their time, and the oldest while more than ``keep_bytes``
        are kept; gives (instance, place), and nothing when there are no more."""
        if self.share.alone:
            excess = max(0, self.counts.kept_bytes - keep_bytes)
            return await self._call(lambda store, now: store.expire(keep_seconds, excess, now))
        return await self._call(lambda store, now: store.expire(keep_seconds, store.excess(keep_bytes), now))

    async def instances_in(self, segment: int) -> list[tuple[InstanceInfo, Decision, Location]]:
        return await self._call(lambda store, now: store.instances_in(segment))

    async def relocate(self, number: int, old: Location, new: Location) -> bool:
        return await self._call(lambda store, now: store.relocate(number, old, new))

    async def resend(
        self, selector: dict[str, Any], destination: str | None, among: Collection[str] | None = None
    ) -> dict[str, int]:
        """See ``Store.resend``."""
        return await self._call(lambda store, now: store.resend(selector, destination, now, among))

    async def retry_dead(
        self, ids: Sequence[int] | None, destination: str | None, among: Collection[str] | None = None
    ) -> dict[str, int]:
        """Dead letters are ready again: as ``Store.dead`` finds them. Part by part, since others need the ledger
        meanwhile; those that come to be dead letters now are left."""
        dead = await self._call(lambda store, now: store.dead(ids, destination, among))
        counts: dict[str, int] = {}
        for at in range(0, len(dead), RETRIED_AT_ONCE):
            part = await self._retry(dead[at : at + RETRIED_AT_ONCE])
            for name, count in part.items():
                counts[name] = counts.get(name, 0) + count
        return counts

    async def _retry(self, dead: Sequence[int]) -> dict[str, int]:
        return await self._call(lambda store, now: store.retry_dead(dead, now))

    async def discard_dead(self, ids: Sequence[int]) -> int:
        return await self._call(lambda store, now: store.discard_dead(ids, now))

    async def route_held(self, decisions: Sequence[tuple[int, Decision]], why: str) -> set[int]:
        """See ``Store.route_held``."""
        return await self._call(lambda store, now: store.route_held(decisions, now, why))

    async def held_instances(
        self, after: int, limit: int, *, other_than: str | None = None, changes: bool = True
    ) -> list[tuple[InstanceInfo, Location]]:
        """See ``Store.held_instances``."""
        return await self._call(
            lambda store, now: store.held_instances(after, limit, other_than=other_than, changes=changes)
        )

    async def find(self, selector: dict[str, Any]) -> tuple[InstanceInfo, Location] | None:
        return await self._call(lambda store, now: store.find(selector))

    async def counted(self) -> Counters:
        """What there is now, as far as is committed; of all processes that share the ledger."""
        if not self.share.alone:
            self.counts = await asyncio.to_thread(self._queries.counters)
        return self.counts

    async def ready_among(self, destinations: list[str]) -> list[str]:
        """The destinations to which a delivery that nobody has leased may be tried now."""
        return await asyncio.to_thread(self._queries.ready, destinations, time.time())

    def place_now(self, instance: int) -> Location | None:
        """Where its record lies; None: nobody needs it any more. Any thread, blocking."""
        return self._queries.place(instance)

    async def dead_by_destination(self) -> dict[str, int]:
        return await asyncio.to_thread(self._queries.dead_by_destination)

    async def set_paused(self, destination: str, reason: str | None) -> None:
        def work(store: Store, now: float) -> None:
            store.set_setting(f"paused:{destination}", reason)
            store.audit.operator(now, "resume" if reason is None else "pause", destination=destination)

        await self._call(work)

    async def rules_in_force(self, version: str) -> None:
        """Remember the version, and for the audit trail that it is another one than before; durable when this returns.
        Every worker says so, and the first is heard."""
        await self._call(lambda store, now: store.rules_in_force(version, now))

    # The audit trail ---------------------------------------------------------------------------------------

    async def audit(self, what: str, facts: dict[str, Any]) -> None:
        """To be told of something that is no transfer; durable when this returns."""
        await self._call(lambda store, now: store.audit.add(now, what, facts))

    async def audit_rows(self, after: int, limit: int) -> list[AuditRow]:
        """What is to be told, in order, behind row ``after``."""
        return await asyncio.to_thread(self._queries.audit_rows, after, limit)

    async def audit_waiting(self) -> tuple[int, float | None]:
        """How many rows wait, and since when (epoch seconds) the oldest."""
        return await asyncio.to_thread(self._queries.audit_waiting)

    async def audit_settle(self, told: Sequence[int], begun: Sequence[int]) -> None:
        """See ``AuditRows.settle``."""
        await self._call(lambda store, now: store.audit.settle(told, begun))

    async def event(self, what: str, detail: str, destination: str | None = None) -> None:
        await self._call(lambda store, now: store.event(now, None, destination, what, detail))

    def paused(self) -> dict[str, str]:
        """Destination to the reason it was paused for. Blocking."""
        return self._queries.settings("paused:")

    async def queue(self, destination: str | None, limit: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._queries.queue, destination, limit)

    async def dead_letters(self, destination: str | None, limit: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._queries.dead_letters, destination, limit)

    async def held(self, limit: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._queries.held, limit)

    async def studies(self, query: str, limit: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._queries.studies, query, limit)

    async def trace(self, key: str) -> list[dict[str, Any]]:
        """Of many, the first ``TRACED`` that matter."""
        return await asyncio.to_thread(self._queries.trace, key)

    async def decided(self, instance: int) -> tuple[str, bool]:
        """See ``Queries.decided``."""
        return await asyncio.to_thread(self._queries.decided, instance)

    async def named(self, key: str) -> int:
        """How many instances ``trace`` would tell of if it told of all."""
        return await asyncio.to_thread(self._queries.named, key)

    def instances(self) -> int:
        """How many there are, roughly: none is counted twice, some that are gone are. Blocking."""
        return self._queries.instances()

    def sop_instances(self) -> Iterator[str]:
        """The UIDs of all instances, each at least once. Blocking."""
        return self._queries.sop_instances()

    async def oldest(self) -> dict[str, float]:
        """Destination to the arrival of its oldest undelivered instance, epoch seconds."""
        names = [name for name, (count, _) in list(self.counts.open.items()) if count > 0]  # it may grow meanwhile
        return await asyncio.to_thread(self._queries.oldest, names) if names else {}

    # The thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        name_this_thread("ledger")
        try:
            self._run()
        except Exception as error:
            # Nobody would be answered any more, and nobody told: after a fault of ours it refuses, and the router ends.
            self.failed = True
            self.log.error("fault in the ledger's thread", fault=fault_location(error))
            self._on_failure(LedgerError("the ledger's thread has ended"))
            self._run()

    def _run(self) -> None:
        closing = False
        renew_at = time.monotonic() + RENEW_EVERY
        while not closing:
            jobs = self._gather(time.monotonic() + BLOCKED_WAIT if self.blocked else renew_at)
            if _CLOSE in jobs:
                jobs.remove(_CLOSE)
                closing = True
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + RENEW_EVERY
                if self.share.worker == 0 and not self.blocked:
                    self._ballast.make()
                renewal = _Call(self._renew, self._nobody())
                self._transaction([*jobs, renewal])
                if renewal.problem is None:
                    self._renewed_at = time.monotonic()
            elif jobs:
                self._transaction(jobs)
            elif self.blocked:  # still?
                self._transaction([_Call(_rewrite, self._nobody())])
        if self._postponed:
            self.log.error(
                "the last transaction is not written: the next start reads it from the spool", why=self.blocked
            )
        if not self.failed:
            with self._turn:
                self._checkpoint(force=True)

    def _renew(self, store: Store, now: float) -> None:
        store.renew(now)
        mine = time.monotonic()
        stepped, self._stepped = self._stepped, False
        if stepped or mine - self._renewed_at > 2 * RENEW_EVERY:
            # Others have not renewed theirs by the new time, or could not either: somebody held the ledger.
            self._trusted_at = mine + 1.5 * RENEW_EVERY
        if self.share.alone or mine < self._trusted_at:
            return
        if taken := store.take_over_expired(now):
            self.log.warning("took over expired leases", count=taken)

    def _gather(self, until: float) -> list[Any]:
        """Everything that waits: a while after the last commit, unless somebody waits for it."""
        jobs, self._postponed = self._postponed, []
        most = len(jobs) + GROUP_JOBS  # however many are postponed: others want to be refused
        with suppress(queue.Empty):
            jobs.append(self._queue.get(timeout=0 if jobs else max(0.0, until - time.monotonic())))
        self._drain(jobs, most)
        early = self._committed_at + COMMIT_EVERY - time.monotonic()
        if early > 0 and jobs and all(map(_is_answered, jobs)):
            time.sleep(early)
            self._drain(jobs, most)
        return jobs

    def _drain(self, jobs: list[Any], most: int) -> None:
        with suppress(queue.Empty):
            while len(jobs) < most:
                jobs.append(self._queue.get_nowait())

    def _nobody(self) -> asyncio.Future[Any]:
        if self._loop is None:
            raise LedgerError("the ledger has not been started")
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(lambda done: done.exception())  # the loop would tell of one that nobody asks for
        return future

    def _transaction(self, jobs: list[Any]) -> None:
        if self.failed:
            self._refuse(jobs, LedgerError("the ledger has failed"))
            return
        self._working_since = time.monotonic()
        with self._turn:
            self._commit(jobs)
        self._working_since = 0.0

    @property
    def stuck_for(self) -> float:
        """Seconds for which the transaction under way has taken, its turn among several processes included."""
        since = self._working_since
        return time.monotonic() - since if since else 0.0

    def _commit(self, jobs: list[Any]) -> None:
        store = self._store
        now = time.time()
        clock = now - time.monotonic()
        stepped = 0.0
        try:
            store.begin()
            stepped = self._look_at_clock(clock)
            records: list[_Record] = []
            outcomes: list[Outcome] = []
            discarded: list[InstanceInfo] = []
            for job in jobs:
                if type(job) is Outcome:
                    outcomes.append(job)
                elif type(job) is _Discarded:
                    discarded.append(job.info)
                elif type(job) is _Record:
                    records.append(job)
                else:
                    # It may look at what was said before it.
                    self._apply(records, outcomes, now)
                    records, outcomes = [], []
                    self._run_call(job, now)
            self._apply(records, outcomes, now)
            if discarded:
                store.audit.discarded(discarded, now)
            store.commit()
        except Exception as error:
            if blocked := self._blocked_by(error):
                self._rollback()
                self._postpone(jobs, blocked)
                return
            # Constraint, I/O, a fault of ours: whatever it is, what was promised cannot be kept by going on.
            self._rollback()
            self.failed = True
            note_damage(self.path, error)
            # SQLite's words name columns; those of other exceptions can quote what they failed on.
            problem = LedgerError(f"commit failed: {error if isinstance(error, apsw.Error) else fault_location(error)}")
            self.log.error("ledger failed", error=type(error).__name__)
            self._refuse(jobs, problem)
            self._on_failure(problem)
            return
        self._committed_at = time.monotonic()
        self._clock = clock  # not before: what was rolled back has to be moved by the next transaction
        if stepped:
            self.log.warning("the clock was set", seconds=round(stepped))
        self.blocked = ""
        if self.share.alone:
            self.counts.apply(store.delta)
        if store.woken and self._loop is not None:
            for destination in sorted(store.woken):
                self._loop.call_soon_threadsafe(self.ready, destination)
        calls = []
        for job in jobs:
            if type(job) is _Record:
                job.done(job.results)
            elif type(job) is _Call:
                calls.append(job)
        if calls and self._loop is not None:
            self._loop.call_soon_threadsafe(_answer, calls)
        self._checkpoint(force=False)

    def _look_at_clock(self, clock: float) -> float:
        """Times of day that stand in rows move with a clock that is set: retries are due after as long as before. Gives
        the seconds by which this moved them."""
        seconds = clock - self._clock
        if abs(seconds) < CLOCK_STEP:
            return 0.0
        self._stepped = True
        if self.share.worker != 0:
            return 0.0
        self._store.clock_was_set(seconds)
        return seconds

    def _run_call(self, call: _Call, now: float) -> None:
        """A fault in what somebody asked for is his alone: what else is in the transaction goes on."""
        store, execute = self._store, self._connection.execute
        delta, store.delta = store.delta, Counters()
        execute("savepoint call")
        try:
            call.result = call.work(store, now)
        except apsw.Error:
            raise
        except Exception as error:
            execute("rollback to call")
            self.log.error("fault in the ledger", fault=fault_location(error))
            call.problem = LedgerError(f"not done: {type(error).__name__}")
        else:
            delta.apply(store.delta)
        finally:
            store.delta = delta
        execute("release call")

    def _apply(self, records: list[_Record], outcomes: list[Outcome], now: float) -> None:
        if records:
            delivered = {outcome.delivery_id: outcome for outcome in outcomes if is_plain(outcome)}
            known = len(delivered)
            receipts = [receipt for job in records for receipt in job.receipts]
            results = iter(self._store.record(receipts, now, delivered))
            if len(delivered) < known:
                outcomes = [one for one in outcomes if one.delivery_id in delivered or not is_plain(one)]
            for job in records:
                job.results = [next(results) for _ in job.receipts]
            position = next((job.position for job in reversed(records) if job.position is not None), None)
            if position is not None:
                self._store.reach(position, self.share.worker)
        if outcomes:
            self._store.settle_all(outcomes, now)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("rollback")

    def _blocked_by(self, error: Exception) -> str:
        """What will pass: a write found no room, on the disk or in a quota (for which SQLite has no word of its own), or
        somebody else has been writing for long. Empty for everything else."""
        if isinstance(error, apsw.FullError):
            return NO_ROOM
        if isinstance(error, apsw.BusyError):
            return IN_USE
        if getattr(error, "extendedresult", 0) != apsw.SQLITE_IOERR_WRITE:
            return ""
        return NO_ROOM if self._connection.system_errno == errno.EDQUOT else ""

    def _postpone(self, jobs: list[Any], blocked: str) -> None:
        """What was answered and what was delivered waits for the next transaction, the rest is refused."""
        if blocked == IN_USE and self.blocked != IN_USE:
            self.log.error("another program holds the ledger: nothing new is taken until it lets go")
        self.blocked = blocked
        if blocked == NO_ROOM and self._ballast.give():
            self.log.warning("the disk is full: the ledger gives up its ballast")
        self._postponed = [job for job in jobs if _is_answered(job)]
        kept = set(map(id, self._postponed))
        self._refuse([job for job in jobs if id(job) not in kept], LedgerError(f"not written: {blocked}"))
        time.sleep(BLOCKED_WAIT)  # this thread only, and trying faster helps nothing

    def _refuse(self, jobs: list[Any], problem: LedgerError) -> None:
        calls = []
        for job in jobs:
            if type(job) is _Record:
                job.done(problem)
            elif type(job) is _Call:
                job.problem = problem
                calls.append(job)
        if calls and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_answer, calls)

    def _checkpoint(self, *, force: bool) -> None:
        """Move the WAL into the database between transactions; passive: it waits for nobody."""
        try:
            if force or self._wal_pages >= CHECKPOINT_PAGES:
                self._wal_pages = 0
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return
        except apsw.Error as error:
            if blocked := self._blocked_by(error):
                # Nothing is lost: the WAL keeps it. Tried again after the next commits.
                self.blocked = blocked
                return
            self.failed = True
            note_damage(self.path, error)
            self.log.error("ledger checkpoint failed", error=type(error).__name__)
            self._on_failure(LedgerError(f"checkpoint failed: {error}"))

    def _wal_grew(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_pages = pages
        return 0


def _is_answered(job: Any) -> bool:
    """Nobody waits for it, and it must not be lost: what was answered and what was delivered."""
    return type(job) is Outcome or type(job) is _Discarded or (type(job) is _Record and job.owed)


def _rewrite(store: Store, _now: float) -> None:
    """Write something, and change nothing."""
    log = store.share.worker
    store.reach(store.position(log), log)


def _answer(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.problem is not None:
            call.future.set_exception(call.problem)
        else:
            call.future.set_result(call.result)
