"""Rules from text, and objects from keywords and bytes as a data set has them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from router.dicom.attributes import Attributes
from router.dicom.dictionary import vr_of
from router.errors import ConfigError
from router.model import Decision
from router.routing import RuleFacts, RuleSet, load
from router.routing.subjects import subject_of

DESTINATIONS = ("pacs", "vna", "ai")
NOW = 1_780_000_000.0
"""2026-05-28 20:26:40 UTC"""


def rules_of(folder: Path, *texts: str, **options: Any) -> RuleSet:
    """The texts as rule files a.toml, b.toml, ... of a folder."""
    for name, text in zip("abcdefgh", texts, strict=False):
        (folder / f"{name}.toml").write_text(text, "utf-8")
    return load(folder, DESTINATIONS, **options)


def problems_of(folder: Path, *texts: str, **options: Any) -> list[str]:
    try:
        rules_of(folder, *texts, **options)
    except ConfigError as error:
        return error.problems
    return []


def one_rule(match: str, rest: str = 'to = ["pacs"]') -> str:
    return f'[[rule]]\nname = "r"\nmatch = {{ {match} }}\n{rest}\n'


def data_set(*, available: bool = True, **values: Any) -> Attributes:
    """Attributes as a little endian data set would give them; a key is a keyword, or g0019_10AB for a private tag."""
    found = {}
    for key, value in values.items():
        path = subject_of(key if key[0] != "g" else key[1:].replace("_", ",")).path
        assert path is not None
        vr = vr_of(path[-1]) or "LO"
        if isinstance(value, int):
            data = struct.pack("<H", value)
        elif isinstance(value, float):
            data = struct.pack("<d", value)
        else:
            data = value if isinstance(value, bytes) else value.encode("ascii")
        found[path] = (vr, data)
    return Attributes(found, available=available)


def facts(**values: Any) -> RuleFacts:
    return RuleFacts(**{"now": NOW, "calling_ae": "CT01", "called_ae": "ROUTER", **values})


def decide(rules: RuleSet, attributes: Attributes | None = None, **arrival: Any) -> Decision:
    return rules.decide(attributes or data_set(), facts(**arrival))
