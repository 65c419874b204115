"""What a key of a rule names, an attribute or a fact of the arrival, and which values it can have at all.

A condition that no object can fulfil is worse than an error: it is silent. So a value is held against its VR (PS3.5
§6.2) when the rules are read. What the comparison rules out is an error; what only a sender that breaks the standard
could send is a warning.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from router.dicom import dictionary, uids
from router.routing import values
from router.routing.facts import FIELDS, Path

NUMERIC_VRS = frozenset(("IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"))
MOMENT_VRS = frozenset(("DA", "DT", "TM"))
BULK_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
FREE_TEXT_VRS = frozenset(("LT", "ST", "UT", "UR"))
"""A backslash is a character there (PS3.5 §6.4)."""
LONGEST = {"AE": 16, "AS": 4, "CS": 16, "SH": 16, "LO": 64, "UI": 64}
"""Characters of one value, as the standard has it."""
META = {
    "TransferSyntaxUID": "TransferSyntax",
    "MediaStorageSOPClassUID": "SOPClass",
    "SourceApplicationEntityTitle": "CallingAET",
    "SendingApplicationEntityTitle": "CallingAET",
    "ReceivingApplicationEntityTitle": "CalledAET",
}
QUERY_ONLY = frozenset(
    (
        "InstanceAvailability",
        "ModalitiesInStudy",
        "NumberOfPatientRelatedInstances",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedStudies",
        "NumberOfSeriesRelatedInstances",
        "NumberOfStudyRelatedInstances",
        "NumberOfStudyRelatedSeries",
        "QueryRetrieveLevel",
        "RetrieveAETitle",
        "SOPClassesInStudy",
    )
)
_FORMS = {
    "DA": (
        re.compile(r"[0-9]{8}|(?=.*[*?])[0-9*?]+"),
        'must be a date as DICOM writes it, such as "20260131" or "2026*"',
    ),
    "TM": (re.compile(r"[0-9.*?]+"), 'must be a time as DICOM writes it, such as "1230*"'),
    "DT": (re.compile(r"[0-9.+*?-]+"), 'must be a date and time as DICOM writes it, such as "20260131*"'),
    "UI": (re.compile(r"[0-9.*?]+"), "must be a UID: digits and dots"),
    "AT": (
        re.compile(r"[0-9a-f]{4},[0-9a-f]{4}|(?=.*[*?])[0-9a-f,*?]+"),
        'must be a tag in lower case, such as "0018,106a"',
    ),
}
_NO_LETTERS = re.compile(r"\\.|\(\?[a-zA-Z]+\)|\[\[:\w+:\]\]")
"""Letters of a regular expression that stand for something else."""
_CODE_STRING = re.compile(r"[A-Z0-9 _*?]*")


@dataclass(frozen=True, slots=True)
class Subject:
    """An attribute by its path, or a fact of the arrival (no path, no VR)."""

    key: str
    path: Path | None
    vr: str

    @property
    def field(self) -> str:
        """Of ``RuleFacts``; for a fact only."""
        return FIELDS[self.key]

    @property
    def numeric(self) -> bool:
        return self.vr in NUMERIC_VRS or self.key == "Size"

    @property
    def single(self) -> bool:
        """Known to have one value at most."""
        return self.path is None or dictionary.is_single(self.path[-1])

    @property
    def only_exists(self) -> bool:
        """A sequence or bulk data: nothing to compare."""
        return self.vr == "SQ" or self.vr in BULK_VRS


def subject_of(key: str) -> Subject:
    """The attribute or fact that ``key`` names. Raises ValueError with a suggestion."""
    if key in FIELDS:
        return Subject(key, None, "")
    path: list[int] = []
    vr = ""
    parts = key.split(".")
    for index, part in enumerate(parts):
        if index % 2:
            if not (part.isascii() and part.isdigit() and len(part) < 7):
                raise ValueError(
                    f'"{part}" must be the number of an item, as in "RequestAttributesSequence.0.AccessionNumber"'
                )
            path.append(int(part))
            continue
        tag = dictionary.parse_tag(part)
        if tag is None:
            tag = dictionary.tag_of(part)
        if tag is None:
            raise ValueError(_unknown(part))
        if tag >> 16 in (0, 2):
            instead = META.get(dictionary.keyword_of(tag) or "")
            raise ValueError(
                "is of the command or the file header, never of a data set" + (f', use "{instead}"' if instead else "")
            )
        path.append(tag)
        vr = dictionary.vr_of(tag) or "UN"
        if index + 1 < len(parts) and vr not in ("SQ", "UN"):
            raise ValueError(f'"{part}" is not a sequence')
    if len(parts) % 2 == 0:
        raise ValueError("a path ends with an attribute, not with the number of an item")
    return Subject(key, tuple(path), vr)


def doubtful_key(subject: Subject) -> str:
    """Why objects will hardly have this attribute, or an empty text."""
    for tag in (subject.path or ())[::2]:
        keyword = dictionary.keyword_of(tag)
        if keyword in QUERY_ONLY:
            return f"{keyword} is in answers to queries, not in objects: this will hardly ever match"
        if keyword is None and not tag >> 16 & 1 and tag & 0xFFFF:
            return f'"{dictionary.format_tag(tag)}" is not in the dictionary: is the tag right?'
    return ""


def _unknown(word: str) -> str:
    facts = {name.lower(): name for name in FIELDS}
    close = [facts[name] for name in difflib.get_close_matches(word.lower(), facts, 1, 0.7)]
    close = [name for name in close if name.lower() == word.lower()] or dictionary.suggestions(word) or close
    hint = f', did you mean "{close[0]}"?' if close else '; use a keyword of the dictionary or "gggg,eeee"'
    return f"unknown keyword{hint}"


def text_of(subject: Subject, value: Any) -> str:
    """One value that a rule or a test says, as text that an object can have. Raises ValueError."""
    value = values.moment_text(value, subject.vr)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a text, a number or a list of them")
    if isinstance(value, float) and not subject.numeric and subject.vr != "UN":
        raise ValueError(f'is compared as text: write it in quotes, as the objects have it, such as "{value}"')
    text = resolved(subject, str(value))
    reason = impossible(subject, text)
    if reason:
        raise ValueError(reason)
    return text


def resolved(subject: Subject, text: str) -> str:
    """Names of SOP classes and transfer syntaxes become UIDs. Raises ValueError."""
    if values.is_pattern(text) or uids.valid_uid(text):
        return text
    if subject.key == "SOPClass" or (subject.path is not None and subject.path[-1] in (0x00080016, 0x00081150)):
        uid = uids.sop_class_uid(text)
        close = uids.suggest_sop_class(text)
        what = "SOP class"
    elif subject.key == "TransferSyntax":
        uid = uids.transfer_syntax_uid(text)
        close = uids.suggest_transfer_syntax(text)
        what = "transfer syntax"
    else:
        return text
    if uid is None:
        raise ValueError(f'unknown {what} "{text}"' + (f', did you mean "{close[0]}"?' if close else "; use its UID"))
    return uid


def impossible(subject: Subject, text: str) -> str:
    """Why no value can ever be equal to ``text`` (or match it, if it has wildcards); an empty text if one can."""
    vr = subject.vr
    if not text:
        return "an empty text matches nothing, use { exists = ... }"
    if text[-1] == " " or (text[0] == " " and vr not in FREE_TEXT_VRS and vr not in ("UC", "PN")):
        return f'spaces at the ends are trimmed before values are compared, write "{text.strip()}"'
    if subject.path is None:
        if subject.key in ("SOPClass", "TransferSyntax") and not _FORMS["UI"][0].fullmatch(text):
            return "names have no wildcards, use a list of them, or wildcards in the UID"
        if subject.key in ("CallingAET", "CalledAET") and len(text.replace("*", "")) > 16:
            return "an AE title has 16 characters at most"
        return ""
    if "\\" in text and vr not in FREE_TEXT_VRS:
        return "values are compared one by one, so none has a backslash; use a list for any of them, or all = [...]"
    if vr == "PN" and "=" in text:
        return "a name is compared by its alphabetic group, which has no ="
    if vr in _FORMS and not _FORMS[vr][0].fullmatch(text):
        return _FORMS[vr][1]
    return ""


def doubtful(subject: Subject, text: str) -> str:
    """Why only a sender that breaks the standard could send this value, or an empty text."""
    vr = subject.vr
    longest = LONGEST.get(vr)
    if longest is not None and len(text.replace("*", "")) > longest:
        return f"a value of {subject.key} ({vr}) has {longest} characters at most"
    if vr == "CS" and not _CODE_STRING.fullmatch(text):
        if _CODE_STRING.fullmatch(text.upper()):
            return f'{subject.key} (CS) is written in capitals, did you mean "{text.upper()}"?'
        return f"{subject.key} (CS) has capitals, digits, space and underscore only; for alternatives write a list"
    if vr == "AS" and not values.is_pattern(text):
        try:
            values.age_in_days(text)
        except ValueError as error:
            return str(error)
    return ""


def doubtful_regex(subject: Subject, pattern: str) -> str:
    """Why a regular expression will hardly match anything, or an empty text."""
    if subject.vr != "UI" and subject.key not in ("SOPClass", "TransferSyntax"):
        return ""
    if any(character.isalpha() for character in _NO_LETTERS.sub("", pattern)):
        return "is asked of the UID, which has no letters; names go without regex"
    return ""
