"""What a line of a log may say: nothing of a patient, no UID in the clear, no character that does more than stand
there.

The last line of defence, not the first: nobody should pass data of a patient in. Values under names that can hold such
data are dropped, and UIDs of instances, series and studies become keyed hashes, equal for equal UIDs as long as the key
is kept, unless the site wants them in full. UIDs of the standard itself (SOP classes, transfer syntaxes) stay as they
are.

Texts are shortened, and what is not printable in them is escaped: a peer's AE title cannot begin a new line, turn a
terminal's colours, or write from right to left. Only values of kinds that are known to be harmless are written; of any
other object its type, since its own text could quote what it holds.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import date
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any, Final

from router.errors import RouterError

REDACTED: Final = "[redacted]"
LONGEST: Final = 1024
"""Characters of a text that are written."""
LONGEST_TRACEBACK: Final = 16 * LONGEST
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
_SECRET: Final = re.compile(
    r"(?:pass(?:word|wd|phrase|code)|secret|token|credential|authorization|cookie|privatekey)s?$"
)
"""What such names end with if their values open something."""
_HELD_BY_THE_STANDARD = "1.2.840.10008."
_UID = re.compile(r"(?<![\w.])(?:2\.25\.[0-9]{4,39}|[0-2](?:\.(?:0|[1-9][0-9]*)){4,})(?![\w.]*[\w])")
_UID_NAMES = frozenset(("sop_instance", "study", "series", "study_uid", "series_uid", "uid", "sop_instance_uid"))

EventDict = MutableMapping[str, Any]


class Redaction:
    """A structlog processor.

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
        if value is None:
            return value
        if _is_dropped(name):
            return REDACTED
        if isinstance(value, bool | float) or type(value) is int:
            return value
        if isinstance(value, str):
            if name in _UID_NAMES:
                return self.uid(value)
            return self.text(value, LONGEST_TRACEBACK if name == "exception" else LONGEST)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._clean(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean("", inner) for inner in value]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        if isinstance(value, BaseException):
            return self.text(describe(value))
        if isinstance(value, type):
            return value.__name__
        if isinstance(value, int | complex | Enum | PurePath | date):
            return self.text(str(value))
        return f"[{type(value).__name__}]"

    def uid(self, uid: str) -> str:
        """A UID as it is written."""
        return self.hash(uid) if self._hash_uids else printable(uid)

    def hash(self, uid: str) -> str:
        """Twelve hex digits, the same for the same UID as long as the key is the same."""
        if not uid or uid.startswith(_HELD_BY_THE_STANDARD):
            return printable(uid)
        return "uid:" + blake2b(uid.encode("utf-8", "replace"), key=self._key, digest_size=6).hexdigest()

    def text(self, text: str, longest: int = LONGEST) -> str:
        """Free text as it may be written, with the UIDs in it hashed."""
        if self._hash_uids and "." in text:
            text = _UID.sub(lambda found: self.hash(found.group()), text)
        return printable(text, longest)


def printable(text: str, longest: int = LONGEST) -> str:
    """The text in one line, at most ``longest`` characters of it, with ``\\x1b`` and the like for what a terminal or
    a log reader would act on."""
    if len(text) > longest:
        text = f"{text[:longest]}... ({len(text) - longest} more)"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def without_arguments(text: str) -> str:
    """What asyncio says of a fault, up to where it begins to show what it had in hand:
    ``Exception in callback store(<an object of a patient>)``."""
    return text.partition("\n")[0].partition("(")[0].partition("<")[0].rstrip(" :")


def describe(error: BaseException) -> str:
    """The class of an exception, and its text if we or the operating system wrote it. Other texts quote what they
    failed on (``invalid literal for int(): 'DOE^JANE'``) and stay out."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, RouterError | OSError) else name


def where_it_happened(error: BaseException | None) -> str:
    """The frames of an exception and of those behind it, in one line: without source lines, variables and foreign
    texts."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        parts.append(" > ".join([*frames, describe(error)]))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "; after ".join(parts)


@lru_cache(1024)
def _is_dropped(name: str) -> bool:
    squeezed = name.replace("_", "").replace("-", "").replace(" ", "").lower()
    return squeezed in _PATIENT or _SECRET.search(squeezed) is not None
