"""The segments there are: which are being written, what lives in the others, which may be overwritten.

::

    spare ──take──▶ being written ──close──▶ holding records ──settle, the last one──▶ spare, or deleted
      ▲                   └──────────abandon──────────────────────────────────────────▶ │
      └──────────────────────────────────────────────────────────────────────────────◀──┘

A segment becomes spare only when every record in it has been settled. Records are settled by place, each at most
once: saying it twice changes nothing, so that a miscount elsewhere can leak a segment but never give away one that is
needed.

Epochs rise with every use of any segment; their lower half is random, so that no data set can hold a record that
would be taken for one of ours. Descriptors are kept only for segments being written: a backlog of large objects has a
segment each.

Any thread. Files are made ahead and deleted in a thread of the pool's own, since either may take the disk a while.
"""

from __future__ import annotations

import os
import secrets
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from router.errors import SpoolCorrupt, SpoolError
from router.model import ALONE, LOG_SEGMENTS, Location, LogPosition, Share, SpoolSettings, log_of
from router.ports import Log
from router.spool import durable
from router.spool.health import Health
from router.spool.record import ALIGNMENT, STREAMED
from router.spool.scan import first_header
from router.spool.segment import (
    BLOCK,
    FIRST_RECORD,
    KIND_LOG,
    KIND_STREAM,
    MARK_OFFSET,
    SUFFIX,
    SegmentFile,
    path_of,
    read_segment_header,
    write_segment_header,
)
from router.spool.space import Space

COMPACT_BELOW = 0.25
"""A segment of the log with less than this share alive is worth compacting."""
CANDIDATES = 4
_EPOCH_RANDOM_BITS = 31


@dataclass(slots=True, eq=False)
class Segment:
    """One segment file. Changed under the pool's lock only."""

    number: int
    path: Path
    size: int
    """Bytes of the file."""
    kind: int = KIND_LOG
    epoch: int = 0
    live: int = 0
    """Records that somebody still needs."""
    live_bytes: int = 0
    being_written: bool = False
    written_here: bool = False
    """Used in this run: other epochs than the present one are gone, not damaged."""
    offered: int = 0
    """How often it was to be compacted in its present use, and is still here."""
    settled: array[int] = field(default_factory=lambda: array("Q"))
    """Places settled in this run, sorted, in units of ALIGNMENT: four orders of magnitude smaller than what they
    stand for."""


class SegmentPool:
    """See the module's text."""

    def __init__(
        self,
        folder: Path,
        settings: SpoolSettings,
        *,
        space: Space,
        health: Health,
        files: Executor,
        log: Log,
        share: Share = ALONE,
    ) -> None:
        self.share = share
        self.place_now: Callable[[int], Location | None] = lambda instance: None
        """Where the record of an instance lies; asked in a thread when another process has moved it meanwhile."""
        self.direct = False
        """Whether bulk is written past the page cache; set before the first ``take``."""
        self.folder = folder
        self.segments: dict[int, Segment] = {}
        self._settings = settings
        self._space = space
        self._health = health
        self._files = files
        self._log = log
        self._lock = Lock()
        self._spare: dict[int, list[Segment]] = {KIND_LOG: [], KIND_STREAM: []}
        self._blanking = 0
        """Segments of streams that will be spare."""
        self._next_number = share.worker * LOG_SEGMENTS + 1
        self._uses = 0
        self._missing: set[int] = set()
        self._closed = False

    # Starting ----------------------------------------------------------------------------------------------

    def find(self) -> None:
        """Read the header of every segment file. Raises SpoolError, OSError. Blocking."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.stem.isdigit() and self.share.owns(log_of(int(path.stem))):
                self._find_one(path)

    def _find_one(self, path: Path) -> None:
        named = int(path.stem)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            segment = Segment(named, path, os.fstat(descriptor).st_size)
            header = read_segment_header(descriptor)
            if header is not None:
                segment.kind, segment.number, segment.epoch = header
            elif segment.size:
                # Made ahead and never used, or its first block is damaged: records tell their epoch themselves.
                record = first_header(descriptor)
                if record is None:
                    os.pread(descriptor, BLOCK, 0)  # raises if that is why: nobody knows what is in there
                else:
                    segment.epoch = record.epoch
                    segment.kind = KIND_STREAM if record.flags & STREAMED else KIND_LOG
                    self._log.error("segment header damaged, read by its records", segment=named)
        finally:
            os.close(descriptor)
        self._not_again(named, segment.number)
        self._uses = max(self._uses, segment.epoch >> _EPOCH_RANDOM_BITS)
        twin = self.segments.get(segment.number)
        if twin is not None:
            # A copy of a segment: its place in the ledger is taken by the one that is named so.
            self._log.error("two files claim one segment, the misnamed one is left alone", segment=segment.number)
            if twin.number == int(twin.path.stem):
                return
        self.segments[segment.number] = segment

    def _not_again(self, *numbers: int) -> None:
        """These numbers of segments must not come to mean others."""
        ours = [number + 1 for number in numbers if log_of(number) == self.share.worker]
        self._next_number = max(self._next_number, *ours, 0)

    def adopt(self, live: Mapping[int, tuple[int, int]], position: LogPosition) -> None:
        """What still lives, by segment: (records, bytes). Every other segment is spare. Epochs go on behind
        ``position``. Blocking."""
        with self._lock:
            self._uses = max(self._uses, position.epoch >> _EPOCH_RANDOM_BITS)
            live = {number: found for number, found in live.items() if self.share.owns(log_of(number))}
            self._not_again(*live)
            self._missing = set(live) - set(self.segments)
            for number, segment in self.segments.items():
                segment.live, segment.live_bytes = live.get(number, (0, 0))
            unneeded = [segment for segment in self.segments.values() if not segment.live]
        for number in sorted(self._missing):
            self._log.error("segment file is missing", segment=number, records=live[number][0])
        for segment in unneeded:
            self._retire(segment)

    # Writing -----------------------------------------------------------------------------------------------

    def take(self, kind: int) -> tuple[Segment, SegmentFile]:
        """A segment to write from the front and its file. Ends with ``close`` or ``abandon``.

        Raises:
            SpoolFull: No room for a new one.
            SpoolError: The disk failed.
        """
        with self._lock:
            spares = self._spare[kind]
            segment = spares.pop() if spares else None
            reused = segment is not None
            if segment is not None:
                self._space.reusable -= segment.size
                segment.being_written = True
        file: SegmentFile | None = None
        try:
            if segment is None:
                segment, file = self._create(kind)
            else:
                file = SegmentFile(segment.path, create=False, direct=self.direct)
            with self._lock:
                self._uses += 1
                segment.kind = kind
                segment.epoch = self._uses << _EPOCH_RANDOM_BITS | secrets.randbits(_EPOCH_RANDOM_BITS)
                segment.live = segment.live_bytes = segment.offered = 0
                segment.settled = array("Q")
                segment.written_here = True
            write_segment_header(file.descriptor, kind, segment.number, segment.epoch)
            if reused and kind == KIND_STREAM:
                # With it the record that was here is gone for good. It has no place in the log: were it to come back
                # when its data is half overwritten, a start would take it for one that is damaged.
                durable.sync_data(file.descriptor)
        except (OSError, SpoolError) as error:
            # Judged first: after a failure what the disk holds is for the next start to judge, and is not touched.
            problem = self._health.judge(error)
            if segment is not None:
                self.abandon(segment, file)
            raise problem from error
        return segment, file

    def _create(self, kind: int) -> tuple[Segment, SegmentFile]:
        with self._lock:
            number = self._next_number
            self._next_number += 1
        path = path_of(self.folder, number)
        size = self._settings.segment_size if kind == KIND_LOG else 0
        file = SegmentFile(path, create=True, direct=self.direct)
        try:
            if size:
                # Space is taken now, so that a full disk is met here and not in the middle of a group.
                os.posix_fallocate(file.descriptor, 0, size)
                durable.sync_data(file.descriptor)
            durable.sync_directory(self.folder)
        except (OSError, SpoolError):
            file.close()
            with suppress(OSError):
                path.unlink()
            raise
        segment = Segment(number, path, size, kind, being_written=True, written_here=True)
        with self._lock:
            self.segments[number] = segment
        return segment, file

    def add(self, segment: Segment, records: int, size: int, end: int) -> None:
        """Records were written: so many, of so many bytes together, and the file is written up to ``end``."""
        with self._lock:
            segment.live += records
            segment.live_bytes += size
            segment.size = max(segment.size, end)

    def close(self, segment: Segment, file: SegmentFile) -> None:
        """Nothing more will be written to it."""
        file.close()
        with self._lock:
            segment.being_written = False
            unneeded = not segment.live
        if unneeded:
            self._retire(segment)

    def abandon(self, segment: Segment, file: SegmentFile | None) -> None:
        """Nothing in it counts: what was written was never reported."""
        with self._lock:
            segment.live = segment.live_bytes = 0
        if file is not None:
            with suppress(OSError):
                segment.size = file.size
            self.close(segment, file)
        else:
            segment.being_written = False
            self._retire(segment)

    # Letting go --------------------------------------------------------------------------------------------

    def settle(self, locations: Sequence[Location]) -> None:
        """These records are not needed any more. Returns at once."""
        emptied: list[Segment] = []
        twice = 0
        with self._lock:
            for location in locations:
                segment = self.segments.get(location.segment)
                if segment is None or segment.epoch != location.epoch:
                    continue
                place = location.offset // ALIGNMENT
                at = bisect_left(segment.settled, place)
                if at < len(segment.settled) and segment.settled[at] == place:
                    twice += 1
                    continue
                segment.settled.insert(at, place)
                segment.live -= 1
                segment.live_bytes -= location.length
                if not segment.live and not segment.being_written:
                    emptied.append(segment)
        if twice:
            self._log.error("records settled twice", records=twice)
        for segment in emptied:
            self._retire(segment)

    def _retire(self, segment: Segment) -> None:
        """Nothing in it is needed: keep it to be overwritten, or delete it."""
        if self._health.failure is not None:
            return  # what the disk holds now is for the next start to judge
        with self._lock:
            spares = self._spare[segment.kind]
            if segment in spares or segment.being_written or self.segments.get(segment.number) is not segment:
                return
            # A huge one is not worth its room: it would be cut down by the next object that is not as huge. One of
            # another log is not written to: its owner, if there is one again, would take our records for its own.
            fits = segment.size <= 4 * self._settings.segment_size and log_of(segment.number) == self.share.worker
            kept = len(spares) + (self._blanking if segment.kind == KIND_STREAM else 0)
            if kept < self._settings.spare_segments and fits and segment.size and not self._space.tight:
                if segment.kind == KIND_STREAM and not self._closed:
                    self._blanking += 1
                    self._files.submit(self._blank, segment)
                else:
                    spares.append(segment)
                    self._space.reusable += segment.size
                return
            del self.segments[segment.number]
            closed = self._closed
        if closed:
            self._delete(segment.path)
        else:
            self._files.submit(self._delete, segment.path)

    def _blank(self, segment: Segment) -> None:
        """In the files' thread: make a streamed record that nobody needs unreadable, then keep its segment.

        It has no place in the log that would tell a start to leave it alone. The sync mark goes first, or the record
        that it vouches for would be missed; the header is synced by ``take``, before anything is written over what it
        heads: should it come back until then, an object is sent twice.
        """
        try:
            descriptor = os.open(segment.path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, bytes(BLOCK), MARK_OFFSET)
                durable.sync_data(descriptor)
                os.pwrite(descriptor, bytes(BLOCK), FIRST_RECORD)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._log.warning("cannot blank a segment", reason=error.strerror)
        except SpoolError as error:
            self._health.fail(error)
            return
        with self._lock:
            self._blanking -= 1
            self._spare[KIND_STREAM].append(segment)
            self._space.reusable += segment.size

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # It stays behind until the next start finds it without an owner.
            self._log.warning("cannot delete a segment", reason=error.strerror)

    def shut(self) -> None:
        """No work is given to the pool's thread from here on."""
        with self._lock:
            self._closed = True

    # Reading -----------------------------------------------------------------------------------------------

    def open(self, location: Location) -> int:
        """A descriptor to read with; the caller closes it. In a thread.

        Raises:
            SpoolCorrupt: The file should be there and is not.
            SpoolError: Nothing lies there any more (it was settled), or the file cannot be opened.
        """
        segment = self.segments.get(location.segment)
        if segment is None:
            if self.foreign(location):
                return self._open_foreign(location)
            if location.segment in self._missing:
                raise SpoolCorrupt("segment file missing")
            raise SpoolError("the record has been settled")
        try:
            return os.open(segment.path, os.O_RDONLY)
        except FileNotFoundError:
            if self.segments.get(location.segment) is not segment:
                raise SpoolError("the record has been settled") from None
            raise SpoolCorrupt("segment file missing") from None
        except OSError as error:
            raise SpoolError(f"cannot open a segment: {error.strerror}") from error

    def foreign(self, location: Location) -> bool:
        """Whether another process writes that segment, and may move, overwrite or delete it at any time."""
        return not self.share.owns(log_of(location.segment))

    def _open_foreign(self, location: Location) -> int:
        try:
            return os.open(path_of(self.folder, location.segment), os.O_RDONLY)
        except FileNotFoundError:
            raise SpoolCorrupt("segment file missing") from None
        except OSError as error:
            raise SpoolError(f"cannot open a segment: {error.strerror}") from error

    def overwritten(self, location: Location) -> bool:
        """Whether we ourselves have used the segment for something else since."""
        segment = self.segments.get(location.segment)
        if segment is None:
            return location.segment not in self._missing
        return segment.written_here and segment.epoch != location.epoch

    def candidates(self) -> list[int]:
        """Full segments of the log that are mostly dead, the emptiest first; a few at a time.

        One that could not be emptied, since a damaged record keeps it, has its turn again behind all others.
        """
        with self._lock:
            mostly_dead = [
                segment
                for segment in self.segments.values()
                if segment.kind == KIND_LOG
                and segment.live
                and not segment.being_written
                and segment.live_bytes < (segment.size - FIRST_RECORD) * COMPACT_BELOW
            ]
            mostly_dead.sort(key=lambda segment: (segment.offered, segment.live_bytes))
            chosen = mostly_dead[:CANDIDATES]
            for segment in chosen:
                segment.offered += 1
        return [segment.number for segment in chosen]

    def sizes(self) -> tuple[int, int]:
        """Bytes of all files, and of what lives in them."""
        with self._lock:
            segments = self.segments.values()
            return sum(segment.size for segment in segments), sum(segment.live_bytes for segment in segments)
