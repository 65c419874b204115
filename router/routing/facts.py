"""What a rule can see of an instance: its attributes, and the facts of its arrival."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from router.model import value

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


@value
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


class _Values(dict[Path, tuple[T, ...]]):
    """Values by path, read when they are first asked for; ``()`` for a missing element. Raises NotAvailable.

    A dictionary, since every condition of every rule asks it: what is known costs no call.
    """

    __slots__ = ("_read", "_seen")

    def __init__(self, read: Callable[[Path], tuple[T, ...] | None], seen: Callable[[Path], bool | None]) -> None:
        self._read = read
        self._seen = seen

    def __missing__(self, path: Path) -> tuple[T, ...]:
        values = self._read(path)
        if values is None:
            if self._seen(path) is not False:
                raise NotAvailable
            values = ()
        self[path] = values
        return values


class View:
    """One instance while it is being decided; what was decoded once is kept."""

    __slots__ = ("_seen", "facts", "numbers", "texts")

    def __init__(self, attributes: AttributeView, facts: RuleFacts) -> None:
        self.facts = facts
        self._seen = attributes.seen
        self.texts = _Values(attributes.texts, attributes.seen)
        self.numbers = _Values(attributes.numbers, attributes.seen)

    def exists(self, path: Path) -> bool:
        """Whether the element is there, empty or not. Raises NotAvailable."""
        seen = self._seen(path)
        if seen is None:
            raise NotAvailable
        return seen
