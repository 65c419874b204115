"""Logs: one line per thing that happened, JSON unless a terminal reads it, and nothing of a patient (``redaction``).

Everything goes through one chain of processors, also what libraries log by ``logging``. Of theirs the format is
written, not what was put into it.

A log that cannot be written never stops the router: a full disk or a closed pipe loses lines, nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Final, TextIO, cast

import structlog

from router.observe.redaction import EventDict, Redaction, describe, where_it_happened, without_arguments
from router.ports import Log

FORMATS: Final = ("auto", "json", "console")
LEVELS: Final = ("debug", "info", "warning", "error")
UID_MODES: Final = ("hashed", "full")

_redaction = Redaction()
_to_json = json.JSONEncoder(default=str).encode


def _in_order(_logger: Any, _method: str, event: EventDict) -> str:
    """One JSON object a line, beginning with what every line has."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return _to_json({**first, **event})


def _in_the_line(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """structlog gives exceptions lines of their own; what begins a line for a person is what happened."""
    if "exception" in event:
        event["fault"] = event.pop("exception")
    return event


def _of_library(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A library's record: its format without what was to be put in, and who said it."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    said: Any = record.msg
    if isinstance(said, BaseException):
        text = describe(said)
    else:
        text = said.partition("\n")[0] if isinstance(said, str) else type(said).__name__
    if record.name == "asyncio":
        text = without_arguments(text)
    event["event"] = text
    event["library"] = record.name
    return event


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    return where_it_happened(exc_info[1])


class _Stream:
    """Where lines go. Losing one is better than failing because of one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        try:
            return self._stream.write(line)
        except (OSError, ValueError):
            # A full disk, a closed pipe, a stream closed at exit.
            return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


def configure_logging(
    format: str = "auto",
    *,
    level: str = "info",
    uids: str = "hashed",
    key: bytes | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set up logging of this process; later calls replace earlier ones.

    Args:
        format: ``json``, ``console``, or ``auto``: JSON unless ``stream`` is a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        uids: ``hashed`` or ``full``.
        key: For the hashes; without one they compare within this run only.
        stream: Standard error if None.

    Raises:
        ValueError: For a word that is none of these.
    """
    for name, value, known in (("format", format, FORMATS), ("level", level, LEVELS), ("uids", uids, UID_MODES)):
        if value not in known:
            raise ValueError(f"log {name}: {value!r} is none of {', '.join(known)}")
    global _redaction  # of the process, as structlog's own configuration is
    _redaction = Redaction(uids=uids, key=key)
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.ExceptionRenderer(_traceback),
        _redaction,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if format == "json" or (format == "auto" and not terminal):
        last = [_in_order]
    else:
        colors = terminal and not os.environ.get("NO_COLOR")
        last = [_in_the_line, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)]
    output = _Stream(target)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", output))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_of_library, *shared], processors=last, use_get_message=False
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries say too much below this; their warnings and errors are worth a line.
    root.setLevel(max(number, logging.WARNING))


def as_logged(uid: str) -> str:
    """What stands for a UID in the log of this process, for who looks for it there."""
    return _redaction.uid(uid)


def get_logger(**values: Any) -> Log:
    """A logger by the configuration there is; ``values`` stand in each of its lines."""
    return cast("Log", structlog.get_logger().bind(**values))  # else it would be made anew for each line
