"""The receivers that are compared, each started as its documentation says, with nothing tuned for the test.

What a receiver has kept is asked of it as a user would ask: by its files, or after it was started again.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pynetdicom
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from tests.support.peers import NODELAY, accepts, require, running, wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess

Kept = dict[str, set[str]]
"""SOP Instance UID: SHA-256 of the pixel data of what is kept under it."""
DAMAGED = ""
"""In place of a UID: files that are no whole instance."""


@dataclass(frozen=True)
class Serving:
    port: int
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Subject:
    """One receiver.

    ``serve(disk, folder)`` runs it with its objects on ``disk`` and everything else in ``folder``; ``kept(disk,
    folder)`` is asked when it does not run.
    """

    name: str
    serve: Callable[[Path, Path], AbstractContextManager[Serving]]
    kept: Callable[[Path, Path], Kept]
    ours: bool = False


def read(contents: Iterable[bytes]) -> Kept:
    """What Part 10 files hold; a file that is not whole counts as damaged."""
    kept: Kept = {}
    for content in contents:
        digest = hashlib.sha256(content).hexdigest()
        try:
            instance = dcmread(io.BytesIO(content))
            pixels = instance.PixelData
            whole = len(pixels) == instance.Rows * instance.Columns * 2
            uid = str(instance.SOPInstanceUID) if whole else DAMAGED
            digest = hashlib.sha256(pixels).hexdigest() if whole else digest
        except (InvalidDicomError, EOFError, AttributeError, KeyError, ValueError, OSError, RecursionError):
            uid = DAMAGED
        kept.setdefault(uid, set()).add(digest)
    return kept


def files(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.read_bytes()


@contextmanager
def serving(command: list[str], port: int, log: Path) -> Iterator[Serving]:
    with running(command, log, NODELAY) as process:
        wait_for(lambda: accepts(port) or process.poll() is not None, 30, f"{command[0]} listening")
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])
        yield Serving(port, process)


def storescp(disk: Path, folder: Path) -> AbstractContextManager[Serving]:
    port = free_port()
    store = disk / "store"
    store.mkdir(exist_ok=True)
    command = [require("storescp"), "+xa", "-uf", "-od", str(store), str(port)]
    return serving(command, port, folder / "storescp.log")


def pynetdicom_storescp(disk: Path, folder: Path) -> AbstractContextManager[Serving]:
    port = free_port()
    store = disk / "store"
    store.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "pynetdicom", "storescp", "-od", str(store), str(port)]
    return serving(command, port, folder / "pynetdicom.log")


def stored_files(disk: Path, folder: Path) -> Kept:
    return read(files(disk / "store"))


@contextmanager
def orthanc(disk: Path, folder: Path) -> Iterator[Serving]:
    with orthanc_with_http(disk, folder) as (server, _):
        yield server


@contextmanager
def orthanc_with_http(disk: Path, folder: Path) -> Iterator[tuple[Serving, int]]:
    port, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(disk / "store"),
        "IndexDirectory": str(disk / "store"),
        "DicomPort": port,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with serving([require("Orthanc"), str(path)], port, folder / "orthanc.log") as server:
        wait_for(lambda: accepts(http), 30, "Orthanc's HTTP server")
        yield server, http


def orthanc_kept(disk: Path, folder: Path) -> Kept:
    """What it knows when it runs again; the files that it does not know are damaged."""

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=30) as answer:
            content: bytes = answer.read()
            return content

    contents, unreadable = [], 0
    with orthanc_with_http(disk, folder) as (_, http):
        instances = json.loads(get("/instances"))
        for instance in instances:
            try:
                contents.append(get(f"/instances/{instance}/file"))
            except OSError:
                unreadable += 1
    kept = read(contents)
    known = {hashlib.sha256(content).hexdigest() for content in contents}
    for path in sorted((disk / "store").glob("??/**/*")):
        if path.is_file() and (digest := hashlib.sha256(path.read_bytes()).hexdigest()) not in known:
            kept.setdefault(DAMAGED, set()).add(f"{digest} {path.name}")
    if unreadable:
        kept.setdefault(DAMAGED, set()).add(f"{unreadable} known and not there")
    return kept


GAUGES = 2.0
"""Seconds after which the router's gauges have looked at its queues again."""
SPOOL = """
[spool]
segment_size = "4MiB"
reserve_associations = "16MiB"
reserve_objects = "8MiB"
"""
"""The reserves of a large disk do not fit on the small ones here."""


def router_on(disk: Path, folder: Path) -> RouterProcess:
    (disk / "data").mkdir(mode=0o700, exist_ok=True)
    archive = folder / "archive"
    archive.mkdir(exist_ok=True)
    router = RouterProcess(folder / "router", {"archive": f"file:{archive}"}, extra=SPOOL)
    router.config.write_text(router.config.read_text().replace(str(router.folder / "data"), str(disk / "data")))
    return router


@contextmanager
def dicom_router(disk: Path, folder: Path) -> Iterator[Serving]:
    router = router_on(disk, folder)
    router.start()
    process = router.process
    if process is None:
        raise RuntimeError("the router does not run")
    try:
        yield Serving(router.port, process)
        if process.poll() is None:
            router.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def delivered(disk: Path, folder: Path) -> Kept:
    """What it delivers when it runs again: that is what its answers promised."""
    router = router_on(disk, folder)
    router.start()
    settled = time.monotonic() + 2 * GAUGES
    try:
        wait_for(
            lambda: time.monotonic() > settled and not router.metric("dicom_router_queue_depth"),
            120,
            "delivery of everything kept",
        )
        router.stop()
    finally:
        router.kill()
    return read(files(folder / "archive"))


def version(*command: str) -> str:
    done = subprocess.run([require(command[0]), *command[1:]], capture_output=True, text=True, timeout=30, check=False)
    return next((word.lstrip("v") for word in done.stdout.split() if word.lstrip("v")[:1].isdigit()), "")


def subjects() -> dict[str, Callable[[], Subject]]:
    """By a short name; made when asked for, as a program may be missing."""
    return {
        "storescp": lambda: Subject(f"DCMTK {version('storescp', '--version')} storescp", storescp, stored_files),
        "pynetdicom": lambda: Subject(
            f"pynetdicom {pynetdicom.__version__} storescp", pynetdicom_storescp, stored_files
        ),
        "orthanc": lambda: Subject(f"Orthanc {version('Orthanc', '--version')}", orthanc, orthanc_kept),
        "dicom-router": lambda: Subject("dicom-router", dicom_router, delivered, ours=True),
    }
