"""The router with one step of its durability taken out: what the torture suite must find.

    python -m tests.torture.mutants NAME run -c CONFIG

The product has no switch for any of this: the step is replaced here, from outside, before the router starts.

That the ledger syncs is no such step: what it forgets is read again from the spool's log at the next start. Each call
that syncs is left out by itself in ``test_syncs``; here they go by what they are for, in a whole router. There, too, is
the order of a folder's file: half a file under its final name is written anew by the next start, so that only who
looks in between can tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.torture.sync_sites import leave_out
from tests.torture.writers import groups_are_not_synced


def streams_are_not_synced() -> None:
    end = "router.spool.stream SpoolStream._end sync_data"
    leave_out(f"{end} 1", f"{end} 2")


def new_segments_are_not_named_durably() -> None:
    create = "router.spool.pool SegmentPool._create"
    leave_out(f"{create} sync_data 1", f"{create} sync_directory 1")


def files_are_not_synced() -> None:
    leave_out("router.delivery.folder_sender FolderSender._complete fdatasync 1")


def answers_do_not_wait_for_the_disk() -> None:
    from router.app import reception

    assert isinstance(reception.Entry, type)

    class Answered(reception.Entry):
        __slots__ = ()

        def __init__(
            self, info: Any, decision: Any, chunks: Any, direct: Any, on_duplicate: str, done: Any, ended_at: float
        ) -> None:
            done(0x0000, "")
            super().__init__(info, decision, chunks, direct, on_duplicate, lambda status, comment: None, ended_at)

    reception.Entry = Answered  # type: ignore[misc]


def the_log_is_not_read_at_start() -> None:
    from router.app import router as wiring

    def adopt(spool: Any, ledger: Any, log: Any, on_duplicate: str) -> None:
        spool.adopt(ledger.live(), ledger.position(spool.share.worker))

    assert callable(wiring.reconcile)
    wiring.reconcile = adopt


def places_are_free_before_they_are_delivered() -> None:
    from router.app.intake import StoreIntake

    synced = StoreIntake.synced

    def freed(self: StoreIntake, entries: Sequence[Any], position: Any) -> None:
        synced(self, entries, position)
        self.spool.settled([entry.location for entry in entries])

    StoreIntake.synced = freed  # type: ignore[method-assign]


def what_was_sent_counts_as_stored() -> None:
    from router.dimse.requestor import Reply
    from router.services.storage_scu import StorageScu, StoreResponse

    begin = StorageScu.begin

    def stored(self: StorageScu, info: Any, source: Any, response: Any) -> None:
        begin(self, info, source, Reply(self._loop))
        response.set_result(StoreResponse(0x0000, ""))

    StorageScu.begin = stored  # type: ignore[method-assign]


NEEDS_STRICT_DISK = {new_segments_are_not_named_durably.__name__: new_segments_are_not_named_durably}
"""ext4 and XFS carry a new name to the disk with the first sync of its file; the standard does not promise it."""
MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        groups_are_not_synced,
        streams_are_not_synced,
        files_are_not_synced,
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
