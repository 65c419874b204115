"""A-ASSOCIATE-RQ and -AC again, in plain Python: what ``router/ul/pdus.py`` is compared with.

Written to be read beside PS3.8 Tables 9-11 to 9-19 and PS3.7 Annex D.3: first the items as a list, then what each says.
"""

from __future__ import annotations

from typing import Any


class Malformed(Exception):
    """An item reaches beyond what holds it, or there are too many."""


def need(data: bytes, size: int) -> None:
    if len(data) < size:
        raise Malformed


def items_of(data: bytes) -> list[tuple[int, bytes]]:
    """Type (1), reserved (1), length (2), content; until the end."""
    found = []
    while data:
        need(data, 4)
        length = int.from_bytes(data[2:4], "big")
        need(data, 4 + length)
        found.append((data[0], data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def uid(content: bytes) -> str:
    return content.decode("latin-1").strip("\0 ")


def title(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("latin-1").strip(" ")


def counted(data: bytes) -> tuple[bytes, bytes]:
    """A length (2) with what it counts, and the rest."""
    need(data, 2)
    end = 2 + int.from_bytes(data[:2], "big")
    need(data, end)
    return data[2:end], data[end:]


def request(body: bytes, max_contexts: int = 128, max_transfer_syntaxes: int = 64) -> dict[str, Any]:
    """What an A-ASSOCIATE-RQ says. Raises Malformed."""
    need(body, 68)
    contexts: dict[int, tuple[int, str, tuple[str, ...]]] = {}
    application, user = "", user_information(b"")
    for kind, content in items_of(body[68:]):
        if kind == 0x10:
            application = uid(content)
        elif kind == 0x20:
            if len(contexts) == max_contexts:
                raise Malformed
            need(content, 4)
            inside = items_of(content[4:])
            syntaxes = tuple(uid(value) for sub, value in inside if sub == 0x40)
            if len(syntaxes) > max_transfer_syntaxes:
                raise Malformed
            abstract = next((uid(value) for sub, value in inside if sub == 0x30 and uid(value)), "")
            contexts.setdefault(content[0], (content[0], abstract, syntaxes))
        elif kind == 0x50:
            user = user_information(content)
    return {
        "version": int.from_bytes(body[:2], "big"),
        "called": title(body[4:20]),
        "calling": title(body[20:36]),
        "header": body[4:68],
        "application": application,
        "contexts": list(contexts.values()),
        **user,
    }


def accept(body: bytes) -> dict[str, Any]:
    """What an A-ASSOCIATE-AC says. Raises Malformed."""
    need(body, 68)
    contexts: dict[int, tuple[int, int, str]] = {}
    application, user = "", user_information(b"")
    for kind, content in items_of(body[68:]):
        if kind == 0x10:
            application = uid(content)
        elif kind == 0x21:
            need(content, 4)
            syntaxes = [uid(value) for sub, value in items_of(content[4:]) if sub == 0x40]
            syntax = next(filter(None, syntaxes), "")
            contexts.setdefault(content[0], (content[0], content[2], syntax))
        elif kind == 0x50:
            user = user_information(content)
    return {"header": body[4:68], "application": application, "contexts": list(contexts.values()), **user}


def user_information(data: bytes) -> dict[str, Any]:
    """PS3.8 Annex D.1 and PS3.7 Annex D.3.3; of a sub-item that comes twice the last counts."""
    found: dict[str, Any] = {"max_length": 16384, "class": "", "name": "", "window": None, "identity": None}
    found["roles"], found["extended"] = [], []
    for kind, content in items_of(data):
        if kind == 0x51:
            need(content, 4)
            found["max_length"] = int.from_bytes(content[:4], "big")
        elif kind == 0x52:
            found["class"] = uid(content)
        elif kind == 0x53:
            need(content, 4)
            found["window"] = (int.from_bytes(content[:2], "big"), int.from_bytes(content[2:4], "big"))
        elif kind == 0x54:
            name, rest = counted(content)
            need(rest, 2)
            found["roles"].append((uid(name), rest[0] == 1, rest[1] == 1))
        elif kind == 0x55:
            found["name"] = uid(content)
        elif kind == 0x56:
            name, rest = counted(content)
            found["extended"].append((uid(name), rest))
        elif kind == 0x58:
            need(content, 2)
            if 1 <= content[0] <= 5:
                primary, rest = counted(content[2:])
                secondary = counted(rest)[0] if rest else b""
                found["identity"] = (content[0], content[1] == 1, primary, secondary)
    return found
