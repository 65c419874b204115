"""What a rule can see of an instance: its attributes, and the facts of its arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
Path = tuple[int, ...]
"""A tag (group << 16 | element), or sequence tag, item index, tag, ..."""


class NotAvailable(Exception):
    """Neither yes nor no: the element cannot be read, or it cannot be known whether it is there."""


class AttributeView(Protocol):
    """Values by path, decoded."""

    def texts(self, path: Path) -> tuple[str, ...] | None:
        """None: the element is missing, or not readable: ``seen`` tells. ``()``: it is there and empty."""

    def numbers(self, path: Path) -> tuple[float, ...] | None: ...

    def seen(self, path: Path) -> bool | None:
        """Whether the element is there; None: this cannot be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFacts:
    calling_ae: str = ""
    called_ae: str = ""
    peer_address: str = ""
    listener: str = ""
    sop_class: str = ""
    """UID, as the C-STORE-RQ says it."""
    transfer_syntax: str = ""
    """UID, as negotiated."""
    size: int = 0
    """Bytes of the data set."""
    now: float = 0.0
    """Epoch seconds; ``within`` counts back from it."""


FIELDS: Mapping[str, str] = {
    "CallingAET": "calling_ae",
    "CalledAET": "called_ae",
    "PeerAddress": "peer_address",
    "Listener": "listener",
    "SOPClass": "sop_class",
    "TransferSyntax": "transfer_syntax",
    "Size": "size",
}
"""What rules call a fact, and where it is in ``RuleFacts``."""


class View:
    """One instance while it is being decided; what was decoded once is kept."""

    __slots__ = ("_attributes", "_numbers", "_texts", "facts")

    def __init__(self, attributes: AttributeView, facts: RuleFacts) -> None:
        self._attributes = attributes
        self.facts = facts
        self._texts: dict[Path, tuple[str, ...]] = {}
        self._numbers: dict[Path, tuple[float, ...]] = {}

    def texts(self, path: Path) -> tuple[str, ...]:
        """The values; none if the element is missing. Raises NotAvailable."""
        values = self._texts.get(path)
        if values is None:
            values = self._texts[path] = self._readable(path, self._attributes.texts(path))
        return values

    def numbers(self, path: Path) -> tuple[float, ...]:
        """The values that are numbers; none if the element is missing. Raises NotAvailable."""
        values = self._numbers.get(path)
        if values is None:
            values = self._numbers[path] = self._readable(path, self._attributes.numbers(path))
        return values

    def exists(self, path: Path) -> bool:
        """Whether the element is there, empty or not. Raises NotAvailable."""
        seen = self._attributes.seen(path)
        if seen is None:
            raise NotAvailable
        return seen

    def _readable(self, path: Path, values: tuple[T, ...] | None) -> tuple[T, ...]:
        if values is None:
            if self._attributes.seen(path) is not False:
                raise NotAvailable
            return ()
        return values
