"""The values that cross stages: who sent it, what it is, where it goes, what became of it.

Plain frozen data, no behaviour beyond formatting. Every stage may import this module; it imports none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, TypeVar, dataclass_transform

from router.secret import SecretReference

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass with named fields that nobody changes: the type checker holds that.

    A class that is frozen when it runs takes several times as long to make, and several of these are made for every
    object.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True)
def ordered_value(cls: type[T]) -> type[T]:
    """As ``value``, for what is made for every object: its fields may be given in order. Naming many of them takes
    three times as long."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def format_id(number: int) -> str:
    """An instance id as people see it: 13 characters of Crockford base 32, sorting like the number."""
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(60, -1, -5))


def parse_id(text: str) -> int:
    """The number behind ``format_id``. Raises ValueError for anything else."""
    if len(text) != 13:
        raise ValueError("an instance id has 13 characters")
    number = 0
    for character in text.upper():
        number = number << 5 | _CROCKFORD.index(character)
    if number >> 63:
        raise ValueError("an instance id has 63 bits")
    return number


class Status(IntEnum):
    """C-STORE and C-ECHO statuses that we say ourselves (PS3.4 B.2.3, PS3.7 Annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    INVALID_OBJECT_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORIZED = 0x0124
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    FRAMING_ERROR = 0xC001
    """The element framing is broken or the data set is cut short."""
    MISSING_UIDS = 0xC002
    """SOP Class or SOP Instance UID is missing in the command or the data set."""
    NO_DATA_SET = 0xC003
    """A C-STORE-RQ that says no data set follows."""
    OBJECT_TOO_LARGE = 0xC010
    TOO_MANY_ELEMENTS = 0xC011
    NESTED_TOO_DEEP = 0xC012


class Priority(IntEnum):
    """Of a delivery; lower leaves first."""

    STAT = 0
    NORMAL = 1
    LOW = 2


@value
class Origin:
    """Where an instance came from, as the association tells."""

    listener: str
    """Name of the listener: its ``bind``."""
    peer: str
    """Name of the configured peer, or ``unknown``."""
    calling_ae: str
    called_ae: str
    address: str
    """IP address of the peer, no port."""


@ordered_value
class InstanceInfo:
    """What is known of one received instance when its last fragment is in."""

    id: int
    """63 bits, unique in this installation, rising in order of arrival."""
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    origin: Origin
    received: float
    """Seconds since the epoch (display and audit only; timers never use it)."""
    size: int
    """Bytes of the data set as it came."""
    checksum: bytes
    """XXH3-128 of the data set, 16 bytes."""
    study: str = ""
    series: str = ""
    patient_id: str = ""
    accession: str = ""
    modality: str = ""
    move_originator: tuple[str, int] | None = None
    """Move Originator AE title and Message ID of the C-STORE-RQ (0000,1030) (0000,1031), passed through."""

    @classmethod
    def from_meta(cls, meta: dict[str, Any], checksum: bytes) -> InstanceInfo:
        """From what a record of the spool says; raises KeyError or TypeError on a foreign one."""
        move = meta.get("move_originator")
        return cls(
            id=meta["id"],
            sop_class=meta["sop_class"],
            sop_instance=meta["sop_instance"],
            transfer_syntax=meta["transfer_syntax"],
            origin=Origin(
                listener=meta["listener"],
                peer=meta["peer"],
                calling_ae=meta["calling"],
                called_ae=meta["called"],
                address=meta["address"],
            ),
            received=meta["received"],
            size=meta["size"],
            checksum=checksum,
            study=meta["study"],
            series=meta["series"],
            patient_id=meta["patient_id"],
            accession=meta["accession"],
            modality=meta["modality"],
            move_originator=(move[0], move[1]) if move else None,
        )


class Verdict(StrEnum):
    """What the rules say of an instance as a whole."""

    ROUTE = "route"
    HOLD = "hold"
    """Nothing matched (or the rules failed): kept durably, released by a person or by better rules."""
    DISCARD = "discard"
    REJECT = "reject"


@value
class Decision:
    """The outcome of the rules for one instance, by one version of them."""

    verdict: Verdict
    destinations: tuple[str, ...] = ()
    """Names, in rule order, each once."""
    priority: Priority = Priority.NORMAL
    rules: tuple[str, ...] = ()
    """Names of the rules that matched, in order."""
    version: str = ""
    """Identifies the rule set: the first 12 hex digits of its text's SHA-256."""


@ordered_value
class Location:
    """Where a record lies in the spool. Means something only to the spool."""

    segment: int
    epoch: int
    offset: int
    """Byte offset of the record's header in the segment file."""
    length: int
    """Bytes of the whole record, header to footer."""


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """A place in the spool's log, which goes on from segment to segment; places compare in the order of writing."""

    epoch: int = 0
    """Of the segment's use: rises from one to the next."""
    offset: int = 0
    """Byte offset in the segment file: everything of this use below it lies before this place."""


@dataclass(slots=True)
class Delivery:
    """One instance owed to one destination, as a lane holds it."""

    id: int
    destination: str
    instance: InstanceInfo
    location: Location
    priority: Priority = Priority.NORMAL
    fence: int = 0
    """Rises with every lease; an answer with an older fence changes nothing."""
    attempts: int = 0
    """Attempts charged to this object so far (busy or absent destinations charge nothing)."""
    first_attempt: float | None = None
    """Epoch seconds of the first charged attempt."""
    chunks: Sequence[bytes | bytearray | memoryview] | None = field(default=None, repr=False)
    """The data set while it is still in memory; None means: read the spool."""
    late: bool = False
    """It had to wait in the ledger, or through a rest of its destination."""
    changed: bool = False
    """The same destination is, or was, owed older bytes under its SOP Instance UID."""


class OutcomeKind(StrEnum):
    DELIVERED = "delivered"
    WARNING = "warning"
    RETRY = "retry"
    DEAD = "dead"


@ordered_value
class Outcome:
    """What became of one attempt; the ledger turns it into the delivery's next state."""

    delivery_id: int
    destination: str
    instance: InstanceInfo
    fence: int
    kind: OutcomeKind
    status: int | None = None
    """C-STORE status received, if any."""
    reason: str = ""
    """Short fixed text of ours; nothing of the patient, nothing free from the peer."""
    charge: bool = False
    """True: this attempt counts against the object."""
    not_before: float = 0.0
    """RETRY: epoch seconds before which it is not leased again."""


@value
class AuditRow:
    """Something that the audit trail has to tell."""

    id: int
    """Rising."""
    at: float
    """Epoch seconds."""
    what: str
    """``received``, ``sent``, ``started``, ``stopped``, ``alert``, ``operator``."""
    facts: dict[str, Any]
    begun: bool = False
    """Somebody has been told that the transfer began of which this is the first."""


# What the configuration says, past the loader. -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PresentedCertificate:
    """What a verified certificate says of its owner."""

    public_key: str
    """SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal."""
    names: tuple[str, ...] = ()
    """Subject alternative names, in lower case."""


@dataclass(frozen=True, slots=True)
class CertificateBinding:
    """The certificates that may use an AE title: one of these keys, or one of these names."""

    public_keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def holds(self, certificate: PresentedCertificate) -> bool:
        return certificate.public_key in self.public_keys or not set(self.names).isdisjoint(certificate.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who may call: AE title *and* address must match."""

    name: str
    ae_title: str
    addresses: tuple[str, ...] = ()
    """CIDR networks; empty means any address."""
    associations: int | None = None
    """Associations at once; None takes ``Limits.associations_per_peer``."""
    store: bool = True
    echo: bool = True
    listeners: tuple[str, ...] = ()
    """Binds this peer may use; empty means all."""
    certificate: CertificateBinding | None = None
    """None: any certificate that its listener accepts, if no other peer has it for its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """TLS of one listener or destination. Files are PEM; an empty text means none."""

    profile: str = "bcp195"
    """A name in ``net.tls.PROFILES``."""
    certificate: str = ""
    """Ours, with the intermediate ones behind it."""
    key: str = ""
    ca: str = ""
    """Whom we trust. A destination without it trusts whom the system trusts, or its ``public_keys``."""
    crl: str = ""
    client_certificates: str = "required"
    """Of a listener: ``required``, ``optional`` or ``none``."""
    server_name: str = ""
    """Of a destination: the name its certificate must have, if not that of its URL."""
    public_keys: tuple[str, ...] = ()
    """Of a destination: SHA-256 of the public keys it may have, lower-case hexadecimal."""
    key_password: SecretReference | None = None
    """Of an encrypted key."""
    place: str = ""
    """Where the configuration says so, for what there is to say of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where the audit trail goes."""

    kind: str = "off"
    """``file``, ``collector`` or ``off``."""
    host: str = ""
    port: int = 0
    tls: TlsSettings | None = None
    keep: float = 0.0
    """Seconds that files stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    host: str
    port: int
    ae_titles: tuple[str, ...] = ("ROUTER",)
    """Called AE titles answered to; ``("*",)`` for any."""
    accept: str = "known"
    """``known`` or ``any``."""
    max_pdu: int = 131072
    tls: TlsSettings | None = None
    """None: plain DICOM."""

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A place instances are sent to."""

    name: str
    kind: str
    """``dicom`` or ``file``."""
    ae_title: str = ""
    """Called AE title (dicom)."""
    host: str = ""
    port: int = 0
    path: str = ""
    """Folder (file)."""
    calling_ae_title: str = "ROUTER"
    max_associations: int = 4
    max_pdu: int = 131072
    transfer_syntaxes: tuple[str, ...] | None = None
    """None: as received. Otherwise only these UIDs are proposed; others become dead letters."""
    connect_timeout: float = 10.0
    acse_timeout: float = 30.0
    response_timeout: float = 300.0
    release_timeout: float = 10.0
    idle_timeout: float = 5.0
    """Seconds an association is kept open with nothing to send."""
    async_operations: int = 16
    """Asynchronous operations window proposed (invoked); 1 proposes none."""
    cut_through: bool = True
    """Large objects start towards it while they still arrive, when it is idle (dicom)."""
    duplicate_is_done: bool = True
    """0x0111 counts as delivered: a repeat after a lost answer gives exactly this."""
    tls: TlsSettings | None = None
    """None: plain DICOM (dicom)."""

    @property
    def url(self) -> str:
        """As people write it."""
        if self.kind == "file":
            return f"file:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'dicom' if self.tls is None else 'dicoms'}://{self.ae_title}@{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Share:
    """Which of the processes of a node this is. Each writes a log of its own, numbered as it is.

    Logs of processes that there are no more, since there were more of them once, belong to those that there are.
    """

    worker: int = 0
    """0 to ``of`` - 1."""
    of: int = 1

    @property
    def alone(self) -> bool:
        return self.of == 1

    def owns(self, log: int) -> bool:
        return log % self.of == self.worker

    def part(self, whole: int) -> int:
        """This process's part of a number that is given for the node; at least 1."""
        return max(1, whole // self.of + (self.worker < whole % self.of))


ALONE = Share()
LOG_SEGMENTS = 10**12
"""Segments are numbered log by log."""


def log_of(segment: int) -> int:
    """The log that a segment belongs to."""
    return segment // LOG_SEGMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds and bytes; defaults are the product's. Every one can be set in ``[limits]``."""

    associations: int = 200
    associations_per_peer: int = 20
    handshakes: int = 256
    """Sockets that have not finished their A-ASSOCIATE, all listeners together."""
    handshakes_per_address: int = 8
    handshake_timeout: float = 10.0
    """Seconds from accept to a complete A-ASSOCIATE-RQ, absolute."""
    idle_timeout: float = 60.0
    """Seconds between messages on an association."""
    minimum_rate: int = 1024
    """Bytes per second within a PDU or message, averaged over ``rate_window``."""
    rate_window: float = 30.0
    artim_timeout: float = 10.0
    """Seconds in Sta13 waiting for the peer to close."""
    release_timeout: float = 10.0
    associate_pdu: int = 1 << 20
    """Bytes of an A-ASSOCIATE PDU."""
    handshake_memory: int = 64 << 20
    """Bytes held for all unfinished handshakes together."""
    presentation_contexts: int = 128
    transfer_syntaxes: int = 64
    """Per presentation context."""
    command_set: int = 16384
    strict_pdu_length: bool = True
    """A P-DATA-TF longer than we announced is answered with A-ABORT (2, 6)."""
    sequence_depth: int = 64
    elements: int = 200_000
    """Elements before Pixel Data."""
    header_bytes: int = 8 << 20
    """Bytes before Pixel Data that are looked at for rules."""
    inflate_ratio: int = 200
    object_size: int = 8 << 30
    object_memory: int = 1 << 20
    """An object larger than this streams to a segment of its own."""
    ingest_memory: int = 256 << 20
    """Bytes received and not yet durable (of streamed objects: not yet written), all associations together; past it
    sockets are not read."""
    window: int = 1000
    """Deliveries in memory per destination."""
    window_memory: int = 64 << 20
    """Bytes of data sets kept in memory for sending, all destinations together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    segment_size: int = 64 << 20
    spare_segments: int = 4
    """Settled segments kept to be overwritten; more are deleted."""
    reserve_associations: int | None = None
    """Free bytes below which new associations are refused; None: max(5 GB, 5 %)."""
    reserve_objects: int | None = None
    """Free bytes below which C-STORE answers 0xA700; None: max(2 GB, 2 x largest object seen)."""
    keep_delivered: float = 86400.0
    """Seconds that delivered objects stay for a re-send."""
    keep_delivered_size: int | None = None
    """Bytes of delivered objects kept at most; None: a tenth of the disk."""
