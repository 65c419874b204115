"""The admin application: metrics, health, the API of the command line and the console, all over ``ports.Control``.

Knows nothing of the spool, the ledger or the lanes, and binds no socket. Errors are JSON: ``{"error": text}``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.errors import InvalidRequest, LedgerError, NotFound, RouterError, SpoolError
from router.observe.metrics import CONTENT_TYPE
from router.ports import Control
from router.web.guard import MAX_BODY, Guard
from router.web.openapi import document

STATIC = Path(__file__).parent / "static"
DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
MAX_SELECTOR = 128
"""Characters; the longest selector, a UID, has 64."""
MAX_REASON = 200
"""Characters of a reason that an operator gives."""
MAX_DELIVERIES = 10_000


class Exposition(Protocol):
    """What ``/metrics`` shows."""

    async def exposition(self) -> bytes:
        """Text, as ``CONTENT_TYPE`` says."""


def create_app(control: Control, metrics: Exposition, more: Sequence[Route] = ()) -> Starlette:
    """The ASGI application that ``AdminServer`` serves.

    Args:
        control: Called on the loop that serves.
        more: Routes beside those of the API.
    """
    api = _Api(control, metrics)
    routes = [
        Route("/", _static("index.html", "text/html")),
        Route("/console.css", _static("console.css", "text/css")),
        Route("/console.js", _static("console.js", "text/javascript")),
        Route("/metrics", api.metrics),
        Route("/healthz", api.healthz),
        Route("/readyz", api.readyz),
        Route("/-/reload", api.reload, methods=["POST"]),
        Route("/api/v1/openapi.json", api.openapi),
        Route("/api/v1/status", api.status),
        Route("/api/v1/queue", api.queue),
        Route("/api/v1/studies", api.studies),
        Route("/api/v1/trace", api.trace),
        Route("/api/v1/explain", api.explain),
        Route("/api/v1/rules", api.rules),
        Route("/api/v1/dead-letters", api.dead_letters),
        Route("/api/v1/dead-letters/retry", api.retry_dead, methods=["POST"]),
        Route("/api/v1/dead-letters/discard", api.discard_dead, methods=["POST"]),
        Route("/api/v1/destinations/{name}/pause", api.pause, methods=["POST"]),
        Route("/api/v1/destinations/{name}/resume", api.resume, methods=["POST"]),
        Route("/api/v1/resend", api.resend, methods=["POST"]),
        Route("/api/v1/release", api.release, methods=["POST"]),
        *more,
    ]

    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard)],
        exception_handlers={
            HTTPException: _http_error,
            NotFound: _answer_with(404),
            InvalidRequest: _answer_with(400),
            LedgerError: _answer_with(503),
            SpoolError: _answer_with(503),
            RouterError: _answer_with(500),
            Exception: _unexpected,
        },
    )


class _Api:
    def __init__(self, control: Control, metrics: Exposition) -> None:
        self._control = control
        self._metrics = metrics

    # Monitoring ------------------------------------------------------------------------------------------------

    async def metrics(self, _request: Request) -> Response:
        return Response(await self._metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        ready, reasons = self._control.ready()
        if ready:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), status_code=503)

    # Reading ---------------------------------------------------------------------------------------------------

    async def openapi(self, _request: Request) -> Response:
        return JSONResponse(document())

    async def status(self, _request: Request) -> Response:
        return JSONResponse(await self._control.status())

    async def queue(self, request: Request) -> Response:
        destination = request.query_params.get("destination")
        return JSONResponse(await self._control.queue(destination, _limit(request)))

    async def studies(self, request: Request) -> Response:
        query = request.query_params.get("query") or ""
        return JSONResponse(await self._control.studies(_selector(query) if query else "", _limit(request)))

    async def trace(self, request: Request) -> Response:
        return JSONResponse(await self._control.trace(_selector(request.query_params.get("selector"))))

    async def explain(self, request: Request) -> Response:
        return JSONResponse(await self._control.explain(_selector(request.query_params.get("selector"))))

    async def rules(self, _request: Request) -> Response:
        return JSONResponse(await self._control.rules())

    async def dead_letters(self, request: Request) -> Response:
        destination = request.query_params.get("destination")
        return JSONResponse(await self._control.dead_letters(destination, _limit(request)))

    # Acting ----------------------------------------------------------------------------------------------------

    async def reload(self, request: Request) -> Response:
        await _body(request)
        problems = list(await self._control.reload())
        return JSONResponse({"reloaded": not problems, "problems": problems}, status_code=422 if problems else 200)

    async def pause(self, request: Request) -> Response:
        body = await _body(request, reason=str)
        await self._control.pause(request.path_params["name"], _reason(body.get("reason", "")))
        return JSONResponse({"paused": request.path_params["name"]})

    async def resume(self, request: Request) -> Response:
        await _body(request)
        await self._control.resume(request.path_params["name"])
        return JSONResponse({"resumed": request.path_params["name"]})

    async def resend(self, request: Request) -> Response:
        body = await _body(request, selector=str, destination=str)
        return JSONResponse(await self._control.resend(_selector(body.get("selector")), body.get("destination")))

    async def release(self, request: Request) -> Response:
        body = await _body(request, selector=str, destinations=list)
        selector = _selector(body["selector"]) if "selector" in body else None
        destinations = body.get("destinations")
        if destinations is not None and not (destinations and all(isinstance(name, str) for name in destinations)):
            raise InvalidRequest("destinations: a list of names")
        return JSONResponse(await self._control.release(selector, destinations))

    async def retry_dead(self, request: Request) -> Response:
        body = await _body(request, destination=str, deliveries=list)
        deliveries = _deliveries(body["deliveries"]) if "deliveries" in body else None
        return JSONResponse(await self._control.retry_dead(body.get("destination"), deliveries))

    async def discard_dead(self, request: Request) -> Response:
        body = await _body(request, deliveries=list)
        return JSONResponse(await self._control.discard_dead(_deliveries(body.get("deliveries"))))


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit: a number from 1 to {MAX_LIMIT}")
    return int(text)


def _selector(text: str | None) -> str:
    if not text or len(text) > MAX_SELECTOR or not text.isprintable():
        raise InvalidRequest(f"name an object by its id, UID or accession number, up to {MAX_SELECTOR} characters")
    return text


def _reason(text: str) -> str:
    """What can be shown as it is, and written to the ledger: no half of a surrogate pair, which JSON can name."""
    if len(text) > MAX_REASON or not text.isprintable():
        raise InvalidRequest(f"reason: up to {MAX_REASON} printable characters")
    return text


def _deliveries(numbers: list[Any] | None) -> list[int]:
    if not numbers or len(numbers) > MAX_DELIVERIES or not all(_is_key(number) for number in numbers):
        raise InvalidRequest(f"deliveries: 1 to {MAX_DELIVERIES} numbers, as dead-letters lists them")
    return numbers


def _is_key(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 1 << 63


async def _body(request: Request, **known: type) -> dict[str, Any]:
    """The JSON object sent; an empty body is an empty object, null is as good as left out. Raises InvalidRequest."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise HTTPException(413, f"a request body has at most {MAX_BODY} bytes")
    if not raw:
        return {}
    # A form of a foreign page can send anything but this type without the browser asking us first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object")
    body = {key: inner for key, inner in value.items() if inner is not None}
    for key, inner in body.items():
        if key not in known:
            raise InvalidRequest(f"unknown key; known: {', '.join(known) or 'none'}")
        if not isinstance(inner, known[key]):
            raise InvalidRequest(f"{key}: not a {'string' if known[key] is str else 'list'}")
    return body


def _static(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    # Read once: three small files, and the loop waits for no disk later.
    content = (STATIC / name).read_bytes()

    async def serve(_request: Request) -> Response:
        return Response(content, media_type=kind)

    return serve


async def _http_error(_request: Request, error: Exception) -> Response:
    status, text, headers = 500, "", None
    if isinstance(error, HTTPException):
        status, text, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"error": text}, status_code=status, headers=headers)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    # The server logs where it happened; the asker learns no more than that it did.
    return JSONResponse({"error": "internal error; see the log"}, status_code=500)


def _answer_with(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=status)

    return answer
