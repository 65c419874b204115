"""Logs: one line per thing that happened, JSON unless a terminal reads it, and nothing of a patient.

Everything goes through one chain of processors, also what libraries log by ``logging``. The redaction near its end is
the last line of defence, not the first: nobody should pass data of a patient in. Values under names that can hold such
data are dropped, and UIDs of instances, series and studies become keyed hashes, equal for equal UIDs within one
run, unless the site wants them in full. UIDs of the standard itself (SOP classes, transfer syntaxes) stay as they are.

A log that cannot be written never stops the router: a full disk or a closed pipe loses lines, nothing else.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from router.errors import RouterError
from router.ports import Log

FORMATS: Final = ("auto", "json", "console")
LEVELS: Final = ("debug", "info", "warning", "error")
UID_MODES: Final = ("hashed", "full")

REDACTED: Final = "[redacted]"
_PATIENT: Final = frozenset(
    (
        "accession",
        "accessionnumber",
        "attributes",
        "birthdate",
        "comment",
        "dataset",
        "errorcomment",
        "ethnicgroup",
        "institutionname",
        "mothersmaidenname",
        "operatorsname",
        "otherpatientids",
        "otherpatientnames",
        "patient",
        "patientaddress",
        "patientbirthdate",
        "patientcomments",
        "patientid",
        "patientname",
        "patientsex",
        "performingphysicianname",
        "referringphysicianname",
        "requestingphysician",
        "seriesdescription",
        "studydescription",
        "studyid",
        "telephonenumbers",
        "value",
        "values",
    )
)
"""Names, without case and punctuation, whose values are never written."""
_HELD_BY_THE_STANDARD = "1.2.840.10008."
_UID = re.compile(r"(?<![\w.])(?:2\.25\.[0-9]{4,39}|[0-2](?:\.(?:0|[1-9][0-9]*)){4,})(?![\w.]*[\w])")
_UID_NAMES = frozenset(("sop_instance", "study", "series", "study_uid", "series_uid", "uid", "sop_instance_uid"))

EventDict = MutableMapping[str, Any]


class Redaction:
    """A structlog processor: drops values of patients, hashes UIDs.

    Args:
        uids: ``hashed`` or ``full``.
        key: Of the hashes, 16 to 64 bytes. Whoever has it can tell which UID a hash stands for by trying.
    """

    def __init__(self, *, uids: str = "hashed", key: bytes | None = None) -> None:
        self._hash_uids = uids == "hashed"
        self._key = key if key is not None else os.urandom(32)

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            event[name] = self._clean(name, value)
        return event

    def _clean(self, name: str, value: Any) -> Any:
        if name in _UID_NAMES and isinstance(value, str):
            return self.hash(value) if self._hash_uids else value
        if _squeeze(name) in _PATIENT:
            return REDACTED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self._clean(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean("", inner) for inner in value]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        if isinstance(value, BaseException):
            return self.text(describe(value))
        return value

    def hash(self, uid: str) -> str:
        """Twelve hex digits, the same for the same UID as long as the key is the same."""
        if not uid or uid.startswith(_HELD_BY_THE_STANDARD):
            return uid
        return "uid:" + blake2b(uid.encode("utf-8", "replace"), key=self._key, digest_size=6).hexdigest()

    def text(self, text: str) -> str:
        """Free text with the UIDs in it hashed."""
        if not self._hash_uids or "." not in text:
            return text
        return _UID.sub(lambda found: self.hash(found.group()), text)


_to_json = structlog.processors.JSONRenderer(default=str)


def _in_order(logger: Any, method: str, event: EventDict) -> str | bytes:
    """One JSON object a line, beginning with what every line has."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return _to_json(logger, method, {**first, **event})


def describe(error: BaseException) -> str:
    """The class of an exception, and its text if we or the operating system wrote it. Other texts quote what they
    failed on (``invalid literal for int(): 'DOE^JANE'``) and stay out."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, RouterError | OSError) else name


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Where it happened, without source lines, variables and foreign texts."""
    lines = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        lines.append(" > ".join([*frames, describe(error)]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _squeeze(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


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
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
        Redaction(uids=uids, key=key),
    ]
    last: structlog.typing.Processor
    if format == "json" or (format == "auto" and not terminal):
        last = _in_order
    else:
        last = structlog.dev.ConsoleRenderer(colors=terminal and not os.environ.get("NO_COLOR"), pad_event_to=0)
    output = _Stream(target)
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", output))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Libraries say too much below this; their warnings and errors are worth a line.
    root.setLevel(max(number, logging.WARNING))


def get_logger(**values: Any) -> Log:
    """A logger; ``values`` stand in each of its lines."""
    return cast("Log", structlog.get_logger(**values))
