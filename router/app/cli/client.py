"""Asking the running router over its admin API, with nothing but the standard library: these commands start at once.

The address is ``--url``, else ``[admin] bind`` of the configuration with its ``conf.d`` and environment, read without
the models: a configuration that is wrong elsewhere still leads to the router that runs by an earlier version of it.
"""

from __future__ import annotations

import json
import os
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.app.cli import exits
from router.app.cli.exits import Failure
from router.app.cli.options import find_config

DEFAULT_BIND = "127.0.0.1:9180"
TIMEOUT = 60.0
"""Seconds; a large ``resend`` takes a while."""
MAX_ANSWER = 256 << 20

_CODES = {400: exits.USAGE, 422: exits.BAD_CONFIG, 503: exits.TRY_LATER}


class AdminClient:
    """One router's admin API.

    Args:
        config: As given by ``-c``; None looks in the usual places.
        url: As given by ``--url``; wins over the configuration.
    """

    def __init__(self, config: Path | None = None, url: str | None = None) -> None:
        self.base = _normal(url) if url else f"http://{admin_bind(find_config(config), os.environ)}"
        # A proxy of the environment must not see loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Raises Failure with a text for people and the right exit code."""
        given = {name: value for name, value in query.items() if value is not None}
        if given:
            path = f"{path}?{urllib.parse.urlencode(given)}"
        return self._ask(urllib.request.Request(self.base + path))  # noqa: S310 (scheme checked by _normal)

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """The same; values of None are left out."""
        data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        request = urllib.request.Request(  # noqa: S310 (scheme checked by _normal)
            self.base + path, data=data, headers={"Content-Type": "application/json"}, method="POST"
        )
        return self._ask(request)

    def _ask(self, request: urllib.request.Request) -> dict[str, Any]:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                value = json.loads(answer.read(MAX_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read(1 << 20)) from None
        except (urllib.error.URLError, OSError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                raise Failure(
                    f"the router at {self.base} gave no answer within {TIMEOUT:.0f} s; what was asked of it may go on",
                    exits.TRY_LATER,
                ) from None
            text = getattr(reason, "strerror", None) or str(reason) or "no answer"
            raise Failure(
                f"no router answers at {self.base}: {text}\n"
                "Is it running? Start it with `dicom-router run`, or name its admin address with --url or -c FILE.",
                exits.UNREACHABLE,
            ) from None
        except ValueError:
            raise Failure(
                f"{self.base} answers, but not as a dicom-router does; see --url", exits.UNREACHABLE
            ) from None
        if not isinstance(value, dict):
            raise Failure(f"{self.base} answers, but not as a dicom-router does; see --url", exits.UNREACHABLE)
        return value


def destination_path(name: str, action: str) -> str:
    """Path of an action on a destination."""
    return f"/api/v1/destinations/{urllib.parse.quote(name, safe='')}/{action}"


def _refused(status: int, body: bytes) -> Failure:
    try:
        value = json.loads(body)
        text = value.get("error") or "\n".join(value.get("problems", ()))
    except (ValueError, AttributeError, TypeError):
        text = ""
    return Failure(text or f"the router answered with HTTP status {status}", _CODES.get(status, exits.FAILED))


def _normal(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Failure(f"--url {url}: should be like http://127.0.0.1:9180", exits.USAGE)
    return text.rstrip("/")


def admin_bind(config: Path | None, env: Mapping[str, str]) -> str:
    """host:port of the admin API, as the configuration says. Raises Failure if a file cannot be read."""
    found = DEFAULT_BIND
    files = [] if config is None else [config, *sorted((config.parent / "conf.d").glob("*.toml"))]
    for path in files:
        try:
            section = tomllib.loads(path.read_text("utf-8-sig")).get("admin", {})
        except (OSError, ValueError) as error:
            raise Failure(f"{path}: {error}", exits.BAD_CONFIG) from None
        if isinstance(section, dict) and isinstance(section.get("bind"), str):
            found = section["bind"]
    found = env.get("DICOM_ROUTER__ADMIN__BIND", found)
    host, _, port = found.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("", "0.0.0.0", "*") else found  # noqa: S104 (where to ask, not to bind)
