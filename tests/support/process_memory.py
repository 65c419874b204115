"""What a process takes of memory, from /proc."""

from __future__ import annotations

from pathlib import Path


def resident(pid: int) -> int:
    """Bytes now."""
    return _read(pid, "VmRSS:")


def peak(pid: int) -> int:
    """Bytes at most, since ``forget_peak``."""
    return _read(pid, "VmHWM:")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _read(pid: int, name: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split(name)[1].split()[0]) * 1024
