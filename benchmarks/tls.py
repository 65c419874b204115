"""What TLS costs, beside plain DICOM in the same run.

    python -m benchmarks.tls
    python -m benchmarks.tls --bytes 8MiB --objects 4 --rounds 1     # does it still run?

Two tables, medians over rounds in which all ways take turns:

* one connection into a process that drops what it gets: ``plain``; ``tls``, our own transport (``router/net/tls_transport.py``);
  ``tls of the loop``, uvloop's, with the same ``BufferedProtocol``; ``tls, data_received``, uvloop's with a ``Protocol``
* objects through the router to one destination: plain on both sides, and TLS on both sides. Sender and sink are our own, and
  share the processors with the router; what arrives is compared by hash.

TLS is 1.3 with AES-256-GCM and certificates of both sides on P-256. CPU is that of the receiving process and of the router.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.cut_through import bytes_of
from benchmarks.flow import MIB, cpu_of, process, wait_ready
from router.model import Limits, Listener, Origin, TlsSettings
from router.net.admission import Gate
from router.net.dialer import associate
from router.net.listener import ListeningServer
from router.net.tls import Credentials
from router.net.tls_transport import TlsTransport
from router.observe.logs import configure_logging, get_logger
from router.observe.metrics import RouterMetrics
from router.services.acceptor import serving
from router.services.storage_scu import StorageScu, propose
from router.ul.association import AssociationSettings
from tests.support.ports import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
WAYS = ("plain", "tls", "tls of the loop", "tls, data_received")
WINDOW = 8


def make_files(folder: Path) -> TlsSettings:
    """A CA and one certificate that everybody shows."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca, ca_key, certificate, key = (str(folder / name) for name in ("ca.pem", "ca.key", "node.pem", "node.key"))
    commands = (
        ["req", "-x509", *curve, "-subj", "/CN=benchmark CA", "-keyout", ca_key, "-out", ca],
        [
            "req", "-x509", *curve, "-subj", "/CN=benchmark", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE", "-CA", ca, "-CAkey", ca_key,
            "-keyout", key, "-out", certificate,
        ],
    )  # fmt: skip
    for command in commands:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    Path(key).chmod(0o600)
    return TlsSettings(certificate=certificate, key=key, ca=ca)


# One connection --------------------------------------------------------------------------------------------


class Buffered(asyncio.BufferedProtocol):
    """Drops what it gets; ends the loop's work when the connection ends."""

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self.view = memoryview(bytearray(256 << 10))
        self.ended = ended

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Pieces(asyncio.Protocol):
    def __init__(self, ended: asyncio.Future[None]) -> None:
        self.ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def drop(way: str, tls: TlsSettings) -> None:
    """The receiving process: prints its port, takes one connection, ends with it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    credentials = Credentials(tls, server_side=True)
    context = credentials.context if "of the loop" in way or "data_received" in way else None
    made: dict[str, Callable[[], Any]] = {
        "plain": lambda: Buffered(ended),
        "tls": lambda: TlsTransport(Buffered(ended), credentials, loop),
        "tls of the loop": lambda: Buffered(ended),
        "tls, data_received": lambda: Pieces(ended),
    }
    server = await loop.create_server(made[way], "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended
    server.close()


def pour(way: str, tls: TlsSettings, folder: Path, size: int) -> tuple[float, float]:
    """MB/s into the receiving process, and its CPU seconds per GB."""
    command = [sys.executable, "-m", "benchmarks.tls", "--role", way, "--folder", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(child.stdout.readline())  # type: ignore[union-attr]
        raw: socket.socket = socket.create_connection(("127.0.0.1", port))
        if way != "plain":
            context = Credentials(tls, server_side=False).context
            raw = context.wrap_socket(raw, server_hostname="127.0.0.1")
        block = bytes(MIB)
        before, started = cpu_of(child.pid), time.monotonic()
        for _ in range(size // MIB):
            raw.sendall(block)
        # The end comes when everything before it has been read.
        if isinstance(raw, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                raw = raw.unwrap()
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass
        seconds, cpu = time.monotonic() - started, cpu_of(child.pid) - before
        raw.close()
        child.wait(20)
    finally:
        child.kill()
        child.wait(10)
        child.stdout.close()  # type: ignore[union-attr]
    return size / seconds / 1e6, cpu / (size / 1e9)


# Through the router ----------------------------------------------------------------------------------------


def data_set(number: int, size: int) -> tuple[str, bytes]:
    """A small CT in explicit VR: UID, data set."""
    uid = f"2.25.{10**20 + number}"

    def element(group: int, tag: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return group.to_bytes(2, "little") + tag.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value

    head = element(8, 0x16, b"UI", CT.encode()) + element(8, 0x18, b"UI", uid.encode())
    head += element(0x20, 0x0D, b"UI", b"2.25.1") + element(0x20, 0x0E, b"UI", b"2.25.2")
    pixels = hashlib.sha256(uid.encode()).digest() * (size // 32)
    return uid, head + b"\xe0\x7f\x10\0OW\0\0" + len(pixels).to_bytes(4, "little") + pixels


class Drop:
    """Implements ``ports.Reception``: only the hash stays."""

    congested = False

    def __init__(self, found: dict[str, str], uid: str, arrived: Callable[[], None]) -> None:
        self.found, self.uid, self.arrived = found, uid, arrived
        self.hash = hashlib.blake2b(digest_size=16)

    read = None

    def write(self, fragment: memoryview) -> None:
        self.hash.update(fragment)

    def finish(self, done: Callable[[int, str], None]) -> None:
        self.found[self.uid] = self.hash.hexdigest()
        done(0, "")
        self.arrived()

    def discard(self) -> None:
        pass


class DropIntake:
    """Implements ``ports.Intake``."""

    def __init__(self, arrived: Callable[[], None]) -> None:
        self.found: dict[str, str] = {}
        self.arrived = arrived

    def begin(self, origin: Origin, *, sop_instance: str, **_: Any) -> Drop:
        return Drop(self.found, sop_instance, self.arrived)


class Open:
    """Implements ``ports.Admission``."""

    def refusal(self) -> None:
        return None


class Memory:
    """Implements ``ports.DataSource``."""

    def __init__(self, data: bytes) -> None:
        self.size, self.buffers = len(data), (data,)


async def route(secure: bool, tls: TlsSettings, folder: Path, size: int, objects: int) -> tuple[float, float]:
    """MB/s from the first byte sent to the last object at the sink, and the router's CPU seconds per GB."""
    log = get_logger()
    listener = Listener(host="127.0.0.1", port=0, ae_titles=("*",), accept="any", tls=tls if secure else None)
    metrics = RouterMetrics(destinations=[], listeners=[listener.name], peers=[], rules=[], process=False)
    complete = asyncio.Event()
    intake = DropIntake(lambda: complete.set() if len(intake.found) == objects else None)
    credentials = Credentials(tls, server_side=True) if secure else None
    sink = ListeningServer(
        listener, Limits(), Gate(Limits(), (), Open()), serving(intake, log=log),  # type: ignore[arg-type]
        metrics=metrics.listener(listener.name), log=log, credentials=credentials,
    )  # fmt: skip
    await sink.start()
    port, admin = free_port(), free_port()
    files = f'certificate = "{tls.certificate}", key = "{tls.key}", ca = "{tls.ca}"'
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "all.toml").write_text('[[rule]]\nname = "all"\nto = ["sink"]\n')
    (folder / "router.toml").write_text(
        f'[node]\nname = "bench"\ndata_dir = "{folder / "data"}"\n'
        f'[[listen]]\nbind = "127.0.0.1:{port}"\naccept = "any"\ntls = {f"{{ {files} }}" if secure else json.dumps("off")}\n'
        f'[rules]\npath = "{folder / "rules"}"\n[admin]\nbind = "127.0.0.1:{admin}"\n'
        '[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\n'
        f'[destinations.sink]\nurl = "{"dicoms" if secure else "dicom"}://SINK@127.0.0.1:{sink.port}"\n'
        + (f"tls = {{ {files} }}\n" if secure else "")
    )
    command = [sys.executable, "-m", "router.app.cli", "run", "-c", str(folder / "router.toml")]
    with contextlib.ExitStack() as running:
        child = running.enter_context(process(command, folder / "router.log"))
        await asyncio.to_thread(wait_ready, admin, child)
        sent = dict(data_set(number, size) for number in range(objects))
        before, started = cpu_of(child.pid), time.monotonic()
        await asyncio.gather(*(send(secure, tls, port, dict(list(sent.items())[part::4])) for part in range(4)))
        await asyncio.wait_for(complete.wait(), 300)
        seconds, cpu = time.monotonic() - started, cpu_of(child.pid) - before
        await asyncio.to_thread(running.close)  # while it ends, the sink answers its A-RELEASE-RQs
    await sink.close()
    if intake.found != {uid: hashlib.blake2b(data, digest_size=16).hexdigest() for uid, data in sent.items()}:
        raise RuntimeError("what arrived is not what was sent")
    total = sum(map(len, sent.values()))
    return total / seconds / 1e6, cpu / (total / 1e9)


async def send(secure: bool, tls: TlsSettings, port: int, objects: dict[str, bytes]) -> None:
    connection = await associate(
        "127.0.0.1", port, propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="BENCH", async_operations=WINDOW),
        AssociationSettings(idle_timeout=None), connect_timeout=20, log=get_logger(),
        credentials=Credentials(replace(tls), server_side=False) if secure else None,
    )  # fmt: skip
    scu = StorageScu(connection, log=get_logger())
    waiting: set[asyncio.Future[Any]] = set()
    for uid, data in objects.items():
        while not scu.room:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        info = argparse.Namespace(sop_class=CT, sop_instance=uid, transfer_syntax=EXPLICIT, move_originator=None)
        waiting.add(scu.store(info, Memory(data)))  # type: ignore[arg-type]
    if waiting:
        await asyncio.wait(waiting)
    await scu.release()


# The tables ------------------------------------------------------------------------------------------------


def table(title: str, found: dict[str, list[tuple[float, float]]]) -> Iterator[str]:
    yield title
    yield f"{'':24}{'MB/s':>8}{'of plain':>10}{'CPU s/GB':>10}"
    base = statistics.median(rate for rate, _ in found["plain"])
    for way, rounds in found.items():
        rate = statistics.median(rate for rate, _ in rounds)
        yield f"{way:24}{rate:8.0f}{rate / base:10.2f}{statistics.median(cpu for _, cpu in rounds):10.2f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bytes", type=bytes_of, default=bytes_of("512MiB"), help="over the one connection")
    parser.add_argument("--size", type=bytes_of, default=bytes_of("0.5MiB"), help="of an object through the router")
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where certificates and spools lie")
    parser.add_argument("--role", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.role:
        files = {name: str(options.folder / f"{file}") for name, file in
                 (("certificate", "node.pem"), ("key", "node.key"), ("ca", "ca.pem"))}  # fmt: skip
        uvloop.run(drop(options.role, TlsSettings(**files)))
        return 0
    configure_logging("json", level="error")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.umask(0o077)
        tls = make_files(folder)
        poured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        routed: dict[str, list[tuple[float, float]]] = {"plain": [], "tls": []}
        for number in range(options.rounds):
            for way in WAYS:
                poured[way].append(pour(way, tls, folder, options.bytes))
            for way in routed:
                into = folder / f"{way}-{number}"
                routed[way].append(uvloop.run(route(way == "tls", tls, into, options.size, options.objects)))
    print(f"medians of {options.rounds}")
    print(*table(f"one connection, {options.bytes // MIB} MiB", poured), sep="\n")
    print(
        *table(f"the router, {options.objects} objects of {options.size // 1024} KiB, 1 destination", routed), sep="\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
