"""``doctor``: is this machine fit to run a router? Looks, measures a few syncs, changes nothing that stays."""

from __future__ import annotations

import importlib
import os
import resource
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from router.app.cli import exits
from router.app.cli.options import config_option, find_config, json_option, print_json
from router.model import SpoolSettings
from router.spool.space import Space

FINE, WARN, BAD = "ok", "warning", "bad"
OPEN_FILES = 65_536
SYNCS = 20
SLOW_SYNC = 0.02
"""Seconds; slower than a worn disk, so it is a network or a virtual one without a cache."""
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre", "afs"))
VOLATILE = frozenset(("tmpfs", "ramfs"))
NATIVE = ("_fastpdu", "_fastdimse", "_walker", "_blocks", "_wire", "_disk", "_lanes", "_record", "_histogram")
COLOURS = {FINE: "green", WARN: "yellow", BAD: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What doctor needs of a configuration, read without the models so that a wrong one does not stop it."""

    data_dir: Path
    binds: tuple[str, ...]
    tls_files: tuple[Path, ...] = ()
    reserve: int | None = None
    """[spool] reserve_associations, bytes; None: the default."""


@click.command(short_help="Is this machine fit to run a router?")
@config_option
@json_option
def doctor(config: Path | None, as_json: bool) -> None:
    """Is this machine fit to run a router? Looks at Python, the native extension, open files, the disk of data_dir
    (kind, room, how long a sync takes), the files of TLS and the ports. Exits 1 if something is bad.

    \b
    Examples:
      dicom-router doctor
      dicom-router doctor -c /etc/dicom-router/router.toml --json
    """
    found = list(examine(_setting(find_config(config))))
    bad = any(finding.verdict == BAD for finding in found)
    if as_json:
        print_json({"fit": not bad, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            verdict = click.style(f"{finding.verdict:<8}", fg=COLOURS[finding.verdict])
            click.echo(f"{verdict} {finding.subject:<14} {finding.text}")
    raise SystemExit(exits.FAILED if bad else exits.OK)


def _setting(config: Path | None) -> Setting:
    from router.app.config_source import ConfigSource

    source = ConfigSource()
    if config is not None:
        for file in (config, *sorted((config.parent / "conf.d").glob("*.toml"))):
            source.add(file)
    source.environment(os.environ)
    if source.problems:
        raise exits.Failure("\n".join(source.problems), exits.BAD_CONFIG)
    table = source.values
    listen = table.get("listen")
    listeners = [one for one in listen if isinstance(one, dict)] if isinstance(listen, list) else [{}]
    binds = [one.get("bind", "127.0.0.1:11112") for one in listeners]
    binds.append(_of(table, "admin", "bind", "127.0.0.1:9180"))
    folder = _of(table, "node", "data_dir", "var")
    return Setting(
        (config.parent if config is not None else Path()) / (folder if isinstance(folder, str) else "var"),
        tuple(bind for bind in binds if isinstance(bind, str)),
        tuple(_tls_files(config, table)),
        _bytes(_of(table, "spool", "reserve_associations", None)),
    )


def _of(table: dict[str, Any], section: str, key: str, default: Any) -> Any:
    keys = table.get(section)
    return keys.get(key, default) if isinstance(keys, dict) else default


def _bytes(value: Any) -> int | None:
    """What is no number of bytes is a matter of ``check``."""
    from router.routing.values import size_in_bytes

    try:
        return int(size_in_bytes(value)) if isinstance(value, str) else value if isinstance(value, int) else None
    except ValueError:
        return None


def _tls_files(config: Path | None, table: dict[str, Any]) -> Iterator[Path]:
    listen, destinations = table.get("listen"), table.get("destinations")
    sections = [*(listen if isinstance(listen, list) else ())]
    sections += destinations.values() if isinstance(destinations, dict) else ()
    for section in sections:
        tls = section.get("tls") if isinstance(section, dict) else None
        for name in ("certificate", "key", "ca", "crl"):
            file = tls.get(name) if isinstance(tls, dict) else None
            if config is not None and isinstance(file, str) and file:
                yield config.parent / file


def examine(setting: Setting) -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it is printed."""
    yield _python()
    yield _extension()
    yield _loop()
    yield _open_files()
    yield _tls(setting.tls_files)
    yield from _disk(setting.data_dir, setting.reserve)
    for bind in setting.binds:
        yield _port(bind)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return Finding("python", FINE if fine else BAD, version if fine else f"{version}: 3.11 or newer is needed")


def _extension() -> Finding:
    try:
        modules = [importlib.import_module(f"router.{name}") for name in NATIVE]
    except ImportError as error:
        return Finding("extension", BAD, f"not built ({error.name or 'import failed'}): run `make venv`")
    return Finding("extension", FINE, ", ".join(Path(module.__file__ or "").name for module in modules))


def _loop() -> Finding:
    try:
        import uvloop
    except ImportError:
        return Finding("event loop", WARN, "asyncio's own; with uvloop the router is faster: pip install uvloop")
    return Finding("event loop", FINE, uvloop.__name__)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        return Finding(
            "open files", FINE, f"{soft} now, up to {'any number' if hard == resource.RLIM_INFINITY else hard}"
        )
    verdict = WARN if hard >= 4096 else BAD
    return Finding(
        "open files", verdict, f"at most {hard}; {OPEN_FILES} is better (LimitNOFILE= of the service, ulimit -n)"
    )


def _tls(files: tuple[Path, ...]) -> Finding:
    """What is in the files is a matter of ``check``."""
    unreadable = [str(file) for file in dict.fromkeys(files) if not os.access(file, os.R_OK)]
    if unreadable:
        return Finding("tls", BAD, f"this user cannot read {', '.join(unreadable)}")
    if not ssl.HAS_TLSv1_3:
        return Finding("tls", WARN, f"{ssl.OPENSSL_VERSION}: without TLS 1.3")
    return Finding("tls", FINE, f"{ssl.OPENSSL_VERSION}, {len(set(files))} files")


def _disk(folder: Path, reserve: int | None) -> Iterator[Finding]:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    kind = filesystem_of(place, _mounts())
    if kind in VOLATILE:
        yield Finding("file system", BAD, f"{folder} is on {kind}: everything is gone after a restart of the machine")
    elif kind in NETWORK:
        yield Finding(
            "file system", WARN, f"{folder} is on {kind}: SQLite and syncs over a network are slow and fragile"
        )
    else:
        yield Finding("file system", FINE, f"{folder} is on {kind or 'an unknown file system'}")
    space = Space(place, SpoolSettings(reserve_associations=reserve))
    space.refresh()
    room, floor = f"{space.free / 1e9:.1f} GB free at {folder}", f"{space.associations_floor / 1e9:.1f} GB"
    if space.below_associations_floor():
        text = f"{room}: senders are refused below {floor} ([spool] reserve_associations); make room"
        yield Finding("room", WARN, text)
    else:
        yield Finding("room", FINE, f"{room}; senders are refused below {floor}")
    try:
        seconds = sync_time(place)
    except OSError as error:
        yield Finding("writing", BAD, f"{place}: {error.strerror}; [node] data_dir must be writable for this user")
        return
    text = f"a sync of 4 KiB takes {seconds * 1000:.2f} ms"
    if seconds < SLOW_SYNC:
        yield Finding("writing", FINE, text)
    else:
        yield Finding("writing", WARN, f"{text}: every answer waits for one")


def sync_time(folder: Path) -> float:
    """The median of a few write-and-fdatasync of 4 KiB in a temporary file there, seconds. Raises OSError."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), 0)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return sorted(taken)[SYNCS // 2]


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""


def filesystem_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds ``path``, by the text of ``/proc/mounts``; empty if it cannot be told."""
    resolved = str(path.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Spaces and the like stand as octal in there.
        point = fields[1].encode().decode("unicode_escape")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _port(bind: str, connect: Callable[..., socket.socket] = socket.create_server) -> Finding:
    host, _, number = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not number.isdigit() or int(number) > 65_535:
        return Finding("port", BAD, f"{bind}: not host:port")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connect((host, int(number)), family=family).close()
    except PermissionError:
        text = f"{bind}: ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= of the service), or use 11112"
        return Finding("port", BAD, text)
    except OSError as error:
        return Finding("port", WARN, f"{bind}: {error.strerror or error}; does a router run already?")
    return Finding("port", FINE, f"{bind} is free")
