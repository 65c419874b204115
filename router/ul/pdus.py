"""The seven PDUs and their items as values, encoded and decoded (PS3.8 §9.3, Annex D; PS3.7 Annex D.3).

Bytes and values only: no states, no sockets. Decoding reads through one checked slice reader and raises
PeerProtocolError for what cannot be read; unknown items and sub-items are skipped (PS3.8 §9.3.1), reserved bytes are
ignored, items come in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from router.errors import AbortReason, PeerProtocolError
from router.ul.remembered import Remembered

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
DEFAULT_TRANSFER_SYNTAX = "1.2.840.10008.1.2"
"""Implicit VR Little Endian (PS3.5 §10.1)."""
DEFAULT_MAX_LENGTH = 16384
"""Assumed of a peer that does not say (no user information, or no maximum length sub-item)."""
LONGEST_REMEMBERED = 16 << 10
"""Bytes of a request: 128 presentation contexts with two or three transfer syntaxes each."""


class PduType(IntEnum):
    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class ContextOutcome(IntEnum):
    """Result of one presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class ProposedContext:
    id: int
    """Odd, 1 to 255; even ones and 0 occur and are kept."""
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextResult:
    id: int
    result: int
    transfer_syntax: str = ""
    """Not significant unless the result is acceptance."""


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection (PS3.7 D.3.3.4)."""

    sop_class: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """User identity (PS3.7 D.3.3.7). What it holds is never shown."""

    type: int
    response_requested: bool
    primary: bytes = field(default=b"", repr=False)
    secondary: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInformation:
    max_length: int = DEFAULT_MAX_LENGTH
    """Longest P-DATA-TF variable field the sender of this item takes; 0: no limit."""
    implementation_class_uid: str = ""
    implementation_version: str = ""
    async_window: tuple[int, int] | None = None
    """(invoked, performed); 0 stands for unlimited; None: not proposed, which means 1, 1."""
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[tuple[str, bytes], ...] = ()
    """SOP class extended negotiation (item 56): kept as bytes, not answered."""
    user_identity: UserIdentity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateRequest:
    called_ae: str
    calling_ae: str
    contexts: tuple[ProposedContext, ...]
    user: UserInformation = UserInformation()
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1
    raw_header: bytes = b""
    """Called AE, calling AE and 32 reserved bytes as received: an A-ASSOCIATE-AC repeats them (PS3.8 Table 9-17)."""
    said: bytes = field(default=b"", repr=False, compare=False)
    """The bytes it was decoded from, for who remembers something by them; b"" where nobody should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociateAccept:
    contexts: tuple[ContextResult, ...]
    user: UserInformation = UserInformation()
    raw_header: bytes = b""
    application_context: str = APPLICATION_CONTEXT
    encoded: bytes = field(default=b"", repr=False, compare=False)
    """The PDU, if it is there already."""


@dataclass(frozen=True, slots=True)
class AssociateReject:
    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class Abort:
    source: int
    reason: int


class SliceReader:
    """Reads forward through bytes whose end is known; everything beyond it is the peer's error."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def left(self) -> int:
        return self._end - self._at

    def take(self, count: int) -> bytes:
        if count > self._end - self._at:
            raise PeerProtocolError("an item is longer than what holds it", AbortReason.INVALID_PDU_PARAMETER_VALUE)
        start = self._at
        self._at = start + count
        return self._data[start : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def items(self) -> Iterator[tuple[int, SliceReader]]:
        """Items until the end: type (1), reserved (1), length (2), content."""
        while self.left:
            kind = self.number(1)
            self.take(1)
            length = self.number(2)
            if length > self.left:
                raise PeerProtocolError("an item is longer than what holds it", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            yield kind, SliceReader(self._data, self._at, self._at + length)
            self._at += length

    def rest(self) -> bytes:
        return self.take(self.left)


def clean_ae(field16: bytes) -> str:
    """An AE title as compared: cut at the first NUL (eFilm leaves garbage behind it), outer spaces not significant."""
    return field16.split(b"\0", 1)[0].decode("latin-1").strip(" ")


def clean_uid(value: bytes) -> str:
    """UIDs in PDUs are not padded; peers pad them with NUL or space."""
    return value.decode("latin-1").strip("\0 ")


# Decoding --------------------------------------------------------------------------------------------------


_requests: Remembered[tuple[bytes, int, int], AssociateRequest] = Remembered()


def decode_request(body: bytes, *, max_contexts: int = 128, max_transfer_syntaxes: int = 64) -> AssociateRequest:
    """The variable field of an A-ASSOCIATE-RQ (PS3.8 Table 9-11)."""
    key = body, max_contexts, max_transfer_syntaxes
    request = _requests.get(key)
    if request is None:
        request = _decode_request(*key)
        if request.said:
            _requests.keep(key, request)
    return request


def _decode_request(body: bytes, max_contexts: int, max_transfer_syntaxes: int) -> AssociateRequest:
    reader = SliceReader(body)
    version = reader.number(2)
    reader.take(2)
    raw_header = reader.take(64)
    application = ""
    contexts: dict[int, ProposedContext] = {}
    user = UserInformation()
    for kind, item in reader.items():
        if kind == 0x10:
            application = clean_uid(item.rest())
        elif kind == 0x20:
            if len(contexts) >= max_contexts:
                raise PeerProtocolError("too many presentation contexts", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            context = _decode_proposal(item, max_transfer_syntaxes)
            contexts.setdefault(context.id, context)
        elif kind == 0x50:
            user = _decode_user(item)
    return AssociateRequest(
        called_ae=clean_ae(raw_header[:16]),
        calling_ae=clean_ae(raw_header[16:32]),
        contexts=tuple(contexts.values()),
        user=user,
        application_context=application,
        protocol_version=version,
        raw_header=raw_header,
        # What opens something is not kept longer than it is needed.
        said=body if len(body) <= LONGEST_REMEMBERED and user.user_identity is None else b"",
    )


def decode_accept(body: bytes) -> AssociateAccept:
    """The variable field of an A-ASSOCIATE-AC (PS3.8 Table 9-17)."""
    reader = SliceReader(body)
    reader.take(4)
    raw_header = reader.take(64)
    application = ""
    contexts: dict[int, ContextResult] = {}
    user = UserInformation()
    for kind, item in reader.items():
        if kind == 0x10:
            application = clean_uid(item.rest())
        elif kind == 0x21:
            identifier = item.number(1)
            item.take(1)
            result = item.number(1)
            item.take(1)
            syntax = ""
            for sub, content in item.items():
                if sub == 0x40 and not syntax:
                    syntax = clean_uid(content.rest())
            contexts.setdefault(identifier, ContextResult(identifier, result, syntax))
        elif kind == 0x50:
            user = _decode_user(item)
    return AssociateAccept(
        contexts=tuple(contexts.values()), user=user, raw_header=raw_header, application_context=application
    )


def decode_reject(body: bytes) -> AssociateReject:
    """A-ASSOCIATE-RJ; one that is too short says nothing, which counts as "no reason given"."""
    padded = body[:4].ljust(4, b"\0")
    return AssociateReject(padded[1], padded[2], padded[3])


def decode_abort(body: bytes) -> Abort:
    padded = body[:4].ljust(4, b"\0")
    return Abort(padded[2], padded[3])


def _decode_proposal(item: SliceReader, max_transfer_syntaxes: int) -> ProposedContext:
    identifier = item.number(1)
    item.take(3)
    abstract = ""
    syntaxes: list[str] = []
    for kind, content in item.items():
        if kind == 0x30 and not abstract:
            abstract = clean_uid(content.rest())
        elif kind == 0x40:
            if len(syntaxes) >= max_transfer_syntaxes:
                raise PeerProtocolError("too many transfer syntaxes", AbortReason.INVALID_PDU_PARAMETER_VALUE)
            syntaxes.append(clean_uid(content.rest()))
    return ProposedContext(identifier, abstract, tuple(syntaxes))


def _decode_user(item: SliceReader) -> UserInformation:
    max_length = DEFAULT_MAX_LENGTH
    class_uid = version = ""
    window: tuple[int, int] | None = None
    roles: list[RoleSelection] = []
    extended: list[tuple[str, bytes]] = []
    identity: UserIdentity | None = None
    for kind, content in item.items():
        if kind == 0x51:
            max_length = content.number(4)
        elif kind == 0x52:
            class_uid = clean_uid(content.rest())
        elif kind == 0x55:
            version = content.rest().decode("latin-1").strip("\0 ")
        elif kind == 0x53:
            window = content.number(2), content.number(2)
        elif kind == 0x54:
            uid = clean_uid(content.take(content.number(2)))
            roles.append(RoleSelection(uid, content.number(1) == 1, content.number(1) == 1))
        elif kind == 0x56:
            uid = clean_uid(content.take(content.number(2)))
            extended.append((uid, content.rest()))
        elif kind == 0x58:
            identity_type = content.number(1)
            wants = content.number(1) == 1
            if not 1 <= identity_type <= 5:
                continue  # of a type to come only the beginning is known
            primary = content.take(content.number(2))
            secondary = content.take(content.number(2)) if content.left else b""
            identity = UserIdentity(identity_type, wants, primary, secondary)
    return UserInformation(
        max_length=max_length,
        implementation_class_uid=class_uid,
        implementation_version=version,
        async_window=window,
        roles=tuple(roles),
        extended=tuple(extended),
        user_identity=identity,
    )


# Encoding --------------------------------------------------------------------------------------------------


def _item(kind: int, content: bytes) -> bytes:
    return bytes((kind, 0)) + len(content).to_bytes(2, "big") + content


def _pdu(kind: int, body: bytes) -> bytes:
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + body


def _ae(title: str) -> bytes:
    return title.encode("latin-1", "replace")[:16].ljust(16)


def _encode_user(user: UserInformation) -> bytes:
    # Ascending order: PS3.8 §9.3.2.3 notes that old peers expect it.
    content = _item(0x51, user.max_length.to_bytes(4, "big"))
    if user.implementation_class_uid:
        content += _item(0x52, user.implementation_class_uid.encode("ascii"))
    if user.async_window is not None:
        content += _item(0x53, user.async_window[0].to_bytes(2, "big") + user.async_window[1].to_bytes(2, "big"))
    for role in user.roles:
        uid = role.sop_class.encode("ascii")
        content += _item(0x54, len(uid).to_bytes(2, "big") + uid + bytes((role.scu, role.scp)))
    if user.implementation_version:
        content += _item(0x55, user.implementation_version.encode("ascii")[:16])
    for uid_text, information in user.extended:
        uid = uid_text.encode("ascii")
        content += _item(0x56, len(uid).to_bytes(2, "big") + uid + information)
    if user.user_identity is not None:
        identity = user.user_identity
        content += _item(
            0x58,
            bytes((identity.type, identity.response_requested))
            + len(identity.primary).to_bytes(2, "big")
            + identity.primary
            + len(identity.secondary).to_bytes(2, "big")
            + identity.secondary,
        )
    return _item(0x50, content)


def encode_request(request: AssociateRequest) -> bytes:
    body = request.protocol_version.to_bytes(2, "big") + b"\0\0"
    body += request.raw_header or _ae(request.called_ae) + _ae(request.calling_ae) + bytes(32)
    body += _item(0x10, request.application_context.encode("ascii"))
    for context in request.contexts:
        content = bytes((context.id, 0, 0, 0)) + _item(0x30, context.abstract_syntax.encode("ascii"))
        for syntax in context.transfer_syntaxes:
            content += _item(0x40, syntax.encode("ascii"))
        body += _item(0x20, content)
    return _pdu(PduType.ASSOCIATE_RQ, body + _encode_user(request.user))


def encode_accept(accept: AssociateAccept) -> bytes:
    if accept.encoded:
        return accept.encoded
    body = b"\0\1\0\0" + accept.raw_header.ljust(64, b"\0")
    body += _item(0x10, accept.application_context.encode("ascii"))
    for context in accept.contexts:
        content = bytes((context.id, 0, context.result, 0))
        # The transfer syntax item is always there, though only acceptance gives it a meaning (PS3.8 Table 9-18);
        # requestors have failed over empty ones.
        content += _item(0x40, (context.transfer_syntax or DEFAULT_TRANSFER_SYNTAX).encode("latin-1"))
        body += _item(0x21, content)
    return _pdu(PduType.ASSOCIATE_AC, body + _encode_user(accept.user))


def encode_reject(reject: AssociateReject) -> bytes:
    return _pdu(PduType.ASSOCIATE_RJ, bytes((0, reject.result, reject.source, reject.reason)))


def encode_abort(abort: Abort) -> bytes:
    return _pdu(PduType.ABORT, bytes((0, 0, abort.source, abort.reason)))


RELEASE_RQ = _pdu(PduType.RELEASE_RQ, bytes(4))
RELEASE_RP = _pdu(PduType.RELEASE_RP, bytes(4))
