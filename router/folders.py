"""Names that are on the disk: for who makes folders and files outside of the spool's segments.

A file whose bytes were synced is lost with its name, and a name with any folder above it. So a folder of ours is made
from the top down, each name synced before the next; and since a run before this one may have been killed between a
name and its sync, being there already is no proof.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """The names in it are on stable storage. Raises OSError. Blocking."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int) -> None:
    """The folder is there, and so it will be after a power cut. Raises OSError. Blocking.

    Folders above it that were there before are synced as far as we may read them, up to where they are mounted.
    """
    folder = place = Path(os.path.realpath(folder))  # the names that count are behind links
    above: list[Path] = []
    while place != place.parent and not os.path.ismount(place):
        place = place.parent
        above.append(place)
    missing = [place for place in (folder, *above) if not place.exists()]
    for place in reversed(missing):
        with suppress(FileExistsError):  # somebody else was faster
            place.mkdir(mode=mode)
        sync_folder(place.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    made = {place.parent for place in missing}
    for place in above:
        if place not in made:
            with suppress(PermissionError):
                sync_folder(place)
