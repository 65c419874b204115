"""A log for commands that talk DICOM themselves: lines on standard error, as many as ``-v`` and ``-d`` ask for."""

from __future__ import annotations

from typing import Any

import click

QUIET, NORMAL, VERBOSE, DEBUG = range(4)


class ConsoleLog:
    """Implements ``ports.Log``."""

    def __init__(self, level: int = NORMAL) -> None:
        self.level = level

    def debug(self, event: str, **values: Any) -> None:
        self._write(DEBUG, event, values)

    def info(self, event: str, **values: Any) -> None:
        self._write(VERBOSE, event, values)

    def warning(self, event: str, **values: Any) -> None:
        self._write(NORMAL, event, values)

    def error(self, event: str, **values: Any) -> None:
        self._write(NORMAL, event, values)

    def _write(self, level: int, event: str, values: dict[str, Any]) -> None:
        if level <= self.level:
            click.echo(" ".join((event, *(f"{name}={value!r}" for name, value in values.items()))), err=True)
