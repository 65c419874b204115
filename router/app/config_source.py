"""Where the configuration comes from: files and the environment merged to one table that remembers who said what.

Knows no values, only keys: what is said twice, which variable overrides which key, and where a problem stands.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from router.app.config_model import ConfigModel
from router.toml_positions import KeyPath, Position, in_order, nearest, positions, syntax_problem

PREFIX = "DICOM_ROUTER__"
OTHER_VARIABLES = frozenset(("DICOM_ROUTER_CONFIG", "DICOM_ROUTER_URL"))
"""Of the command line."""
MAX_FILE = 4 << 20


class ConfigSource:
    """Several files and the environment as one table, remembering who said what."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._origins: dict[KeyPath, tuple[str, Position]] = {}
        self._files: list[str] = []

    def add(self, path: Path) -> None:
        name = path.name if path.parent == Path() else str(path)
        self._files.append(name)
        text = ""
        try:
            if path.stat().st_size > MAX_FILE:
                self.problems.append(f"{name}:1:1: larger than {MAX_FILE >> 20} MiB")
                return
            # Editors of Windows begin a file with a mark that TOML does not know.
            text = path.read_bytes().decode("utf-8-sig")
            values = tomllib.loads(text)
            found = positions(text)
        except OSError as error:
            self.problems.append(f"{name}:1:1: cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self.problems.append(f"{name}:1:1: not UTF-8 at byte {error.start}")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(syntax_problem(name, text, str(error)))
        except RecursionError:
            self.problems.append(f"{name}:1:1: is nested too deep")
        else:
            self._take(values, name, found)

    def _take(self, values: dict[str, Any], name: str, found: Mapping[KeyPath, Position]) -> None:
        listeners = self.values.get("listen", [])
        shift = len(listeners) if isinstance(listeners, list) else 0
        for path, position in found.items():
            if len(path) > 1 and path[0] == "listen" and isinstance(path[1], int):
                path = ("listen", path[1] + shift, *path[2:])
            self._origins.setdefault(path, (name, position))
        problems: list[str] = []
        for key, value in values.items():
            known = self.values.get(key)
            if known is None:
                self.values[key] = value
            elif key == "listen" and isinstance(known, list) and isinstance(value, list):
                self.values[key] = known + value
            elif isinstance(known, dict) and isinstance(value, dict):
                # One level only: a peer or destination that two files speak of is a mistake, not two halves.
                for name_within, item in value.items():
                    if name_within in known:
                        problems.append(self._twice(name, found, (key, name_within)))
                    else:
                        known[name_within] = item
            else:
                problems.append(self._twice(name, found, (key,)))
        self.problems += in_order(name, problems)

    def _twice(self, name: str, found: Mapping[KeyPath, Position], path: KeyPath) -> str:
        line, column = nearest(found, path)
        other, (other_line, _) = self._origins.get(path, ("", (0, 0)))
        return f"{name}:{line}:{column}: {_dotted(path)}: is said twice, also at {other}:{other_line}"

    def environment(self, env: Mapping[str, str]) -> None:
        for name, text in sorted(env.items()):
            if name.startswith(PREFIX):
                self._override(name, text)
            elif name.startswith(PREFIX[:-1]) and name not in OTHER_VARIABLES:
                self.warnings.append(f"{name}: is not used; an override has two underscores, {PREFIX}SECTION__KEY")

    def _override(self, name: str, text: str) -> None:
        """One variable: its parts are keys in any case, indices of lists, and names that are known or new."""
        target: Any = self.values
        path: KeyPath = ()
        parts = name[len(PREFIX) :].split("__")
        for part in parts[:-1]:
            key = self._key(target, part)
            path = (*path, key)
            if isinstance(target, dict):
                target = target.setdefault(str(key), {})
            elif isinstance(target, list) and isinstance(key, int):
                target = target[key]
            else:
                self.problems.append(f"{name}: {_dotted(path)}: there is no such table or element to override")
                return
        key = self._key(target, parts[-1])
        path = (*path, key)
        value = _value(text, path)
        self._origins[path] = (name, (0, 0))
        if isinstance(target, dict):
            target[str(key)] = value
        elif isinstance(target, list) and isinstance(key, int):
            target[key] = value
        else:
            self.problems.append(f"{name}: {_dotted(path)}: there is no such key or element to override")

    @staticmethod
    def _key(target: Any, part: str) -> str | int:
        """The key that a part of a variable's name means: variables have capitals only, and no hyphens."""
        if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
            return int(part)
        if isinstance(target, dict):
            for key in target:
                if key.upper().replace("-", "_").replace(".", "_") == part.upper():
                    return str(key)
        return part.lower()

    def all_problems(self, error: ValidationError) -> list[str]:
        """What pydantic found, in our words where ours are clearer."""
        found: list[tuple[KeyPath, str]] = []
        for item in error.errors():
            path = tuple(part for part in item["loc"] if part != "[key]")
            found.append((path, _wording(path, item)))
        return self.told(found)

    def told(self, problems: Iterable[tuple[KeyPath, str]]) -> list[str]:
        """Problems with their places in front, each file from its top to its bottom."""
        return [self.at(path, text) for path, text in sorted(problems, key=lambda problem: self._order(problem[0]))]

    def _origin(self, path: KeyPath) -> tuple[str, Position]:
        for end in range(len(path), 0, -1):
            origin = self._origins.get(path[:end])
            if origin is not None:
                return origin
        return "", (0, 0)

    def _order(self, path: KeyPath) -> tuple[int, Position]:
        name, position = self._origin(path)
        return (self._files.index(name) if name in self._files else len(self._files), position)

    def at(self, path: KeyPath, text: str) -> str:
        """The text with the place of its key in front."""
        name, (line, column) = self._origin(path)
        place = f"{name}:{line}:{column}: " if line else f"{name}: " if name else ""
        return f"{place}{_dotted(path)}: {text}"


def _wording(path: KeyPath, item: Any) -> str:
    kind, text = item["type"], str(item["msg"])
    if kind == "extra_forbidden":
        return "unknown key" + _hint(path)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return "a name has letters, digits, dots, hyphens and underscores only, and begins with a letter or digit"
    return _WORDS.get(kind) or text.replace("Input should be", "must be", 1)


_WORDS = {
    "string_type": "must be a text, in quotes",
    "int_type": "must be a whole number, without quotes",
    "float_type": 'must be a number, or a text such as "30s"',
    "bool_type": "must be true or false",
    "list_type": "must be a list, [...]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
}


def _hint(path: KeyPath) -> str:
    model = _table(_annotation(path[:-1]))
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    names = list(model.model_fields)
    close = difflib.get_close_matches(str(path[-1]), names, 1)
    return f', did you mean "{close[0]}"?' if close else f", use one of {', '.join(names)}"


def _annotation(path: KeyPath) -> Any:
    """The type that the configuration wants at ``path``; None: there is no such key."""
    kind: Any = ConfigModel
    for part in path:
        kind = _table(kind)
        arguments = get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = None if field is None else field.annotation
        elif get_origin(kind) is dict:
            kind = arguments[1]
        elif get_origin(kind) is list:
            kind = arguments[0]
        else:
            return None
        while get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
    return kind


def _table(kind: Any) -> Any:
    """Of several types that a key may have, the one that has keys itself."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next((one for one in get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)), kind)


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _value(text: str, path: KeyPath) -> Any:
    """An environment variable as TOML would read it; what is no TOML value, and what belongs to a text, is a text."""
    try:
        table = tomllib.loads(f"v = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = table["v"]
    kind = _annotation(path)
    wants_text = kind is str or (get_origin(kind) is Literal and all(isinstance(item, str) for item in get_args(kind)))
    return text if len(table) > 1 or (wants_text and not isinstance(value, str)) else value
