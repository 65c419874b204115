"""What a start finds, and makes right before anything is served: spool and ledger compared, a lost ledger rebuilt.

Blocking; runs once, before the loop. Every finding is one line in the log.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.ledger import SqliteLedger
from router.model import Decision, InstanceInfo, Location, format_id
from router.ports import Log
from router.spool import Spool

NEWEST = 20_000
"""Instances looked at for a torn end: far more than any group and all streams together."""


def reconcile(spool: Spool, ledger: SqliteLedger, log: Log) -> None:
    """Bring spool and ledger together.

    * The ledger is new and the spool is not: everything whole is owed again; what is damaged is set aside.
    * Otherwise the newest instances are compared with their records: rows whose record a crash tore before anybody
      was told are
      removed. Records without rows have no owner and their segments are used again.
    """
    if ledger.fresh and not spool.empty:
        _rebuild(spool, ledger, log)
    else:
        torn = spool.in_doubt(ledger.newest(NEWEST))
        if torn:
            for info in torn:
                log.warning("unanswered instance of a crash removed", instance=format_id(info.id), size=info.size)
            ledger.forget([info.id for info in torn])
    spool.adopt(ledger.live())


def _rebuild(spool: Spool, ledger: SqliteLedger, log: Log) -> None:
    log.error("the ledger is missing: it is rebuilt from the spool, and what it had delivered is sent again")
    counts = {"whole": 0, "torn": 0, "damaged": 0}

    def whole() -> Iterator[tuple[InstanceInfo, Decision, Location]]:
        for found in spool.scan():
            if found.ok and found.info is not None and found.decision is not None:
                counts["whole"] += 1
                yield found.info, found.decision, found.location
                continue
            if found.torn:
                counts["torn"] += 1  # a crash cut it; nobody was told that it is stored
                continue
            counts["damaged"] += 1
            aside = spool.quarantine(found.location)
            log.error("damaged record set aside", problem=found.problem, file=aside.name if aside is not None else "")

    ledger.rebuild(whole())
    log.warning("ledger rebuilt", **counts)
