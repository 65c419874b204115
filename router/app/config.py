"""``router.toml`` to typed values: read, merged, overridden, checked; every problem of one run at once.

Precedence: environment (``DICOM_ROUTER__SECTION__KEY``), then the file and ``conf.d/*.toml`` beside it, then the
defaults. Past this module nobody sees a dictionary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from router.app.config_model import (
    AuditModel,
    ConfigModel,
    DestinationModel,
    DestinationTlsModel,
    ListenModel,
    ListenTlsModel,
    PeerModel,
    SecretModel,
    parse_bind,
    parse_collector,
)
from router.app.config_source import ConfigSource
from router.errors import ConfigError
from router.model import (
    AuditSettings,
    CertificateBinding,
    Destination,
    Limits,
    Listener,
    Peer,
    SpoolSettings,
    TlsSettings,
)
from router.secret import SecretReference
from router.toml_positions import KeyPath

DEFAULT_NAME = "router.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration, past the loader."""

    file: Path | None
    node: str
    data_dir: Path
    workers: int
    listeners: tuple[Listener, ...]
    peers: tuple[Peer, ...]
    destinations: tuple[Destination, ...]
    limits: Limits
    spool: SpoolSettings
    rules_folder: Path
    on_no_match: str
    on_changed_duplicate: str
    admin_host: str
    admin_port: int
    log_format: str
    log_level: str
    log_uids: str
    shutdown_grace: float
    audit: AuditSettings = field(default_factory=AuditSettings)
    warnings: tuple[str, ...] = ()

    @property
    def arrivals(self) -> dict[str, tuple[str, ...]]:
        """By whom and to whom objects can come, as ``routing.load`` wants it."""
        found = {"Listener": tuple(listener.name for listener in self.listeners)}
        if not any(listener.accept == "any" for listener in self.listeners):
            found["CallingAET"] = tuple({peer.ae_title for peer in self.peers if peer.store})
        titles = {title for listener in self.listeners for title in listener.ae_titles}
        if "*" not in titles:
            found["CalledAET"] = tuple(titles)
        return found


def load_config(path: Path | None, env: Mapping[str, str] | None = None) -> Config:
    """Read ``path`` (or ``router.toml`` of the working folder, or nothing but defaults) and everything that adds to it.

    Raises:
        ConfigError: All problems, each as ``file:line:column: key.path: what is wrong, what would do``.
    """
    model, source, file = _read(path, os.environ if env is None else env)
    return _Builder(model, source, file).build()


def in_force(path: Path | None, env: Mapping[str, str]) -> dict[str, Any]:
    """What ``load_config`` reads, as a table that would do as a ``router.toml``: with every default, what is not set
    left out. Secrets are in it as references.

    Raises:
        ConfigError: As ``load_config``.
    """
    model, source, file = _read(path, env)
    _Builder(model, source, file).build()
    values: dict[str, Any] = _set(model.model_dump(mode="json"))
    return values


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _set(inner) for key, inner in value.items() if inner not in (None, "")}
    return [_set(inner) for inner in value] if isinstance(value, list) else value


def _read(path: Path | None, environment: Mapping[str, str]) -> tuple[ConfigModel, ConfigSource, Path | None]:
    file = path if path is not None else Path(DEFAULT_NAME) if Path(DEFAULT_NAME).exists() else None
    source = ConfigSource()
    if file is not None:
        source.add(file)
        for extra in sorted((file.parent / "conf.d").glob("*.toml")):
            source.add(extra)
    source.environment(environment)
    if source.problems:
        raise ConfigError(source.problems)
    try:
        model = ConfigModel.model_validate(source.values)
    except ValidationError as error:
        raise ConfigError(source.all_problems(error)) from None
    return model, source, file


class _Builder:
    """Checked model to values, with the checks that look at several keys at once."""

    def __init__(self, model: ConfigModel, source: ConfigSource, file: Path | None) -> None:
        self.model = model
        self.source = source
        self.base = file.parent if file is not None else Path()
        self.file = file
        self.problems: list[tuple[KeyPath, str]] = []
        self.warnings = list(source.warnings)

    def build(self) -> Config:
        model = self.model
        listeners = tuple(self._listener(index, item) for index, item in enumerate(model.listen))
        self._binds(listeners)
        peers = tuple(self._peer(name, item, listeners) for name, item in model.peers.items())
        self._tell_apart(peers)
        destinations = tuple(self._destination(name, item) for name, item in model.destinations.items())
        host, port = parse_bind(model.admin.bind)
        if not is_loopback(host):
            self._problem(
                ("admin", "bind"),
                "must be a loopback address: this version has no accounts; put a proxy that authenticates in front",
            )
        if any(port and port == listener.port and _overlap(host, listener.host) for listener in listeners):
            self._problem(("admin", "bind"), "is the bind of a [[listen]] too")
        if not any(listener.accept == "any" for listener in listeners) and not peers:
            self.warnings.append('no [peers] are configured and accept = "known": nobody may send')
        if not destinations:
            self.warnings.append("no [destinations] are configured: nothing is delivered")
        self._look_at(destinations, listeners)
        self._divide(destinations)
        if self.problems:
            raise ConfigError(self.source.told(self.problems))
        limits = Limits(**{key: value for key, value in model.limits.model_dump().items() if value is not None})
        return Config(
            file=self.file,
            node=model.node.name,
            data_dir=self.base / model.node.data_dir,
            workers=model.node.workers,
            listeners=listeners,
            peers=peers,
            destinations=destinations,
            limits=limits,
            spool=SpoolSettings(
                segment_size=model.spool.segment_size,
                spare_segments=model.spool.spare_segments,
                reserve_associations=model.spool.reserve_associations,
                reserve_objects=model.spool.reserve_objects,
                keep_delivered=model.spool.keep_delivered,
                keep_delivered_size=model.spool.keep_delivered_size,
            ),
            rules_folder=self.base / model.rules.path,
            on_no_match=model.rules.on_no_match,
            on_changed_duplicate=model.node.on_changed_duplicate,
            admin_host=host,
            admin_port=port,
            log_format=model.log.format,
            log_level=model.log.level,
            log_uids=model.log.uids,
            shutdown_grace=model.node.shutdown_grace,
            audit=self._audit(model.audit),
            warnings=tuple(self.warnings),
        )

    def _problem(self, path: KeyPath, text: str) -> None:
        self.problems.append((path, text))

    def _listener(self, index: int, item: ListenModel) -> Listener:
        host, port = parse_bind(item.bind)
        at: KeyPath = ("listen", index)
        if not is_loopback(host):
            if item.tls is None:
                self._problem(
                    (*at, "tls"),
                    "must be said for an address beyond loopback: { certificate, key, ca }, "
                    'or tls = "off" (plain DICOM)',
                )
            certified = isinstance(item.tls, ListenTlsModel) and item.tls.client_certificates == "required"
            if item.accept == "any" and not certified:
                self.warnings.append(
                    self.source.at((*at, "accept"), f'"any" on {item.bind}: whoever reaches this port may send')
                )
        return Listener(
            host=host,
            port=port,
            ae_titles=tuple(item.ae_titles),
            accept=item.accept,
            max_pdu=item.max_pdu,
            tls=self._tls(item.tls, (*at, "tls")) if isinstance(item.tls, ListenTlsModel) else None,
        )

    def _tls(self, item: ListenTlsModel | DestinationTlsModel, at: KeyPath) -> TlsSettings:
        def file(name: str) -> str:
            return str(self.base / name) if name else ""

        return TlsSettings(
            profile=item.profile,
            certificate=file(item.certificate),
            key=file(item.key),
            ca=file(item.ca),
            crl=file(item.crl),
            client_certificates=item.client_certificates if isinstance(item, ListenTlsModel) else "none",
            server_name=item.server_name if isinstance(item, DestinationTlsModel) else "",
            public_keys=tuple(item.public_key_sha256) if isinstance(item, DestinationTlsModel) else (),
            key_password=self._secret(item.key_password),
            place=self.source.at(at, "").removesuffix(": "),
        )

    def _audit(self, item: AuditModel) -> AuditSettings:
        if item.to in ("file", "off"):
            return AuditSettings(kind=item.to, keep=item.keep)
        host, port = parse_collector(item.to)
        settings = self._tls(item.tls or DestinationTlsModel(), ("audit", "tls"))
        return AuditSettings(kind="collector", host=host, port=port, tls=settings)

    def _secret(self, item: SecretModel | None) -> SecretReference | None:
        if item is None:
            return None
        return SecretReference(env=item.env) if item.env else SecretReference(file=str(self.base / item.file))

    def _binds(self, listeners: tuple[Listener, ...]) -> None:
        for index, listener in enumerate(listeners):
            for other in listeners[:index]:
                if listener.port and listener.port == other.port and _overlap(listener.host, other.host):
                    self._problem(("listen", index, "bind"), f"is bound twice, also by {other.name}")

    def _peer(self, name: str, item: PeerModel, listeners: tuple[Listener, ...]) -> Peer:
        names = []
        for index, bind in enumerate(item.listeners):
            try:
                host, port = parse_bind(bind)
            except ValueError:
                host, port = "", -1
            known = [listener.name for listener in listeners if (listener.host, listener.port) == (host, port)]
            if not known:
                binds = ", ".join(f'"{listener.bind}"' for listener in self.model.listen)
                self._problem(
                    ("peers", name, "listeners", index), f'"{bind}" is no bind of a [[listen]], there are {binds}'
                )
            names += known
        binding = None
        if item.certificate is not None:
            binding = CertificateBinding(
                tuple(item.certificate.public_key_sha256), tuple(text.lower() for text in item.certificate.san)
            )
            if not any(_asks(listener) for listener in listeners if not names or listener.name in names):
                self._problem(
                    ("peers", name, "certificate"),
                    "no listener that it may use asks for certificates: it could never call",
                )
        if not item.addresses and binding is None and any(not is_loopback(listener.host) for listener in listeners):
            self.warnings.append(
                self.source.at(
                    ("peers", name), f"has no addresses: whoever calls itself {item.ae_title} may send from anywhere"
                )
            )
        return Peer(
            name=name,
            ae_title=item.ae_title,
            addresses=tuple(item.addresses),
            associations=item.associations,
            store=item.store,
            echo=item.echo,
            listeners=tuple(names),
            certificate=binding,
        )

    def _tell_apart(self, peers: tuple[Peer, ...]) -> None:
        """Two peers that the same caller could be: which rights it has would be chance."""
        for index, peer in enumerate(peers):
            for other in peers[:index]:
                if peer.ae_title != other.ae_title or not _share(peer.listeners, other.listeners):
                    continue
                if not peer.addresses or not other.addresses or _common_network(peer.addresses, other.addresses):
                    self._problem(
                        ("peers", peer.name), f"cannot be told from peers.{other.name}: AE title and addresses overlap"
                    )

    def _divide(self, destinations: tuple[Destination, ...]) -> None:
        workers = self.model.node.workers
        for destination in destinations:
            if destination.max_associations < workers:
                self.warnings.append(
                    self.source.at(
                        ("destinations", destination.name, "max_associations"),
                        f"is less than node.workers: each worker may open one, so there may be {workers}",
                    )
                )

    def _look_at(self, destinations: tuple[Destination, ...], listeners: tuple[Listener, ...]) -> None:
        seen: dict[tuple[str, ...], str] = {}
        for destination in destinations:
            at: KeyPath = ("destinations", destination.name, "url")
            where = (destination.ae_title, destination.host, str(destination.port), destination.path)
            if where in seen:
                self.warnings.append(self.source.at(at, f"is the place of destinations.{seen[where]} too"))
            seen.setdefault(where, destination.name)
            for listener in listeners:
                if (
                    destination.kind == "dicom"
                    and destination.port == listener.port
                    and (
                        destination.host == listener.host
                        or (is_loopback(destination.host) and _overlap(listener.host, "127.0.0.1"))
                    )
                    and (destination.ae_title in listener.ae_titles or "*" in listener.ae_titles)
                ):
                    self.warnings.append(
                        self.source.at(at, f"is this router itself ({listener.name}): objects would go round")
                    )

    def _destination(self, name: str, item: DestinationModel) -> Destination:
        target = item.target()
        return Destination(
            name=name,
            kind=target.kind,
            ae_title=target.ae_title,
            host=target.host,
            port=target.port,
            path=str(self.base / target.path) if target.kind == "file" else "",
            calling_ae_title=item.calling_ae_title,
            max_associations=item.max_associations,
            max_pdu=item.max_pdu,
            transfer_syntaxes=None if isinstance(item.transfer_syntaxes, str) else tuple(item.transfer_syntaxes),
            connect_timeout=item.connect_timeout,
            acse_timeout=item.acse_timeout,
            response_timeout=item.response_timeout,
            release_timeout=item.release_timeout,
            idle_timeout=item.idle_timeout,
            async_operations=item.async_operations,
            cut_through=item.cut_through,
            duplicate_is_done=item.duplicate_is_done,
            tls=self._tls(item.tls or DestinationTlsModel(), ("destinations", name, "tls")) if target.tls else None,
        )


def _asks(listener: Listener) -> bool:
    return listener.tls is not None and listener.tls.client_certificates != "none"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _overlap(host: str, other: str) -> bool:
    """Whether two binds with one port exclude each other."""
    everywhere = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
    return (
        host == other
        or host in everywhere
        or other in everywhere
        or (is_loopback(host) and is_loopback(other) and "localhost" in (host, other))
    )


def _share(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    return not first or not second or not set(first).isdisjoint(second)


def _common_network(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    networks = [ip_network(text) for text in first]
    others = [ip_network(text) for text in second]
    return any(one.version == other.version and one.overlaps(other) for one in networks for other in others)
