"""``router.toml`` to typed values: read, merged, overridden, checked; every problem of one run at once.

Precedence: environment (``DICOM_ROUTER__SECTION__KEY``), then ``conf.d/*.toml`` beside the file and the file itself,
then the
defaults. Past this module nobody sees a dictionary.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from router.app.config_model import ConfigModel, DestinationModel, ListenModel, parse_bind
from router.errors import ConfigError
from router.model import Destination, Limits, Listener, Peer, SpoolSettings
from router.toml_positions import KeyPath, Position, nearest, positions

PREFIX = "DICOM_ROUTER__"
MAX_FILE = 4 << 20
DEFAULT_NAME = "router.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration, past the loader."""

    file: Path | None
    node: str
    data_dir: Path
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
    warnings: tuple[str, ...] = ()


def load_config(path: Path | None, env: Mapping[str, str] | None = None) -> Config:
    """Read ``path`` (or ``router.toml`` of the working folder, or nothing but defaults) and everything that adds to it.

    Raises:
        ConfigError: All problems, each as ``file:line:column: key.path: what is wrong, what would do``.
    """
    environment = os.environ if env is None else env
    file = path if path is not None else Path(DEFAULT_NAME) if Path(DEFAULT_NAME).exists() else None
    merger = _Merger()
    if file is not None:
        merger.add(file)
        for extra in sorted((file.parent / "conf.d").glob("*.toml")):
            merger.add(extra)
    merger.environment(environment)
    if merger.problems:
        raise ConfigError(merger.problems)
    try:
        model = ConfigModel.model_validate(merger.values)
    except ValidationError as error:
        raise ConfigError([merger.problem(item["loc"], item) for item in error.errors()]) from None
    return _Builder(model, merger, file).build()


class _Merger:
    """Several files as one table, remembering which file said what."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._origins: dict[KeyPath, tuple[str, Position]] = {}

    def add(self, path: Path) -> None:
        name = path.name if path.parent == Path() else str(path)
        try:
            if path.stat().st_size > MAX_FILE:
                self.problems.append(f"{name}:1:1: larger than {MAX_FILE >> 20} MiB")
                return
            text = path.read_bytes().decode("utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            self.problems.append(f"{name}: cannot be read: {error.strerror}")
            return
        except UnicodeDecodeError as error:
            self.problems.append(f"{name}:1:1: not UTF-8 at byte {error.start}")
            return
        except tomllib.TOMLDecodeError as error:
            line, column = _place(str(error))
            self.problems.append(f"{name}:{line}:{column}: {str(error).rpartition(' (at ')[0] or error}")
            return
        found = positions(text)
        shift = len(self.values.get("listen", [])) if isinstance(self.values.get("listen"), list) else 0
        for key_path, position in found.items():
            if len(key_path) > 1 and key_path[0] == "listen" and isinstance(key_path[1], int):
                key_path = ("listen", key_path[1] + shift, *key_path[2:])
            self._origins.setdefault(key_path, (name, position))
        self._merge(self.values, values, (), name, found)

    def _merge(
        self, into: dict[str, Any], more: dict[str, Any], path: KeyPath, name: str, found: Mapping[KeyPath, Position]
    ) -> None:
        for key, value in more.items():
            at = (*path, key)
            if key not in into:
                into[key] = value
            elif isinstance(into[key], dict) and isinstance(value, dict):
                self._merge(into[key], value, at, name, found)
            elif isinstance(into[key], list) and isinstance(value, list) and at == ("listen",):
                into[key] = into[key] + value
            else:
                line, column = nearest(found, at)
                self.problems.append(f"{name}:{line}:{column}: {_dotted(at)}: is said twice, in another file too")

    def environment(self, env: Mapping[str, str]) -> None:
        for name, text in sorted(env.items()):
            if not name.startswith(PREFIX):
                continue
            keys = [part.lower() for part in name[len(PREFIX) :].split("__")]
            target = self.values
            for key in keys[:-1]:
                step = target.setdefault(key, {})
                if not isinstance(step, dict):
                    self.problems.append(f"{name}: {_dotted(tuple(keys))} is not a table of the configuration")
                    break
                target = step
            else:
                target[keys[-1]] = _scalar(text)
                self._origins[tuple(keys)] = (name, (0, 0))

    def problem(self, location: tuple[str | int, ...], item: Mapping[str, Any]) -> str:
        """A problem that pydantic found, in our words where ours are clearer."""
        text = str(item["msg"])
        if item["type"] == "extra_forbidden":
            text = "unknown key" + self._hint(location)
        elif text.startswith("Value error, "):
            text = text[len("Value error, ") :]
        return self.at(tuple(location), text[:1].lower() + text[1:])

    def at(self, path: KeyPath, text: str) -> str:
        for end in range(len(path), 0, -1):
            origin = self._origins.get(path[:end])
            if origin is not None:
                name, (line, column) = origin
                place = f"{name}:{line}:{column}" if line else name
                return f"{place}: {_dotted(path)}: {text}"
        return f"{_dotted(path)}: {text}"

    @staticmethod
    def _hint(location: tuple[str | int, ...]) -> str:
        model: type[BaseModel] | None = ConfigModel
        for part in location[:-1]:
            model = _step(model, part)
        if model is None:
            return ""
        names = [field.alias or name for name, field in model.model_fields.items()]
        close = difflib.get_close_matches(str(location[-1]), names, 1)
        return f', did you mean "{close[0]}"?' if close else f", use one of {', '.join(names)}"


def _step(model: type[BaseModel] | None, part: str | int) -> type[BaseModel] | None:
    """The model below ``part``: through lists and tables of models by their names."""
    if model is None:
        return None
    field = model.model_fields.get(str(part))
    if field is None:
        return model  # an index, or a name chosen by the site
    kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _place(message: str) -> tuple[int, int]:
    numbers = [int(word) for word in message.replace(",", " ").replace(")", " ").split() if word.isdigit()]
    return (numbers[-2], numbers[-1]) if len(numbers) >= 2 else (1, 1)


def _scalar(text: str) -> Any:
    """An environment variable as TOML would read it; what is no TOML value is a text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


class _Builder:
    """Checked model to values, with the checks that look at several keys at once."""

    def __init__(self, model: ConfigModel, merger: _Merger, file: Path | None) -> None:
        self.model = model
        self.merger = merger
        self.base = file.parent if file is not None else Path()
        self.file = file
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def build(self) -> Config:
        model = self.model
        listeners = tuple(self._listener(index, item) for index, item in enumerate(model.listen))
        names = [listener.name for listener in listeners if listener.port]
        for index, listener in enumerate(listeners):
            if listener.port and names.count(listener.name) > 1:
                self._problem(("listen", index, "bind"), "is bound twice")
        peers = tuple(
            Peer(
                name=name,
                ae_title=item.ae_title,
                addresses=tuple(item.addresses),
                associations=item.associations,
                store=item.store,
                echo=item.echo,
                listeners=tuple(item.listeners),
            )
            for name, item in model.peers.items()
        )
        for name, peer in model.peers.items():
            for bind in peer.listeners:
                if bind not in names:
                    self._problem(("peers", name, "listeners"), f'"{bind}" is not the bind of a [[listen]]')
        destinations = tuple(self._destination(name, item) for name, item in model.destinations.items())
        host, port = parse_bind(model.admin.bind)
        if not _is_loopback(host):
            self._problem(
                ("admin", "bind"),
                "must be a loopback address: this version has no accounts; put a proxy that authenticates in front",
            )
        if not any(listener.accept == "any" for listener in listeners) and not peers:
            self.warnings.append('no [peers] are configured and accept = "known": nobody may send')
        if self.problems:
            raise ConfigError(self.problems)
        limits = Limits(**{key: value for key, value in model.limits.model_dump().items() if value is not None})
        return Config(
            file=self.file,
            node=model.node.name,
            data_dir=self.base / model.node.data_dir,
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
            warnings=tuple(self.warnings),
        )

    def _problem(self, path: KeyPath, text: str) -> None:
        self.problems.append(self.merger.at(path, text))

    def _listener(self, index: int, item: ListenModel) -> Listener:
        host, port = parse_bind(item.bind)
        at: KeyPath = ("listen", index)
        if not _is_loopback(host):
            if item.tls is None:
                self._problem((*at, "tls"), 'must be said for an address beyond loopback: tls = "off" (plain DICOM)')
            if item.accept == "any":
                self.warnings.append(
                    self.merger.at((*at, "accept"), f'"any" on {item.bind}: whoever reaches this port may send')
                )
        return Listener(host=host, port=port, ae_titles=tuple(item.ae_titles), accept=item.accept, max_pdu=item.max_pdu)

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
            duplicate_is_done=item.duplicate_is_done,
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
