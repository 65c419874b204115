"""The shape of ``router.toml``: every key with its type, default, range and a sentence about it. The JSON Schema is
made from this."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from router.dicom import uids
from router.model import Limits
from router.net.tls import ALIASES, PROFILES, public_key
from router.routing.values import seconds, size_in_bytes


def _bytes(value: Any) -> Any:
    return int(size_in_bytes(value)) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    return seconds(value) if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str), Field(ge=0)]
"""A number of bytes, or a text such as "8GiB"."""
Seconds = Annotated[
    float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(gt=0, allow_inf_nan=False)
]
"""A number of seconds, or a text such as "24h"."""
_AE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")


def _ae_title(value: Any) -> Any:
    if isinstance(value, str) and not _AE.fullmatch(value):
        raise ValueError(f'"{value}" is no AE title: 1 to 16 characters, no backslash, no spaces at the ends')
    return value


def _one_ae_title(value: Any) -> Any:
    if isinstance(value, str) and ("*" in value or "?" in value):
        raise ValueError(f'"{value}": AE titles of peers have no wildcards; accept = "any" lets everybody call')
    return _ae_title(value)


def _called(value: Any) -> Any:
    if isinstance(value, str) and value != "*" and ("*" in value or "?" in value):
        raise ValueError(f'"{value}": name each AE title, or say ["*"] for any')
    return _ae_title(value)


AeTitle = Annotated[str, BeforeValidator(_ae_title)]
OneAeTitle = Annotated[str, BeforeValidator(_one_ae_title)]
CalledAeTitle = Annotated[str, BeforeValidator(_called)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
"""Of a peer or destination: it stands in metrics, logs and commands."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_BIND = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]*)):([0-9]{1,5})")


def parse_bind(text: str) -> tuple[str, int]:
    """``host:port``; an IPv6 address stands in brackets. Raises ValueError."""
    match = _BIND.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f'"{text}" should be like "0.0.0.0:11112" or "[::1]:11112"')
    return match[1] or match[2] or "0.0.0.0", int(match[3])  # noqa: S104 (said by the site)


def _bind(value: Any) -> Any:
    if isinstance(value, str):
        parse_bind(value)
    return value


Bind = Annotated[str, BeforeValidator(_bind)]


class NodeModel(_Table):
    name: Name = "router-1"
    """Names this node in leases and logs."""
    data_dir: str = "var"
    """Spool and ledger; relative to the configuration file."""
    workers: int = Field(default=1, ge=1, le=16)
    """Processes that share the listening ports, the spool and the ledger."""
    shutdown_grace: Seconds = 30.0
    """How long open associations may finish after SIGTERM."""
    on_changed_duplicate: Literal["version", "reject", "hold"] = "version"
    """Other bytes under a known SOP Instance UID: keep and deliver both in order, answer 0x0111, or hold for a
    person."""


def _public_key(value: Any) -> Any:
    return public_key(value) if isinstance(value, str) else value


def _profile(value: Any) -> Any:
    if isinstance(value, str) and value not in PROFILES:
        if value not in ALIASES:
            names = ", ".join(f'"{name}"' for name in (*PROFILES, *ALIASES))
            raise ValueError(f'"{value}" is no profile of PS3.15 Annex B, use one of {names}')
        return ALIASES[value]
    return value


PublicKey = Annotated[str, BeforeValidator(_public_key)]
"""SHA-256 of a SubjectPublicKeyInfo."""
Profile = Annotated[str, BeforeValidator(_profile)]


def _variable(value: Any) -> Any:
    if isinstance(value, str) and value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("must be the name of an environment variable")
    return value


Variable = Annotated[str, BeforeValidator(_variable)]


class SecretModel(_Table):
    """Where a secret is; it never stands in the configuration itself."""

    env: Variable = ""
    """Environment variable."""
    file: str = ""
    """File that holds nothing else and that nobody but the router can read; relative to the configuration file."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.env) == bool(self.file):
            raise ValueError("say env or file")
        return self


def _reference(value: Any) -> Any:
    """What was written is not repeated: it may be the secret."""
    if not isinstance(value, dict | SecretModel):
        raise ValueError(
            'must be a reference, { env = "NAME" } or { file = "PATH" }: no secret stands in a configuration'
        )
    return value


Secret = Annotated[SecretModel, BeforeValidator(_reference)]


class _TlsModel(_Table):
    profile: Profile = "bcp195"
    """Of PS3.15 Annex B: "bcp195" (B.12) or "modified" (B.13). Names of older profiles are taken for the one that
    replaced them."""
    certificate: str = ""
    """PEM file with our certificate, intermediate ones behind it."""
    key: str = ""
    """PEM file with its private key, which nobody but the router can read."""
    key_password: Secret | None = None
    """What opens the key if it is encrypted: { env = "NAME" } or { file = "PATH" }."""
    ca: str = ""
    """PEM file with the certificates that are trusted."""
    crl: str = ""
    """PEM file with revocation lists of the CAs that issue our peers' certificates."""

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together: say both")
        if self.key_password and not self.key:
            raise ValueError("key_password has no use without key")
        return self


class ListenTlsModel(_TlsModel):
    """TLS of a listener."""

    client_certificates: Literal["required", "optional", "none"] = "required"
    """Whether peers must show a certificate of `ca`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.certificate:
            raise ValueError("a listener needs certificate and key")
        if not self.ca and self.client_certificates != "none":
            raise ValueError(
                'ca is missing: who signs the certificates of peers; or client_certificates = "none" lets in any'
            )
        if self.crl and self.client_certificates == "none":
            raise ValueError('crl has no use with client_certificates = "none"')
        return self


class DestinationTlsModel(_TlsModel):
    """TLS of a dicoms:// destination. The name in its certificate is verified, or its public key is pinned."""

    server_name: str = Field(default="", max_length=253)
    """The name that its certificate must have; by default the host of the URL."""
    public_key_sha256: list[PublicKey] = Field(default_factory=list)
    """Public keys that it may have. Then the name in the certificate is not looked at, and without `ca` nor is who
    signed it."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.server_name and self.public_key_sha256:
            raise ValueError("server_name has no use beside public_key_sha256: the key says who it is")
        if self.crl and self.public_key_sha256 and not self.ca:
            raise ValueError("crl has no use with public_key_sha256 alone: say ca too")
        return self


class CertificateModel(_Table):
    """The certificates that may use a peer's AE title: any of these keys, any of these names."""

    public_key_sha256: list[PublicKey] = Field(default_factory=list)
    """SHA-256 of the SubjectPublicKeyInfo."""
    san: list[str] = Field(default_factory=list)
    """Subject alternative names: DNS names, addresses, e-mail addresses, URIs."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.public_key_sha256 and not self.san:
            raise ValueError("say public_key_sha256 or san")
        return self


class ListenModel(_Table):
    bind: Bind
    """host:port"""
    ae_titles: list[CalledAeTitle] = Field(default_factory=lambda: ["ROUTER"], min_length=1)
    """Called AE titles answered to; ["*"] for any."""
    accept: Literal["known", "any"] = "known"
    """Who may call: configured peers, or anybody."""
    max_pdu: int = Field(default=131072, ge=4096, le=1 << 20)
    """Longest P-DATA-TF taken, bytes."""
    tls: Literal["off"] | ListenTlsModel | None = None
    """"off" for plain DICOM, which must be said beyond loopback; or { certificate, key, ca }."""

    @field_validator("tls", mode="wrap")
    @classmethod
    def _off_or_files(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if value in ("off", None):
            return value
        if not isinstance(value, dict | ListenTlsModel):
            raise ValueError('must be "off", or { certificate = "...", key = "...", ca = "..." }')
        return ListenTlsModel.model_validate(value)


class PeerModel(_Table):
    ae_title: OneAeTitle
    """Calling AE title."""
    addresses: list[str] = Field(default_factory=list)
    """Networks (CIDR) or addresses it may call from; empty for any."""
    associations: int | None = Field(default=None, ge=1)
    """At once; by default limits.associations_per_peer."""
    store: bool = True
    """May send objects."""
    echo: bool = True
    """May ask for C-ECHO."""
    listeners: list[str] = Field(default_factory=list)
    """Binds it may use; empty for all."""
    certificate: CertificateModel | None = None
    """The certificates that may use this AE title, and no other; by default any that the listener accepts."""

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                ip_network(text)
            except ValueError as error:
                raise ValueError(f'"{text}" is no address or network such as "10.1.0.0/16": {error}') from None
        return value


@dataclass(frozen=True, slots=True)
class Target:
    kind: str
    ae_title: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False


class DestinationModel(_Table):
    url: str
    """dicom://AET@host:port, dicoms://AET@host:port for TLS, or file:///folder"""
    tls: DestinationTlsModel | None = None
    """For dicoms://; by default the system's CAs are trusted, and no certificate is shown."""
    calling_ae_title: AeTitle = "ROUTER"
    """Ours, as this destination knows it."""
    max_associations: int = Field(default=4, ge=1, le=64)
    """At once."""
    max_pdu: int = Field(default=131072, ge=4096, le=1 << 20)
    """Longest P-DATA-TF that we announce, bytes."""
    transfer_syntaxes: Literal["as received"] | list[str] = "as received"
    """"as received", or the UIDs or names of those that may be sent there; objects in others become dead letters."""
    connect_timeout: Seconds = 10.0
    """Until the TCP connection stands."""
    acse_timeout: Seconds = 30.0
    """Until the A-ASSOCIATE-AC."""
    response_timeout: Seconds = 300.0
    """Until a C-STORE-RSP: slow archives exist. To a folder: until it has taken a chunk, or synced a file."""
    release_timeout: Seconds = 10.0
    """Until the A-RELEASE-RP."""
    idle_timeout: Seconds = 5.0
    """How long an association stays open with nothing to send."""
    async_operations: int = Field(default=16, ge=1, le=1024)
    """Asynchronous operations window proposed; 1 proposes none."""
    cut_through: bool = True
    """Large objects start towards it while they still arrive, whenever it is idle."""
    duplicate_is_done: bool = True
    """Status 0x0111 counts as delivered."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parse_url(value)
        return value

    @field_validator("transfer_syntaxes", mode="before")
    @classmethod
    def _syntaxes(cls, value: Any) -> Any:
        if value == "as received":
            return value
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise ValueError('must be "as received", or a list of UIDs or names of transfer syntaxes')
        found = []
        for text in value:
            uid = text if uids.valid_uid(text) else uids.transfer_syntax_uid(text)
            if uid is None:
                close = uids.suggest_transfer_syntax(text)
                raise ValueError(
                    f'unknown transfer syntax "{text}"' + (f', did you mean "{close[0]}"?' if close else "")
                )
            found.append(uid)
        return found

    @model_validator(mode="after")
    def _only_where_tls_is(self) -> Self:
        if self.tls is not None and not self.target().tls:
            raise ValueError("tls is for dicoms://: say so in the url, or leave it out")
        return self

    def target(self) -> Target:
        return parse_url(self.url)


_USUAL = {"dicom": 104, "dicoms": 2762}
"""Ports that IANA has for them."""


def _shown(url: str) -> str:
    """Without what may be a password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:...@", url, flags=re.DOTALL)


def parse_url(url: str) -> Target:
    """A destination's URL. Raises ValueError that says what would do, and repeats no password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f'"{_shown(url)}": host or port cannot be read') from None
    if parts.password is not None:
        raise ValueError(f'"{_shown(url)}": there is no place for a password, only for an AE title before the @')
    if "?" in url or "#" in url:
        raise ValueError(f'"{url}": a destination has no ? and no #')
    if parts.scheme in ("dicom", "dicoms"):
        if not parts.hostname or not parts.username or port is None or parts.path not in ("", "/"):
            raise ValueError(f'"{url}" should be like "{parts.scheme}://PACS@10.1.2.3:{_USUAL[parts.scheme]}"')
        title = unquote(parts.username)
        _ae_title(title)
        if not port:
            raise ValueError(f'"{url}": the port must be 1 to 65535')
        return Target("dicom", title, parts.hostname, port, tls=parts.scheme == "dicoms")
    if parts.scheme == "file":
        if parts.netloc or not parts.path:
            raise ValueError(f'"{url}" should be like "file:///srv/archive", or "file:folder" beside the configuration')
        return Target("file", path=unquote(parts.path))
    if parts.scheme in ("https", "http", "s3"):
        raise ValueError(f'"{url}": this version delivers to dicom://, dicoms:// and file:// only')
    raise ValueError(f'"{url}" should be like "dicom://PACS@10.1.2.3:104" or "file:///srv/archive"')


class RulesModel(_Table):
    path: str = "rules"
    """Folder of *.toml, read in name order; relative to the configuration file."""
    on_no_match: Literal["hold", "reject", "discard"] = "hold"
    """What happens to an object that no rule takes."""


class LedgerModel(_Table):
    url: Literal["sqlite"] = "sqlite"
    """This version keeps the ledger in SQLite, under node.data_dir."""

    @field_validator("url", mode="before")
    @classmethod
    def _sqlite(cls, value: Any) -> Any:
        if value != "sqlite":
            raise ValueError('this version keeps its ledger in SQLite only: url = "sqlite"')
        return value


class SpoolModel(_Table):
    url: Literal["local"] = "local"
    """This version keeps the spool on local disk, under node.data_dir."""

    @field_validator("url", mode="before")
    @classmethod
    def _local(cls, value: Any) -> Any:
        if value != "local":
            raise ValueError('this version keeps its spool on local disk only: url = "local"')
        return value

    segment_size: Bytes = Field(default=64 << 20, ge=4 << 20, le=4 << 30)
    """Of the files that objects are appended to."""
    spare_segments: int = Field(default=4, ge=0, le=1024)
    """Settled segments kept to be overwritten."""
    reserve_associations: Bytes | None = None
    """Free bytes below which new associations are refused; by default max(5 GB, 5 %)."""
    reserve_objects: Bytes | None = None
    """Free bytes below which C-STORE answers 0xA700; by default max(2 GB, twice the largest object seen)."""
    keep_delivered: Seconds = 86400.0
    """How long delivered objects stay for a re-send."""
    keep_delivered_size: Bytes | None = None
    """Bytes of delivered objects kept at most; by default a tenth of the disk."""


class LimitsModel(_Table):
    """Seconds and bytes. What is not said has the default of the product."""

    associations: int | None = Field(default=None, ge=1)
    """At once, all peers together; default 200."""
    associations_per_peer: int | None = Field(default=None, ge=1)
    """At once, of one peer; default 20."""
    handshakes: int | None = Field(default=None, ge=1)
    """Sockets that have not finished their A-ASSOCIATE, all listeners together; default 256."""
    handshakes_per_address: int | None = Field(default=None, ge=1)
    """The same, of one IP address; default 8."""
    handshake_timeout: Seconds | None = None
    """From accept to a complete A-ASSOCIATE-RQ, absolute; default 10 s."""
    idle_timeout: Seconds | None = None
    """Between messages of an association; default 60 s."""
    minimum_rate: Bytes | None = None
    """Bytes per second within a PDU or message, averaged over rate_window; default 1024."""
    rate_window: Seconds | None = None
    """Default 30 s."""
    artim_timeout: Seconds | None = None
    """Waiting for the peer to close the transport; default 10 s."""
    release_timeout: Seconds | None = None
    """Waiting for an A-RELEASE-RP; default 10 s."""
    associate_pdu: Bytes | None = Field(default=None, ge=4096)
    """Longest A-ASSOCIATE PDU; default 1 MiB."""
    handshake_memory: Bytes | None = Field(default=None, ge=1 << 20)
    """Held for all unfinished handshakes together; default 64 MiB."""
    presentation_contexts: int | None = Field(default=None, ge=1, le=128)
    """Per association; default 128."""
    transfer_syntaxes: int | None = Field(default=None, ge=1)
    """Per presentation context; default 64."""
    command_set: Bytes | None = Field(default=None, ge=512)
    """Longest command set; default 16 KiB."""
    strict_pdu_length: bool | None = None
    """A P-DATA-TF longer than announced is answered with A-ABORT; default true."""
    sequence_depth: int | None = Field(default=None, ge=1, le=1024)
    """Nested sequences; default 64."""
    elements: int | None = Field(default=None, ge=1)
    """Elements before Pixel Data; default 200000."""
    header_bytes: Bytes | None = Field(default=None, ge=1024)
    """Bytes before Pixel Data that rules can see; default 8 MiB."""
    inflate_ratio: int | None = Field(default=None, ge=1)
    """A deflated data set is not looked at past this ratio; default 200."""
    object_size: Bytes | None = Field(default=None, ge=1024)
    """Largest object taken; default 8 GiB."""
    object_memory: Bytes | None = Field(default=None, ge=4096)
    """A larger object streams to disk as it arrives; default 1 MiB."""
    ingest_memory: Bytes | None = Field(default=None, ge=1 << 20)
    """Received and not yet durable, all associations together; past it sockets are not read; default 256 MiB."""
    window: int | None = Field(default=None, ge=1)
    """Deliveries in memory per destination; default 1000."""
    window_memory: Bytes | None = Field(default=None, ge=1 << 20)
    """Data sets kept in memory for sending, all destinations together; default 64 MiB."""

    @model_validator(mode="after")
    def _enough(self) -> LimitsModel:
        defaults = Limits()
        memory = self.object_memory or defaults.object_memory
        if memory * 4 > (self.ingest_memory or defaults.ingest_memory):
            raise ValueError("ingest_memory must hold at least four objects of object_memory")
        return self


class AdminModel(_Table):
    bind: Bind = "127.0.0.1:9180"
    """Metrics, health, API and console; loopback only."""


class LogModel(_Table):
    format: Literal["auto", "json", "console"] = "auto"
    """JSON when not a terminal."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    uids: Literal["hashed", "full"] = "hashed"
    """Whether UIDs stand in logs in the clear."""


_COLLECTOR = "syslog+tls"


class AuditModel(_Table):
    """The audit trail of PS3.15 A.5: who sent what to whom, about which patient."""

    to: str = "file"
    """"file" for a file a day in `audit/` under node.data_dir, "syslog+tls://host:6514" for a collector (RFC 5425), or
    "off"."""
    keep: Seconds = 365 * 86400.0
    """How long files stay."""
    tls: DestinationTlsModel | None = None
    """For a collector; by default the system's CAs are trusted, and no certificate is shown."""

    @field_validator("to")
    @classmethod
    def _place(cls, value: str) -> str:
        if value not in ("file", "off"):
            parse_collector(value)
        return value

    @model_validator(mode="after")
    def _only_where_tls_is(self) -> Self:
        if self.tls is not None and self.to in ("file", "off"):
            raise ValueError(f'tls is for a collector: to = "{_COLLECTOR}://host:6514"')
        return self


def parse_collector(url: str) -> tuple[str, int]:
    """Host and port. Raises ValueError that says what would do."""
    problem = f'"{_shown(url)}" should be "file", "off", or like "{_COLLECTOR}://collector.hospital:6514"'
    try:
        parts = urlsplit(url)
        port = parts.port or 6514
    except ValueError:
        raise ValueError(problem) from None
    if parts.scheme != _COLLECTOR or not parts.hostname or parts.username or parts.path not in ("", "/") or parts.query:
        raise ValueError(problem)
    return parts.hostname, port


def _default_listen() -> list[ListenModel]:
    return [ListenModel(bind="127.0.0.1:11112", accept="any", tls="off")]


class ConfigModel(_Table):
    """dicom-router's configuration, router.toml"""

    node: NodeModel = Field(default_factory=NodeModel)
    """This router."""
    listen: list[ListenModel] = Field(default_factory=_default_listen, min_length=1)
    """Where DICOM associations come in."""
    peers: dict[Name, PeerModel] = Field(default_factory=dict)
    """Who may call."""
    destinations: dict[Name, DestinationModel] = Field(default_factory=dict)
    """Where objects go."""
    rules: RulesModel = Field(default_factory=RulesModel)
    """Which object goes where."""
    ledger: LedgerModel = Field(default_factory=LedgerModel)
    """What is owed to whom."""
    spool: SpoolModel = Field(default_factory=SpoolModel)
    """The stored objects."""
    limits: LimitsModel = Field(default_factory=LimitsModel)
    """What anybody may ask of the router."""
    admin: AdminModel = Field(default_factory=AdminModel)
    """For operators and monitoring."""
    log: LogModel = Field(default_factory=LogModel)
    """Written to standard error."""
    audit: AuditModel = Field(default_factory=AuditModel)
    """The audit trail."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of router.toml, for editors; what stands below a field here describes it there."""
    schema = ConfigModel.model_json_schema(mode="validation")
    for name, table in [*schema["$defs"].items(), (ConfigModel.__name__, schema)]:
        for part in reversed(globals()[name].__mro__):
            for field, text in _described().get(part.__name__, {}).items():
                table["properties"][field]["description"] = text
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "dicom-router"
    return schema


@lru_cache(maxsize=1)
def _described() -> dict[str, dict[str, str]]:
    """The text below each field of each class here. Pydantic would collect it too, at every start of the router."""
    return {
        table.name: {
            field.target.id: inspect.cleandoc(below.value.value)
            for field, below in pairwise(table.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        }
        for table in ast.parse(inspect.getsource(sys.modules[__name__])).body
        if isinstance(table, ast.ClassDef)
    }
