"""Reading everything the spool holds and hashing it again: does it still say what was received?

Can run beside a router. Segments waiting for reuse still hold settled records, which count like any other unless the
caller says which are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from router.model import Location
from router.spool.record import FoundRecord
from router.spool.scan import scan
from router.spool.survey import opened, segment_paths


@dataclass(slots=True)
class VerifyReport:
    """What a verification found."""

    segments: int = 0
    records: int = 0
    """Whole ones."""
    bytes: int = 0
    """Of their data sets."""
    torn: int = 0
    """Cut by a crash before anybody was told that they are stored."""
    damaged: list[FoundRecord] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.damaged


def verify(
    folder: Path,
    *,
    needed: Callable[[Location], bool] | None = None,
    progress: Callable[[VerifyReport], None] | None = None,
) -> VerifyReport:
    """Read and hash every record. Blocking, at the speed of the disk.

    Args:
        folder: Of the spool.
        needed: Whether a record counts; None: all do.
        progress: Called after each segment.

    Raises:
        SpoolError: No spool there, or a segment cannot be read at all.
    """
    report = VerifyReport()
    for path in segment_paths(folder):
        for record in _whole_use(path):
            if needed is not None and not needed(record.location):
                continue
            if record.ok:
                report.records += 1
                report.bytes += record.info.size if record.info is not None else 0
            elif record.torn:
                report.torn += 1
            else:
                report.damaged.append(record)
        report.segments += 1
        if progress is not None:
            progress(report)
    return report


def _whole_use(path: Path) -> Iterator[FoundRecord]:
    """The records of a segment; those that changed under our eyes, because the router reuses it, are not judged."""
    with opened(path) as segment:
        if segment is None:
            return
        for record in scan(segment.descriptor, segment.number, segment.kind, segment.epoch):
            if record.ok or not segment.used_again():
                yield record
