"""Looking at a spool's files from outside, beside a router that may be running: no lock is taken and nothing is
changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from router.errors import SpoolError
from router.spool.record import STREAMED
from router.spool.scan import first_header
from router.spool.segment import KIND_LOG, KIND_STREAM, SUFFIX, read_segment_header


@dataclass(frozen=True, slots=True)
class OpenSegment:
    """A segment file open for reading, as its header had it when it was opened."""

    descriptor: int
    number: int
    kind: int
    epoch: int

    def used_again(self) -> bool:
        """Whether the router has begun to overwrite it since."""
        header = read_segment_header(self.descriptor)
        return header is not None and header[2] != self.epoch


def segment_paths(folder: Path) -> list[Path]:
    """Files of segments, by number. Raises SpoolError if there is no such folder."""
    if not folder.is_dir():
        raise SpoolError(f"there is no spool at {folder}")
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


@contextmanager
def opened(path: Path) -> Iterator[OpenSegment | None]:
    """A segment to read, or None if it has been deleted meanwhile or was never used. Raises SpoolError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise SpoolError(f"cannot open a segment: {error.strerror}") from error
    try:
        header = read_segment_header(descriptor)
        if header is not None:
            kind, number, epoch = header
            yield OpenSegment(descriptor, number, kind, epoch)
            return
        record = first_header(descriptor)
        if record is None:
            yield None
        else:
            kind = KIND_STREAM if record.flags & STREAMED else KIND_LOG
            yield OpenSegment(descriptor, int(path.stem), kind, record.epoch)
    except OSError as error:
        raise SpoolError(f"cannot read segment {path.stem}: {error.strerror}") from error
    finally:
        os.close(descriptor)
