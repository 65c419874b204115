"""What a rule can see of an instance: its attributes, and the facts of its arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Path = tuple[int, ...]
"""A tag (group << 16 | element), or sequence tag, item index, tag, ..."""

FACTS = ("CallingAET", "CalledAET", "PeerAddress", "Listener", "SOPClass", "TransferSyntax", "Size")


class AttributeView(Protocol):
    """Values by path; None: the element is missing."""

    def texts(self, path: Path) -> tuple[str, ...] | None: ...

    def numbers(self, path: Path) -> tuple[float, ...] | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFacts:
    calling_ae: str = ""
    called_ae: str = ""
    peer_address: str = ""
    listener: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""
    size: int = 0
    now: float = 0.0
    """Epoch seconds; ``within`` counts back from it."""

    def text(self, name: str) -> str:
        """The fact of that name, as text."""
        return str(getattr(self, FIELDS[name]))


FIELDS: Mapping[str, str] = {
    "CallingAET": "calling_ae",
    "CalledAET": "called_ae",
    "PeerAddress": "peer_address",
    "Listener": "listener",
    "SOPClass": "sop_class",
    "TransferSyntax": "transfer_syntax",
    "Size": "size",
}


class View:
    """One instance while it is being decided; what was decoded once is kept."""

    __slots__ = ("_attributes", "_numbers", "_texts", "facts")

    def __init__(self, attributes: AttributeView, facts: RuleFacts) -> None:
        self._attributes = attributes
        self.facts = facts
        self._texts: dict[Path, tuple[str, ...] | None] = {}
        self._numbers: dict[Path, tuple[float, ...] | None] = {}

    def texts(self, path: Path) -> tuple[str, ...] | None:
        known = self._texts
        if path in known:
            return known[path]
        values = known[path] = self._attributes.texts(path)
        return values

    def numbers(self, path: Path) -> tuple[float, ...] | None:
        known = self._numbers
        if path in known:
            return known[path]
        values = known[path] = self._attributes.numbers(path)
        return values
