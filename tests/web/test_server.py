"""The admin server shares the loop: it takes no signals, ends no process, leaves no socket."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from router.errors import RouterError
from router.observe.metrics import RouterMetrics
from router.web.admin import create_app
from router.web.server import AdminServer, bind
from tests.web.fakes import FakeControl


def server(port: int = 0) -> AdminServer:
    return AdminServer(create_app(FakeControl(), RouterMetrics()), host="127.0.0.1", port=port)


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RouterError, match=f"127.0.0.1:{port}: Address already in use"):
            await server(port).start()


def test_a_name_that_does_not_resolve_is_an_error_that_names_it() -> None:
    with pytest.raises(RouterError, match="no such host"):
        bind("no such host", 1)


async def test_signals_stay_with_the_supervisor() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    admin = server()
    await admin.start()
    assert {number: signal.getsignal(number) for number in before} == before
    await admin.close()
    assert {number: signal.getsignal(number) for number in before} == before


async def test_closing_frees_the_port_though_somebody_keeps_a_connection() -> None:
    admin = server()
    await admin.start()
    port = admin.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
    await admin.close()
    await admin.close()
    writer.close()
    await writer.wait_closed()
    again = server(port)
    await again.start()
    assert again.port == port
    await again.close()


async def test_the_port_is_known_only_while_it_runs() -> None:
    with pytest.raises(RouterError):
        _ = server().port
