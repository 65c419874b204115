"""What ``/api/v1/openapi.json`` says: every path of the admin application, its parameters and answers (OpenAPI 3.1).

The keys inside answers are those of ``ports.Control``; a test holds paths and methods against the application.
"""

from __future__ import annotations

from typing import Any

from router import __version__

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_LIMIT: Schema = {
    "name": "limit",
    "in": "query",
    "description": "Rows at most.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100},
}
_DESTINATION: Schema = {
    "name": "destination",
    "in": "query",
    "description": "Name of a destination; all if left out.",
    "schema": _TEXT,
}
_SELECTOR: Schema = {
    "name": "selector",
    "in": "query",
    "required": True,
    "description": "Instance id, SOP instance, series or study instance UID, or accession number.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_NAME: Schema = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Name of a destination.",
    "schema": _TEXT,
}
_SELECTOR_BODY: Schema = {**_SELECTOR["schema"], "description": _SELECTOR["description"]}
_DELIVERIES: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": 10_000,
    "items": {"type": "integer", "minimum": 1},
    "description": "The `delivery` numbers that `dead-letters` lists.",
}
_REASON: Schema = {"type": "string", "maxLength": 200, "description": "Printable."}
_OBJECT: Schema = {"type": "object"}
_ERROR: Schema = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}


def _rows(*names: str) -> Schema:
    return {"type": "object", "properties": {name: {"type": "array", "items": _OBJECT} for name in names}}


def _counts(*names: str) -> Schema:
    return {"type": "object", "properties": {name: {"type": "integer", "minimum": 0} for name in names}}


def _json(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _text(text: str) -> Schema:
    return {"description": text, "content": {"text/plain": {"schema": _TEXT}}}


_FAILURES: Schema = {
    "400": _json("The request makes no sense; `error` says what would.", _ERROR),
    "403": _json("A page of another site asked.", _ERROR),
    "404": _json("No such destination or object.", _ERROR),
    "413": _json("The body is over 1 MiB.", _ERROR),
    "415": _json("The body is not `application/json`, or is compressed.", _ERROR),
    "503": _json("The ledger or the spool cannot answer.", _ERROR),
}


def _read(summary: str, answer: Schema, *parameters: Schema) -> Schema:
    failures = {status: _FAILURES[status] for status in ("400", "404", "503")}
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {"200": _json("As asked.", answer), **failures},
        }
    }


def _act(summary: str, answer: Schema, body: Schema | None = None, *parameters: Schema, **more: Schema) -> Schema:
    operation: Schema = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": _json("Done.", answer), **more, **_FAILURES},
    }
    if body is not None:
        schema: Schema = {"type": "object", "properties": body, "additionalProperties": False}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return {"post": operation}


def _page(summary: str, kind: str) -> Schema:
    return {"get": {"summary": summary, "responses": {"200": {"description": "As asked.", "content": {kind: {}}}}}}


def document() -> Schema:
    """The whole description, as a JSON object."""
    reload_answer: Schema = {
        "type": "object",
        "properties": {"reloaded": {"type": "boolean"}, "problems": {"type": "array", "items": _TEXT}},
    }
    paths: Schema = {
        "/": _page("The console", "text/html"),
        "/console.css": _page("Its style", "text/css"),
        "/console.js": _page("Its script", "text/javascript"),
        "/metrics": _page("Prometheus metrics", "text/plain"),
        "/healthz": {"get": {"summary": "Is the process alive", "responses": {"200": _text("It is.")}}},
        "/readyz": {
            "get": {
                "summary": "Can senders be served",
                "responses": {"200": _text("They can."), "503": _text("They cannot: one reason a line.")},
            }
        },
        "/-/reload": _act(
            "Read the rules again; anything wrong keeps the old ones",
            reload_answer,
            **{"422": _json("The new rules are wrong; the old ones stay in force.", reload_answer)},
        ),
        "/api/v1/openapi.json": _read("This description", _OBJECT),
        "/api/v1/status": _read("What is going on", _OBJECT),
        "/api/v1/queue": _read("What waits, and why", _rows("destinations", "deliveries"), _DESTINATION, _LIMIT),
        "/api/v1/studies": _read(
            "Studies by UID, accession number or patient id",
            _rows("studies"),
            {
                "name": "query",
                "in": "query",
                "description": "`*` at its end matches any rest; left out: the latest studies.",
                "schema": {"type": "string", "maxLength": 128},
            },
            _LIMIT,
        ),
        "/api/v1/trace": _read("The story of an object", _rows("instances"), _SELECTOR),
        "/api/v1/explain": _read("What the rules in force say of a stored object", _OBJECT, _SELECTOR),
        "/api/v1/rules": _read("The rules in force", _OBJECT),
        "/api/v1/dead-letters": _read("Deliveries given up", _rows("dead_letters"), _DESTINATION, _LIMIT),
        "/api/v1/dead-letters/retry": _act(
            "Try dead letters again: those named, or all",
            _counts("retried"),
            {"destination": _TEXT, "deliveries": _DELIVERIES},
        ),
        "/api/v1/dead-letters/discard": _act(
            "Give dead letters up for good", _counts("discarded"), {"deliveries": _DELIVERIES}
        ),
        "/api/v1/destinations/{name}/pause": _act("Send nothing there", _OBJECT, {"reason": _REASON}, _NAME),
        "/api/v1/destinations/{name}/resume": _act("Send again, now", _OBJECT, {}, _NAME),
        "/api/v1/resend": _act(
            "Owe objects again, to one destination or to all that had them",
            _counts("deliveries"),
            {"selector": _SELECTOR_BODY, "destination": _TEXT},
        ),
        "/api/v1/release": _act(
            "Decide held objects again, or send them to the destinations named",
            _counts("released", "discarded", "still_held"),
            {"selector": _SELECTOR_BODY, "destinations": {"type": "array", "minItems": 1, "items": _TEXT}},
        ),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dicom-router",
            "version": __version__,
            "description": "The admin API. Times are seconds since the epoch, sizes are bytes.",
        },
        "paths": paths,
    }
