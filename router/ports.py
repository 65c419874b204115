"""The contracts between stages. A stage that needs another's service takes it as an argument typed here.

The flow of one instance, and who calls whom::

    storage SCP ──begin/write/finish──▶ Intake ──submit──▶ SpoolWriter ──written──▶ LedgerWriter
         ▲                                │ decide (routing)     │ synced                 │ committed
         └────────── status ◀─────────────┴──────────────────────┴────────────────────────┘
                                          └──offer──▶ Lane ──▶ Sender ──▶ StorageScu / folder
                                                        └── settle ──▶ LedgerWriter

Everything here runs on the event loop unless it says otherwise. Only the spool and the ledger own threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from router.model import Decision, Delivery, InstanceInfo, Location, Origin, Outcome

Buffer = bytes | bytearray | memoryview
ReadStraight = Callable[[int, int, bytearray | None], int]
"""``(descriptor, left, ahead)``: reads the next bytes of a data set from a socket to where they are kept, and what
follows ``left`` of them to ``ahead``; gives how many. 0: there is nothing now; -1: nothing more is to be read so."""


# Receiving -------------------------------------------------------------------------------------------------


class Reception(Protocol):
    """One data set on its way in. Exactly one of ``finish`` and ``discard`` ends it."""

    @property
    def read(self) -> ReadStraight | None:
        """Takes the next bytes as ``write`` does, from their socket; None: it always has to be ``write``."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes of the data set; they are valid during this call only. Never raises for bad data:
        what is wrong is remembered and answered by ``finish``."""

    def finish(self, done: Callable[[int, str], None]) -> None:
        """The last fragment is in. ``done(status, comment)`` is called later, on the loop, exactly once:
        with 0x0000 only when the instance is durable, and with it to whom it is owed."""

    def discard(self) -> None:
        """The message will not be completed; nothing is kept. Safe at any time before ``finish``."""

    @property
    def congested(self) -> bool:
        """True while more of this data set is in memory than it may be: stop reading the socket."""


class Intake(Protocol):
    """What the storage SCP hands data sets to."""

    def begin(
        self,
        origin: Origin,
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        move_originator: tuple[str, int] | None,
        resume: Callable[[], None],
    ) -> Reception:
        """Open a reception. ``resume()`` is called when ``congested`` has turned False again."""


class Admission(Protocol):
    """Whether a new association may come in, as far as the state of the house decides (disk, drain)."""

    def refusal(self) -> tuple[int, int, int, str] | None:
        """(result, source, reason, counter label) of the A-ASSOCIATE-RJ to send, or None."""


# The spool -------------------------------------------------------------------------------------------------


class SpoolEntry(Protocol):
    """What is submitted to the spool: one complete small record, or the end of a streamed one."""

    info: InstanceInfo
    decision: Decision
    location: Location
    """Set by the spool before ``synced`` is called."""
    chunks: Sequence[Buffer] | None
    """The data set of a small record; None of a streamed one."""


class DataSource(Protocol):
    """The data set of a stored instance, to be sent."""

    @property
    def size(self) -> int | None:
        """None: it is not whole yet; the size is known when ``chunks`` ends."""

    @property
    def buffers(self) -> Sequence[Buffer] | None:
        """All of it in memory and verified, or None: use ``chunks``."""

    def chunks(self) -> AsyncIterator[Buffer]:
        """In order, bounded memory, disk read in threads. The last chunk is given only after the checksum of the
        whole has been verified; raises SpoolCorrupt otherwise, so the sender can abort before the last fragment."""


class GrowingSource(DataSource, Protocol):
    """The data set of an instance that still arrives, for one destination. Of no use after ``close``.

    ``chunks`` ends only after ``complete``, and only if what it gave is what was stored: whoever sends it holds the
    last fragment back until then. It raises SpoolError, at its next turn, once the object has failed.
    """

    @property
    def given(self) -> int:
        """Bytes that ``chunks`` has given so far."""

    @property
    def starved(self) -> bool:
        """It has given all that there is, and waits for the sender."""

    @property
    def ended(self) -> bool:
        """``chunks`` has given everything, and it was right."""

    def complete(self, info: InstanceInfo) -> None:
        """The object is stored, and owed: it may be sent to its end."""

    def close(self) -> None:
        """Let go of memory and files. Safe at any time, more than once."""


class GrowingObject(Protocol):
    """A large object that still arrives."""

    def source(self) -> GrowingSource:
        """For one more destination, from the first byte."""


class SpoolReader(Protocol):
    def source(self, delivery: Delivery) -> DataSource:
        """Never touches the disk itself."""

    async def load(self, info: InstanceInfo, location: Location) -> Sequence[Buffer]:
        """The whole data set of a small instance, verified. Raises SpoolCorrupt, SpoolError."""


# The ledger ------------------------------------------------------------------------------------------------


class Ledger(Protocol):
    """The part of the ledger that delivery uses. Calls return at once; work happens in the ledger's thread, in
    groups."""

    def settle(self, outcome: Outcome) -> None:
        """Record what became of an attempt. Durable with the next group; a lost one means a repeat, never a loss."""

    async def lease(self, destination: str, limit: int) -> list[Delivery]:
        """The next ready deliveries, in order (priority, not_before, arrival), now leased to this process.
        A newer version of an instance is not returned while an older one is undelivered at that destination."""

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give leases back unused (shutdown, window shrunk)."""


# Seeing ----------------------------------------------------------------------------------------------------


class LaneMetrics(Protocol):
    """Children of the metrics, bound to one destination once. ``observe`` implements it with prometheus-client."""

    def outcome(self, kind: str) -> None: ...

    def delivered(self, size: int, seconds: float) -> None: ...

    def up(self, is_up: bool) -> None: ...

    def paused(self, is_paused: bool) -> None: ...

    def association_opened(self) -> None: ...

    def association_closed(self) -> None: ...

    def cut_through(self, outcome: str) -> None:
        """An early transfer has ended: ``completed`` or ``given_up``."""


class ListenerMetrics(Protocol):
    """Bound to one listener."""

    def association_opened(self) -> None: ...

    def association_closed(self) -> None: ...

    def rejected(self, reason: str) -> None: ...

    def received(self, peer: str, size: int) -> None: ...

    def response(self, status: int, seconds: float) -> None: ...


class Log(Protocol):
    """A structlog logger, as far as stages use it. Never anything of the patient in a value."""

    def debug(self, event: str, **values: Any) -> Any: ...

    def info(self, event: str, **values: Any) -> Any: ...

    def warning(self, event: str, **values: Any) -> Any: ...

    def error(self, event: str, **values: Any) -> Any: ...


# Acting ----------------------------------------------------------------------------------------------------

Json = Mapping[str, Any]
"""What goes out as a JSON object: plain dicts, lists, strings, numbers, None. Times are epoch seconds; instance ids are
text as ``model.format_id`` gives it; UIDs and accession numbers are in the clear, since whoever asks is an operator."""


class Control(Protocol):
    """What the admin API and through it the command line can ask of the running router.

    Every method may raise NotFound (unknown destination, no such object: answered 404), InvalidRequest (400)
    and LedgerError or SpoolError (503). A *selector* is an instance id, a SOP instance, series or study
    instance UID, or an accession number. Keys named below are what the command line prints; more may be added.
    """

    def ready(self) -> tuple[bool, Sequence[str]]:
        """Whether senders can be served now (listening, ledger and spool writable, above the disk floor), and
        why not. Called often; touches no disk."""

    async def status(self) -> Json:
        """``node``, ``version``, ``state`` (running, draining), ``started``, ``rules`` {version, loaded,
        problems}, ``listeners`` [{name, ae_titles, associations}], ``destinations`` [as in ``queue``],
        ``held``, ``dead_letters``, ``spool`` {bytes, live_bytes, free_bytes}."""

    async def queue(self, destination: str | None, limit: int) -> Json:
        """``destinations`` [{name, url, state (up, resting, probing, paused), reason, since, next_attempt_in,
        waiting, bytes, oldest_seconds, in_flight, associations, dead_letters}] and ``deliveries``, the first
        ``limit``, oldest first: [{delivery, instance (its id), destination, state, sop_instance, study, modality,
        size, attempts, received, not_before, last_error, last_status}]."""

    async def studies(self, query: str, limit: int) -> Json:
        """``studies`` [{study, accession, modality, instances, first, last (times received), delivered, waiting,
        dead (deliveries), held}] whose UID, accession number or patient id is ``query`` (``*`` at its end matches
        any rest; empty: any study), latest first."""

    async def trace(self, selector: str) -> Json:
        """``instances``, the story of each: [{instance (its id), sop_instance, sop_class, study, series,
        accession, transfer_syntax, size, received, calling, called, address, verdict, rules, rule_version,
        deliveries [{destination, state, attempts, last_error, last_status, updated}], events [{at, what,
        destination, detail}]}]; ``total``, how many there are. NotFound if there is none."""

    async def explain(self, selector: str) -> Json:
        """What the rules in force would decide for a stored instance; the shape of ``Explanation`` in
        ``explain`` of the command line: ``verdict``, ``destinations``, ``priority``, ``version``, ``rules`` [{name,
        matched, because}], and which ``instance`` it is (of several, the newest). ``note``: what became of it, if that
        is something else."""

    async def rules(self) -> Json:
        """``version``, ``loaded``, ``problems`` of the last reload, ``warnings``, ``rules`` [{name, file, to,
        matches}]."""

    async def reload(self) -> Sequence[str]:
        """Replace the rules if the new ones are right, and each certificate; the problems, empty on success."""

    async def pause(self, destination: str, reason: str) -> None:
        """Send nothing there until resumed, also after a restart. What is in flight finishes."""

    async def resume(self, destination: str) -> None:
        """Lift a pause, and end a rest: the next attempt is made now."""

    async def resend(self, selector: str, destination: str | None) -> Json:
        """Owe the instances again to ``destination``, or to all that they were ever owed to. ``deliveries``:
        how many."""

    async def release(self, selector: str | None, destinations: Sequence[str] | None) -> Json:
        """Decide held instances again by the rules in force, or send them to ``destinations``; without a
        selector all that are held. ``released``, ``discarded`` and ``still_held``: how many."""

    async def dead_letters(self, destination: str | None, limit: int) -> Json:
        """``dead_letters`` [{delivery, instance, destination, sop_instance, study, size, attempts, last_status,
        last_error, updated}] and ``total``, how many there are."""

    async def retry_dead(self, destination: str | None, deliveries: Sequence[int] | None) -> Json:
        """Make dead letters ready again, with a clean count of attempts: those named by their ``delivery``, or
        all (of a destination). ``retried``: how many."""

    async def discard_dead(self, deliveries: Sequence[int]) -> Json:
        """Give these deliveries up for good; an event remembers it. ``discarded``: how many."""
