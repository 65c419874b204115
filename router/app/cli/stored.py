"""Reading the segments of a spool beside the router that writes them: nothing is locked, changed or created."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import SpoolError
from router.spool.record import STREAMED, FoundRecord
from router.spool.scan import first_header, scan
from router.spool.segment import KIND_LOG, KIND_STREAM, SUFFIX, read_header_at, read_segment_header

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """One use of a segment file, open for reading."""

    descriptor: int
    number: int
    kind: int
    epoch: int
    header_damaged: bool

    def records(self, *, hash_data: bool = True) -> Iterator[FoundRecord]:
        """``hash_data=False`` reads headers and footers only."""
        return scan(self.descriptor, self.number, self.kind, self.epoch, hash_data=hash_data)

    def data_set(self, record: FoundRecord) -> Iterator[bytes]:
        """The data set of a whole record, in pieces. Raises SpoolError if it is not there any more."""
        header = read_header_at(self.descriptor, record.location.offset, self.epoch)
        if header is None:
            raise SpoolError("a record was overwritten while it was read")
        at = record.location.offset + header.data_offset
        end = at + header.data_length
        while at < end:
            piece = os.pread(self.descriptor, min(PIECE, end - at), at)
            if not piece:
                raise SpoolError("a record was cut short while it was read")
            at += len(piece)
            yield piece

    @property
    def reused(self) -> bool:
        """The router has begun to use the file anew: what was read of it means nothing."""
        header = read_segment_header(self.descriptor)
        return header is not None and header[2] != self.epoch


@dataclass(slots=True)
class SegmentReport:
    """What one segment holds. ``whole`` and ``size`` count records and bytes of data sets."""

    number: int
    whole: int = 0
    size: int = 0
    unfinished: int = 0
    """Being written right now, or torn by a crash before anybody was told."""
    damaged: list[FoundRecord] = field(default_factory=list)
    header_damaged: bool = False


def segments(folder: Path) -> list[Path]:
    """The segment files, in order of their numbers. Raises SpoolError if there is no spool."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.stem.isdigit())
    except OSError as error:
        raise SpoolError(f"cannot read the spool {folder}: {error.strerror}") from error


@contextmanager
def opened(path: Path) -> Iterator[OpenSegment | None]:
    """The segment; None if it was never used, or is gone since the folder was listed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        number = int(path.stem)
        header = read_segment_header(descriptor)
        if header is not None:
            yield OpenSegment(descriptor, number, header[0], header[2], False)
            return
        # The records tell their epoch themselves.
        record = first_header(descriptor)
        if record is None:
            yield None
            return
        kind = KIND_STREAM if record.flags & STREAMED else KIND_LOG
        yield OpenSegment(descriptor, number, kind, record.epoch, True)
    finally:
        os.close(descriptor)


def examine(path: Path) -> SegmentReport:
    """Read everything in a segment and compare it with its checksums."""
    report = SegmentReport(int(path.stem))
    with opened(path) as segment:
        if segment is None:
            return report
        report.header_damaged = segment.header_damaged
        for record in segment.records():
            if record.ok:
                report.whole += 1
                report.size += record.info.size if record.info is not None else 0
            elif record.torn:
                report.unfinished += 1
            else:
                report.damaged.append(record)
        if segment.reused:
            return SegmentReport(report.number)
    return report
