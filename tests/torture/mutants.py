"""The router with one step of its durability taken out: what the torture suite must find.

    python -m tests.torture.mutants NAME run -c CONFIG

The product has no switch for any of this: the step is replaced here, from outside, before the router starts.

That the ledger syncs is no such step: what it forgets is read again from the spool's log at the next start.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


def _unsynced(module: Any, *names: str) -> None:
    """These functions of ``durable`` do nothing where this module calls them."""
    kept = {name: getattr(module.durable, name) for name in module.durable.__all__}
    module.durable = SimpleNamespace(**kept | {name: lambda _: None for name in names})


def groups_are_not_synced() -> None:
    from router.spool import durable
    from tests.support.plain_committer import PlainCommitter

    class Unsynced(PlainCommitter):
        def sync(self, descriptor: int) -> None: ...

    durable.Committer = Unsynced  # type: ignore[assignment,misc]


def streams_are_not_synced() -> None:
    from router.spool import stream

    _unsynced(stream, "sync_data")


def new_segments_are_not_named_durably() -> None:
    from router.spool import pool

    _unsynced(pool, "sync_directory", "sync_data")


def answers_do_not_wait_for_the_disk() -> None:
    from router.app import reception

    class Answered(reception.Entry):
        __slots__ = ()

        def __init__(self, info: Any, decision: Any, chunks: Any, direct: Any, done: Any, ended_at: float) -> None:
            done(0x0000, "")
            super().__init__(info, decision, chunks, direct, lambda status, comment: None, ended_at)

    reception.Entry = Answered  # type: ignore[misc]


def the_log_is_not_read_at_start() -> None:
    from router.app import router as wiring

    def adopt(spool: Any, ledger: Any, log: Any, on_duplicate: str) -> None:
        spool.adopt(ledger.live(), ledger.position(spool.share.worker))

    wiring.reconcile = adopt


def places_are_free_before_they_are_delivered() -> None:
    from router.app.intake import StoreIntake

    synced = StoreIntake.synced

    def freed(self: StoreIntake, entries: Sequence[Any], position: Any) -> None:
        synced(self, entries, position)
        self.spool.settled([entry.location for entry in entries])

    StoreIntake.synced = freed  # type: ignore[method-assign]


def what_was_sent_counts_as_stored() -> None:
    from router.services.storage_scu import StorageScu, StoreResponse

    store = StorageScu.store

    def stored(self: StorageScu, *arguments: Any, **more: Any) -> Any:
        answer = store(self, *arguments, **more)
        answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        at_once = asyncio.get_running_loop().create_future()
        at_once.set_result(StoreResponse(0x0000, ""))
        return at_once

    StorageScu.store = stored  # type: ignore[method-assign]


NEEDS_STRICT_DISK = {new_segments_are_not_named_durably.__name__: new_segments_are_not_named_durably}
"""ext4 and XFS carry a new name to the disk with the first sync of its file; the standard does not promise it."""
MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        groups_are_not_synced,
        streams_are_not_synced,
        answers_do_not_wait_for_the_disk,
        the_log_is_not_read_at_start,
        places_are_free_before_they_are_delivered,
        what_was_sent_counts_as_stored,
    )
}

if __name__ == "__main__":
    from router.app.cli import main

    (MUTANTS | NEEDS_STRICT_DISK)[sys.argv.pop(1)]()
    sys.exit(main())
