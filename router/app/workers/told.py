"""What one worker is told by the front: things that an operator did through another worker, and that the ledger has
already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from router.app.router import Router

PAUSED = "/-/told/paused"
RESUMED = "/-/told/resumed"
OWED = "/-/told/owed"


def socket_of(data_dir: Path, worker: int) -> Path:
    """Where a worker serves its admin application."""
    return data_dir / f"worker-{worker}.sock"


def told_routes(router: Router) -> list[Route]:
    """The routes of this worker beside those of the API. Bodies are ``{"destination": name, "reason": text}``."""

    async def paused(request: Request) -> None:
        body = await request.json()
        router.lanes[body["destination"]].pause(body["reason"])

    async def resumed(request: Request) -> None:
        body = await request.json()
        router.lanes[body["destination"]].resume()

    async def owed(_request: Request) -> None:
        for lane in router.lanes.values():
            lane.backlog()

    return [
        Route(path, _answering(work), methods=["POST"])
        for path, work in ((PAUSED, paused), (RESUMED, resumed), (OWED, owed))
    ]


def _answering(work: Callable[[Request], Awaitable[None]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        await work(request)
        return JSONResponse({})

    return answer
