"""File systems that can lose their power: ext4 or XFS on an image, mounted through a loop device.

``cut`` shuts the file system down without writing its log (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN): what has not been
synced is gone when it is mounted again, as after a power cut. What the test cannot show is a disk that loses what it
has taken: the image's own file is not cut. Needs root.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32), the same for both file systems."""
NO_LOG_FLUSH = 2
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"], "xfs": ["mkfs.xfs", "-q", "-f"]}
SMALLEST = {"ext4": 64 << 20, "xfs": 320 << 20}


class Image:
    """One file system, mounted at ``mount`` while the ``with`` block lasts."""

    def __init__(self, file: Path, mount: Path, kind: str, size: int = 0) -> None:
        self.file = file
        self.mount = mount
        self.kind = kind
        self._attached = False
        with file.open("wb") as empty:
            empty.truncate(max(size, SMALLEST[kind]))
        _run([*MAKE[kind], str(file)])

    def __enter__(self) -> Image:
        self.attach()
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def attach(self) -> None:
        """Mount it; the file system's log is replayed."""
        self.mount.mkdir(parents=True, exist_ok=True)
        _run(["mount", "-o", "loop", str(self.file), str(self.mount)])
        self._attached = True

    def detach(self) -> None:
        if self._attached:
            _run(["umount", str(self.mount)])
            self._attached = False

    def cut(self) -> None:
        """Nothing that is not on the disk gets there any more."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@functools.cache
def unable(kind: str) -> str:
    """Why no such file system can be mounted and cut here; empty if it can. A missing program is for the caller to
    meet."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Image(Path(folder) / "probe", Path(folder) / "mount", kind) as image:
                image.cut()
        except OSError as error:
            return f"no {kind} image can be mounted and cut here: {error}"
    return ""
