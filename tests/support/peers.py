"""Real peers as subprocesses: DCMTK's tools and Orthanc, each on a port of its own, each ended by its id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.ports import free_port

NODELAY = {"TCP_NODELAY": "1"}
"""DCMTK leaves Nagle on unless told; tests that do not measure it turn it off."""


def cannot(why: str) -> NoReturn:
    """This machine cannot show what the test is about: a failure where CI=true, a skip on a developer's machine.

    Every test that gives up because of the machine says so here, so that none is ever left out unnoticed.
    """
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def require(program: str) -> str:
    """The path of a peer's program; see ``cannot`` for one that is missing."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        cannot(f"{program} is not installed")
    return path


def wait_for(condition, seconds: float, what: str) -> None:
    """Poll until ``condition()`` is true; bounded."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextmanager
def storescp(folder: Path, *options: str, port: int | None = None, aet: str = "STORESCP") -> Iterator[int]:
    """DCMTK's storescp, keeping bit-exact files in ``folder``; gives its port."""
    program = require("storescp")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    arguments = [program, "-aet", aet, "+B", "+xa", "-od", str(folder), "-uf", *options, str(port)]
    with running(arguments, folder.parent / f"storescp-{port}.log", NODELAY) as process:
        wait_for(lambda: accepts(port) or process.poll() is not None, 10, "storescp listening")
        if process.poll() is not None:
            raise RuntimeError((folder.parent / f"storescp-{port}.log").read_text())
        yield port


@contextmanager
def orthanc(
    folder: Path, *, aet: str = "ORTHANC", settings: Mapping[str, object] | None = None
) -> Iterator[tuple[int, int]]:
    """Orthanc with everything in ``folder``; gives (DICOM port, HTTP port)."""
    program = require("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    dicom, http = free_port(), free_port()
    configuration: dict[str, object] = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomAet": aet,
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "UnknownSopClassAccepted": True,
        "Plugins": [],
        "StorageCompression": False,
        "OverwriteInstances": True,
    }
    configuration.update(settings or {})
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with running([program, str(path)], folder / "orthanc.log", NODELAY) as process:
        wait_for(lambda: (accepts(dicom) and accepts(http)) or process.poll() is not None, 30, "Orthanc listening")
        if process.poll() is not None:
            raise RuntimeError((folder / "orthanc.log").read_text())
        yield dicom, http
