"""What a start finds, and makes right before anything is served: the ledger follows the spool's log to its end.

Blocking; runs once, before the loop. Every finding is one line in the log.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.ledger import Receipt, SqliteLedger
from router.model import Location
from router.ports import Log
from router.spool import Spool
from router.spool.health import PASSING


def reconcile(spool: Spool, ledger: SqliteLedger, log: Log, on_duplicate: str) -> None:
    """Bring spool and ledger together: our own log, and those whose process there is not any more.

    The log tells what was received and what was decided; the ledger remembers how far it has read it. What lies behind
    that place was synced shortly before a crash, or the ledger is an old copy, or a new one because it was lost: all
    the same, it is taken in now and owed to its destinations. A record that does not read back is set aside and told,
    unless a crash explains it: then nobody was told that it is stored.
    """
    lost = ledger.fresh and not spool.empty
    if lost:
        log.error("the ledger is missing: it is rebuilt from the spool, and what it had delivered is sent again")
    counts = {"whole": 0, "torn": 0, "damaged": 0}
    left: list[Location] = []
    if on_duplicate == "reject":
        on_duplicate = "hold"  # it may have been answered: a person decides, nothing is dropped

    def whole(number: int) -> Iterator[Receipt]:
        for found in spool.tail(ledger.position(number), ledger.knows_streamed, number):
            if found.info is not None and ledger.knows(found.info.id):
                # Whatever became of it since; unless it was moved here, and an old ledger does not know.
                place = ledger.place(found.info.id)
                if found.ok and place is not None and not spool.holds(place):
                    ledger.moved(found.info.id, place, found.location)
                continue
            if found.ok and found.info is not None and found.decision is not None:
                counts["whole"] += 1
                yield Receipt(
                    info=found.info, decision=found.decision, location=found.location, on_duplicate=on_duplicate
                )
            elif found.torn:
                counts["torn"] += 1
            else:
                counts["damaged"] += 1
                try:
                    aside = spool.quarantine(found.location)
                except OSError as error:
                    if error.errno not in PASSING:
                        raise
                    # Others wait to be delivered, which makes room; this one can be copied until the next start.
                    left.append(found.location)
                    log.error(
                        "damaged record not set aside: it stays where it is until the next start",
                        problem=found.problem, reason=error.strerror, segment=found.location.segment,
                        offset=found.location.offset, bytes=found.location.length,
                    )  # fmt: skip
                    continue
                log.error(
                    "damaged record set aside", problem=found.problem, file=aside.name if aside is not None else ""
                )

    for number in spool.logs:
        # Never back, also where no segment is left: places in a log only rise. Else an older copy of the ledger, put
        # back one day, would stand behind what is written from here on, and never look for it.
        ledger.follow(whole(number), max(spool.end(number), ledger.position(number)), number)
    if lost:
        log.warning("ledger rebuilt", **counts)
    elif any(counts.values()):
        log.info("the end of the spool's log was read", **counts)
    live = ledger.live()
    for place in left:
        records, size = live.get(place.segment, (0, 0))
        live[place.segment] = records + 1, size + place.length
    spool.adopt(live, ledger.position(spool.share.worker))
