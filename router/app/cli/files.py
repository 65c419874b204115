"""DICOM files to send: found in folders, their heads read, their data sets given as they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.dicom.part10 import read_part10
from router.errors import DatasetError, SpoolCorrupt
from router.ports import Buffer

IN_MEMORY = 4 << 20
"""Larger files are read while they are sent, in pieces of ``PIECE``."""
PIECE = 1 << 20
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""DICOMDIR: describes a medium, is no instance to store (PS3.3 Annex F)."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_offset: int
    size: int
    """Bytes of the data set."""

    @property
    def pair(self) -> tuple[str, str]:
        return self.sop_class, self.transfer_syntax


@dataclass(frozen=True, slots=True)
class NoDicom:
    path: Path
    why: str
    named: bool
    """The command line named this very file, or nobody could look: an error rather than something to pass over."""


def find(paths: Iterable[Path]) -> Iterator[DicomFile | NoDicom]:
    """Every file of the paths, folders with all that is below them, in name order."""
    for path in paths:
        if path.is_dir():
            closed: list[OSError] = []
            for folder, folders, names in os.walk(path, onerror=closed.append):
                folders.sort()
                for name in sorted(names):
                    yield read_head(Path(folder, name), named=False)
            for error in closed:
                yield NoDicom(Path(error.filename), f"cannot be searched: {error.strerror}", True)
        else:
            yield read_head(path, named=True)


def read_head(path: Path, *, named: bool) -> DicomFile | NoDicom:
    """What is needed to send the file, or why it cannot be."""
    try:
        with path.open("rb") as file:
            meta = read_part10(file)
            size = os.fstat(file.fileno()).st_size - meta.data_offset
    except DatasetError as error:
        return NoDicom(path, error.comment, named)
    except OSError as error:
        return NoDicom(path, error.strerror or str(error), True)
    if meta.sop_class == MEDIA_DIRECTORY:
        return NoDicom(path, "a DICOMDIR", named)
    if not meta.sop_class or not meta.sop_instance:
        return NoDicom(path, "its file meta information lacks the SOP Class or SOP Instance UID", named)
    if size <= 0:
        return NoDicom(path, "it has no data set", named)
    return DicomFile(path, meta.sop_class, meta.sop_instance, meta.transfer_syntax, meta.data_offset, size)


class FileData:
    """Implements ``ports.DataSource``: the data set of one file, byte for byte."""

    def __init__(self, file: DicomFile, content: bytes | None) -> None:
        self.size = file.size
        self.buffers: Sequence[Buffer] | None = None if content is None else [content]
        self._file = file

    @classmethod
    async def open(cls, file: DicomFile) -> FileData:
        """Small files are read now. Raises OSError, SpoolCorrupt if the file has changed its size."""
        if file.size > IN_MEMORY:
            return cls(file, None)
        content = await asyncio.to_thread(_read, file)
        return cls(file, content)

    async def chunks(self) -> AsyncIterator[bytes]:
        """In order; raises SpoolCorrupt before the last one if the file is cut short meanwhile."""
        with await asyncio.to_thread(self._file.path.open, "rb") as stream:
            stream.seek(self._file.data_offset)
            left = self._file.size
            while left:
                piece = await asyncio.to_thread(stream.read, min(PIECE, left))
                if not piece:
                    raise SpoolCorrupt(f"{self._file.path} became shorter while it was sent")
                left -= len(piece)
                yield piece


def _read(file: DicomFile) -> bytes:
    with file.path.open("rb") as stream:
        stream.seek(file.data_offset)
        content = stream.read(file.size + 1)
    if len(content) != file.size:
        raise SpoolCorrupt(f"{file.path} changed its size while it was sent")
    return content
