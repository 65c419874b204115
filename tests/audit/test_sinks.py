"""The audit file: a line for each message, whatever the run before left. The collector: what it has counts as told."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from router.audit import sinks
from router.audit.sinks import CollectorSink, FileSink
from router.model import TlsSettings
from router.net.tls import Credentials
from tests.support.authority import Authority


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("audit-*.log")
    return path


async def test_half_a_line_of_a_killed_run_takes_nothing_with_it(tmp_path: Path) -> None:
    await FileSink(tmp_path / "audit", 0).write([b"first", b"second"])
    path = only_file(tmp_path / "audit")
    path.write_bytes(path.read_bytes()[:-3])
    again = FileSink(tmp_path / "audit", 0)
    await again.write([b"second"])
    await again.write([b"third"])
    assert path.read_bytes() == b"first\nseco\nsecond\nthird\n"


async def test_a_whole_file_gets_no_empty_line(tmp_path: Path) -> None:
    for message in (b"first", b"second"):
        await FileSink(tmp_path / "audit", 0).write([message])
    assert only_file(tmp_path / "audit").read_bytes() == b"first\nsecond\n"


@contextmanager
def collector(folder: Path, *, reads: bool) -> Iterator[tuple[CollectorSink, bytearray]]:
    """One connection to a collector with small buffers, and what it has read."""
    authority = Authority(folder)
    identity = authority.issue("collector", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    read = bytearray()
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as connection:
            while reads and (data := connection.recv(1 << 16)):
                read.extend(data)
            over.wait(30)

    with closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        credentials = Credentials(TlsSettings(place="test", ca=str(authority.file)), server_side=False)
        try:
            yield CollectorSink("localhost", listening.getsockname()[1], credentials), read
        finally:
            over.set()
            thread.join(30)


async def test_a_collector_gets_frames_as_they_were_given(tmp_path: Path) -> None:
    with collector(tmp_path, reads=True) as (sink, read):
        await sink.write([b"first", b"second" * 5000])
        await sink.write([b"third"])
        await sink.check()
        await sink.close()
    assert bytes(read) == b"5 first30000 " + b"second" * 5000 + b"5 third"


async def test_what_a_collector_does_not_take_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "HAND_OVER", 1.0)
    with collector(tmp_path, reads=False) as (sink, _):
        await sink.write([])
        with pytest.raises(OSError, match="does not answer in time"):
            await sink.write([bytes(60_000)])  # less than the transport takes before it says that it is full
