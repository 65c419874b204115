"""Who may talk to the admin API: programs on this machine and the console's own page, no web site in a browser here.

The API has no accounts and so listens on loopback only, which keeps other machines out but not the browser of somebody
working on this one. Two checks keep foreign pages out:

* The Host must be an address or ``localhost``. A name could be a foreign one that its owner points at 127.0.0.1 (DNS
  rebinding), and would then be "same origin".
* A request that changes something must not come from another origin, by ``Origin`` and ``Sec-Fetch-Site``, both of
  which a page cannot forge. Programs send neither.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset(("GET", "HEAD"))
MAX_BODY = 1 << 20
"""Bytes of a request body."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware: refuses what is said above with 400, 403, 413 or 415, adds the security headers to every
    answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = _refusal(scope["method"], Headers(scope=scope))
        answer: ASGIApp = self.app if refusal is None else refusal

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await answer(scope, receive, send_guarded)


def _refusal(method: str, headers: Headers) -> JSONResponse | None:
    host = headers.get("host", "")
    if not own_host(host):
        return _error(400, "ask by address or as localhost")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length[:12]) > MAX_BODY:
        return _error(413, f"a request body has at most {MAX_BODY} bytes")
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        return _error(415, "send the body as it is: nothing is unpacked here")
    if method in SAFE_METHODS:
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return _error(403, "requests of other origins change nothing here")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return _error(403, "requests of other sites change nothing here")
    return None


def own_host(host: str) -> bool:
    """Whether a Host header names us by an address or ``localhost``, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)
