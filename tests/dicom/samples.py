"""The sample files of pydicom and pydicom-data, taken from where they are installed: nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import data_store
import pydicom

from router.dicom.part10 import FileMeta, read_part10
from router.errors import DatasetError

FOLDERS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent)

# Cut short by their makers, or with an offset edited by hand: to be refused.
BROKEN = {
    "rtplan_truncated.dcm",
    "MR_truncated.dcm",
    "DICOMDIR-nooffset",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
}


@lru_cache(maxsize=1)
def paths() -> dict[str, Path]:
    """Every Part 10 file, by name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc", ".md", ".txt", ".json"):
                with path.open("rb") as file:
                    if file.read(132)[128:] == b"DICM":
                        found[path.name] = path
    return found


def sample(name: str) -> tuple[FileMeta, bytes]:
    """Meta information and data set of one file."""
    with paths()[name].open("rb") as file:
        return read_part10(file), file.read()


@lru_cache(maxsize=1)
def samples() -> list[tuple[str, FileMeta, bytes]]:
    """Name, meta information and data set of all of them."""
    found = []
    for name in paths():
        try:
            found.append((name, *sample(name)))
        except DatasetError:
            continue
    return found
