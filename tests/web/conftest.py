"""A real server on a port of its own, in front of a fake router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from router.observe.metrics import RouterMetrics
from router.web.admin import create_app
from router.web.server import AdminServer
from tests.web.fakes import FakeControl


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Admin:
    control: FakeControl
    metrics: RouterMetrics
    port: int

    async def raw(self, request: bytes) -> Answer:
        """What comes back for these bytes; the request must ask for the connection to be closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Answer(int(lines[0].split()[1]), headers, body)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, b"", **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", path, data, **{"content_type": "application/json", **headers})

    async def ask(self, method: str, path: str, body: bytes, **headers: str) -> Answer:
        named = {"host": f"127.0.0.1:{self.port}", "connection": "close", "content_length": str(len(body)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    control = FakeControl()
    metrics = RouterMetrics(destinations=["pacs"], listeners=["127.0.0.1:11112"], peers=["ct1"])
    server = AdminServer(create_app(control, metrics), host="127.0.0.1", port=0)
    await server.start()
    try:
        yield Admin(control, metrics, server.port)
    finally:
        await server.close()
