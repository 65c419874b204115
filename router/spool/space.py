"""How much room there is, and when it is too little: two floors, asked about at every association and every object.

Asking costs no system call: the figures are refreshed beside the loop, several times a second.
"""

from __future__ import annotations

import os
from pathlib import Path

from router.model import SpoolSettings


class Space:
    """Free bytes of the file system under ``folder``, for unprivileged users."""

    def __init__(self, folder: Path, settings: SpoolSettings) -> None:
        self._folder = folder
        self._settings = settings
        self.free = 0
        self.total = 0
        self.reusable = 0
        """Bytes of segments that wait to be overwritten; kept by the pool."""
        self.largest_object = 0

    def refresh(self) -> None:
        """Ask the file system. Any thread; raises OSError."""
        state = os.statvfs(self._folder)
        self.free = state.f_bavail * state.f_frsize
        self.total = state.f_blocks * state.f_frsize

    @property
    def associations_floor(self) -> int:
        floor = self._settings.reserve_associations
        return max(5 * 10**9, self.total // 20) if floor is None else floor

    @property
    def objects_floor(self) -> int:
        floor = self._settings.reserve_objects
        return max(2 * 10**9, 2 * self.largest_object) if floor is None else floor

    def below_associations_floor(self) -> bool:
        return self.free + self.reusable < self.associations_floor

    def below_objects_floor(self) -> bool:
        return self.free + self.reusable < self.objects_floor

    @property
    def tight(self) -> bool:
        """Room is better given back to the file system than kept for reuse."""
        return self.free < self.associations_floor
