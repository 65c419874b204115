"""Rows for people: aligned columns, sizes, ages and times as one reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

COLOURS = {"up": "green", "done": "green", "running": "green", "resting": "red", "dead": "red", "probing": "yellow"} | {
    "not configured": "red",
    "paused": "yellow",
    "held": "yellow",
    "hold": "yellow",
    "draining": "yellow",
}


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: frozenset[str] = frozenset()) -> None:
    """Print rows under headers. Columns named in ``right`` align to the right; known states get their colour."""
    cells = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    click.echo(click.style(_line(headers, widths, headers, right).rstrip(), bold=True))
    for row in cells:
        parts = []
        for cell, width, header in zip(row, widths, headers, strict=True):
            padded = cell.rjust(width) if header in right else cell.ljust(width)
            parts.append(click.style(padded, fg=COLOURS[cell]) if cell in COLOURS else padded)
        click.echo("  ".join(parts).rstrip())


def _line(cells: Sequence[str], widths: Sequence[int], headers: Sequence[str], right: frozenset[str]) -> str:
    return "  ".join(
        cell.rjust(width) if header in right else cell.ljust(width)
        for cell, width, header in zip(cells, widths, headers, strict=True)
    )


def _printable(cell: object) -> str:
    """One line of printable characters: what peers sent may hold terminal control sequences."""
    text = "" if cell is None else str(cell)
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def say(text: str, *, err: bool = False, colour: str | None = None) -> None:
    """One line for people, made printable. ``err``: to standard error."""
    click.secho(_printable(text), err=err, fg=colour)


def size(count: Any) -> str:
    """Bytes: ``512 B``, ``1.4 MiB``."""
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: Any) -> str:
    """Seconds: ``45s``, ``12min``, ``3h 20min``, ``5d 2h``."""
    value = int(float(seconds or 0))
    if value < 120:
        return f"{value}s"
    if value < 7200:
        return f"{value // 60}min"
    if value < 172_800:
        return f"{value // 3600}h {value % 3600 // 60}min"
    return f"{value // 86_400}d {value % 86_400 // 3600}h"


def moment(seconds: Any) -> str:
    """Epoch seconds as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(seconds))) if seconds else ""
