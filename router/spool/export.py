"""Turning records into ordinary DICOM files (PS3.10), so that the data is never held hostage.

File names are instance ids of ours: nothing of a peer becomes part of a path. The data set bytes are those that were
received; only the file meta information is made here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from router.dicom.part10 import file_meta
from router.errors import SpoolError
from router.model import InstanceInfo, format_id
from router.spool import durable
from router.spool.record import FoundRecord
from router.spool.scan import scan
from router.spool.segment import read_header_at
from router.spool.survey import OpenSegment, opened, segment_paths

_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """One record, written or not."""

    record: FoundRecord
    path: Path | None
    """None: it is damaged, see ``problem``; nothing was written."""
    problem: str = ""


def export(folder: Path, target: Path, *, select: Callable[[FoundRecord], bool] | None = None) -> Iterator[Exported]:
    """Write the records of a spool as Part 10 files into ``target``. Blocking; can run beside a router.

    Each file appears under its name when it is complete and its checksum was right, and is synced. A second copy of a
    record, left where a compaction moved it from, is not written again.

    Args:
        folder: Of the spool.
        target: Made if it is missing.
        select: Which records; None: all that are whole.

    Raises:
        SpoolError: No spool there, a segment cannot be read, or ``target`` cannot be written.
    """
    done: set[int] = set()
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in segment_paths(folder):
            with opened(path) as segment:
                if segment is None:
                    continue
                found = scan(segment.descriptor, segment.number, segment.kind, segment.epoch, hash_data=False)
                for record in found:
                    info = record.info
                    if record.torn or (info is not None and info.id in done):
                        continue
                    if select is not None and not select(record):
                        continue
                    if info is None or not record.ok:
                        yield Exported(record, None, record.problem)
                        continue
                    written = _write(segment, record, info, target / f"{format_id(info.id)}.dcm")
                    if written is None:
                        yield Exported(record, None, "data does not match its checksum")
                        continue
                    done.add(info.id)
                    yield Exported(record, written)
        durable.sync_directory(target)
    except OSError as error:
        raise SpoolError(f"cannot export to {target}: {error.strerror}") from error


def _write(segment: OpenSegment, record: FoundRecord, info: InstanceInfo, path: Path) -> Path | None:
    """The file, or None when the record's data is not what was received."""
    header = read_header_at(segment.descriptor, record.location.offset, segment.epoch)
    if header is None:
        return None
    partial = path.with_suffix(".part")
    hasher = xxhash.xxh3_128()
    at = record.location.offset + header.data_offset
    end = at + header.data_length
    with open(partial, "wb") as file:
        file.write(file_meta(info))
        while at < end and (data := os.pread(segment.descriptor, min(_STEP, end - at), at)):
            hasher.update(data)
            file.write(data)
            at += len(data)
        file.flush()
        durable.sync_data(file.fileno())
    if hasher.digest() != header.checksum:
        partial.unlink()
        return None
    return partial.rename(path)
