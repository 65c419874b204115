"""The data dictionary (PS3.6): keyword to tag, tag to VR and keyword, and what a misspelt keyword may have meant.

A tag is one number here: group << 16 | element. The registry is loaded at the first question, not at import. Private
elements have no keyword: ``parse_tag`` reads them as ``gggg,eeee``, and their VR is not known.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from router.dicom import registry

_TAG = re.compile(r"\(?([0-9a-fA-F]{4}),? ?([0-9a-fA-F]{4})\)?")
# The dictionary leaves some VRs open ("US or SS"); which it is depends on Pixel Representation. The first is right
# for most.
_FIRST_OF = " or "


def parse_tag(text: str) -> int | None:
    """The tag of ``gggg,eeee`` (brackets and the comma may be missing), or None if this is not a tag."""
    match = _TAG.fullmatch(text.strip())
    return int(match[1] + match[2], 16) if match else None


def format_tag(tag: int) -> str:
    """``gggg,eeee``, lower case."""
    return f"{tag >> 16:04x},{tag & 0xFFFF:04x}"


@lru_cache(maxsize=1)
def _keywords() -> dict[str, int]:
    return {entry[4]: tag for tag, entry in registry.elements().items() if entry[4]}


@lru_cache(maxsize=1)
def _repeating() -> list[tuple[re.Pattern[str], registry.Entry]]:
    return [
        (re.compile(digits.lower().replace("x", "[0-9a-f]")), entry)
        for digits, entry in registry.repeating_elements().items()
    ]


@lru_cache(maxsize=4096)
def _entry(tag: int) -> tuple[str, str, str] | None:
    """VR, keyword and VM."""
    entry = registry.elements().get(tag)
    if entry is None and not tag >> 16 & 1:
        digits = f"{tag:08x}"
        entry = next((entry for pattern, entry in _repeating() if pattern.fullmatch(digits)), None)
    if entry is None:
        return None
    vr, multiplicity, _, _, keyword = entry
    return vr.split(_FIRST_OF)[0], keyword, multiplicity


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword ("Modality"), spelled exactly, or None."""
    return _keywords().get(keyword)


def vr_of(tag: int) -> str | None:
    """The VR of a tag: of a standard element (repeating groups too), of a group length or private creator; otherwise
    None."""
    entry = _entry(tag)
    if entry is not None:
        return entry[0]
    element = tag & 0xFFFF
    if element == 0:
        return "UL"
    if tag >> 16 & 1 and 0x10 <= element <= 0xFF:
        return "LO"
    return None


def keyword_of(tag: int) -> str | None:
    """The keyword of a standard element, or None."""
    entry = _entry(tag)
    return entry[1] if entry is not None and entry[1] else None


def is_single(tag: int) -> bool:
    """Whether the element is known to have one value at most (its VM is 1)."""
    entry = _entry(tag)
    return entry is not None and entry[2] == "1"


def suggestions(keyword: str, limit: int = 3) -> list[str]:
    """Keywords close to a misspelt one, best first: what "did you mean" asks."""
    lower = {name.lower(): name for name in _keywords()}
    close = difflib.get_close_matches(keyword.lower(), lower, n=limit, cutoff=0.75)
    return [lower[name] for name in close]
