"""The exception tree: whose fault, is it worth retrying, what does the peer hear.

::

    RouterError
    ├── ConfigError              problems with file, line, key path; all of one run at once
    ├── ProtocolError
    │   ├── LocalProtocolError   we asked for something this state forbids: our bug
    │   └── PeerProtocolError    the peer broke PS3.7 or PS3.8: carries the A-ABORT reason to send
    ├── AssociationRejected      result, source, reason of the A-ASSOCIATE-RJ
    ├── AssociationAborted       source, reason; or the transport went away
    ├── DatasetError             a data set that must not be kept: carries the C-STORE status
    ├── SpoolError               a write or sync failed: nothing after it may be acknowledged
    │   ├── SpoolFull            answers C-STORE with 0xA700
    │   └── SpoolCorrupt         names the record set aside
    ├── LedgerError              the ledger cannot commit
    │   └── LedgerTooNew         written by a newer version of the router
    ├── DeliveryError            destination, text, ``temporary``
    │   └── TlsFailure           no TLS with this peer: certificates or settings of one side are wrong
    ├── NotFound                 an operator named something that is not here
    └── InvalidRequest           an operator asked for something that makes no sense
"""

from __future__ import annotations

from enum import IntEnum


class RouterError(Exception):
    """Base of everything the router raises on purpose."""


class ConfigError(RouterError):
    """Configuration or rules are wrong. ``problems`` holds one printable line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AbortReason(IntEnum):
    """Reason of a provider-initiated A-ABORT (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class ProtocolError(RouterError):
    """PS3.7 or PS3.8 was broken, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """We asked for something that this state forbids: our bug, never the peer's."""


class PeerProtocolError(ProtocolError):
    """The peer broke the protocol; ``reason`` is what the provider A-ABORT (source 2) says."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.NOT_SPECIFIED) -> None:
        super().__init__(message)
        self.reason = reason


class AssociationRejected(RouterError):
    """A-ASSOCIATE-RJ (PS3.8 Table 9-21). ``result`` 1 is permanent, 2 transient; the numbers are kept as received."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"association rejected (result {result}, source {source}, reason {reason})")
        self.result = result
        self.source = source
        self.reason = reason

    @property
    def permanent(self) -> bool:
        return self.result == 1


class AssociationAborted(RouterError):
    """The association ended other than by release: A-ABORT either way, transport lost, or a timer."""

    def __init__(self, message: str, source: int | None = None, reason: int | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.reason = reason


class DatasetError(RouterError):
    """A data set that must not be kept. ``status`` is the C-STORE status; ``comment`` our fixed text, <= 64
    characters."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(f"0x{status:04X}: {comment}")
        self.status = status
        self.comment = comment


class SpoolError(RouterError):
    """A write or a sync failed.

    After a failed sync nothing may be acknowledged any more: Linux marks the pages clean after the first failure.
    """


class SpoolFull(SpoolError):
    """No room for this object now; the sender may try again later."""


class SpoolCorrupt(SpoolError):
    """A record does not read back as it was written."""


class LedgerError(RouterError):
    """The ledger cannot commit."""


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer version of the router."""


class DeliveryError(RouterError):
    """A delivery did not happen; ``temporary`` says whether trying again can help. Unknown means yes."""

    def __init__(self, message: str, *, destination: str = "", temporary: bool = True) -> None:
        super().__init__(message)
        self.destination = destination
        self.temporary = temporary


class TlsFailure(DeliveryError):
    """TLS with a peer could not be had or did not last. ``label`` is one of a few words, for a counter."""

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


class NotFound(RouterError):
    """An operator named something that is not here: a destination, an object. The text is shown as it is."""


class InvalidRequest(RouterError):
    """An operator asked for something that makes no sense. The text says what would."""


def fault_location(error: BaseException) -> str:
    """Kind and place of a fault of ours, ``KeyError at acceptor.py:120``: what a log may say of it.

    The message stays out, since it can hold a value that a peer sent.
    """
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{type(error).__name__} at {name}:{trace.tb_lineno}"
