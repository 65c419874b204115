"""The admin application on a Unix socket."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from router.errors import RouterError
from router.observe.metrics import RouterMetrics
from router.web.admin import create_app
from router.web.local import NoAnswer, ask, bind_local
from router.web.server import AdminServer
from tests.web.fakes import FakeControl


@pytest.mark.parametrize("length", [10, 200])
async def test_asking_over_a_path_of_any_length(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("d" * length)
    folder.mkdir()
    path = folder / "worker-0.sock"
    path.touch()  # left behind
    control = FakeControl()
    server = AdminServer(create_app(control, RouterMetrics(process=False)), path=path)
    await server.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, "GET", "/healthz", b"", 10) == (200, b"ok\n")
        status, body = await ask(path, "POST", "/api/v1/destinations/pacs/pause", b'{"reason": "x"}', 10)
        assert (status, body) == (200, b'{"paused":"pacs"}')
        assert ("pause", "pacs", "x") in control.calls
        assert (await ask(path, "GET", "/nowhere", b"", 10))[0] == 404
        with pytest.raises(RouterError):
            _ = server.port
    finally:
        await server.close()
    assert not path.exists()


async def test_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.sock"
    with pytest.raises(NoAnswer) as caught:
        await ask(path, "GET", "/", b"", 1)
    assert not caught.value.asked
    path.touch()
    with pytest.raises(NoAnswer) as caught:
        await ask(path, "GET", "/", b"", 1)
    assert not caught.value.asked


async def test_somebody_listens_and_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.sock"
    listening = bind_local(path)
    try:
        with pytest.raises(NoAnswer) as caught:
            await ask(path, "POST", "/", b"", 0.05)
        assert caught.value.asked, "it may have been done"
    finally:
        listening.close()


async def test_an_answer_that_ends_early_is_none(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.sock"

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    server = await asyncio.start_unix_server(hang_up, path)
    async with server:
        with pytest.raises(NoAnswer, match="to the end"):
            await ask(path, "GET", "/", b"", 10)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"worker-0\.sock"):
        bind_local(tmp_path / "nowhere" / "worker-0.sock")
