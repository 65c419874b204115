"""Where each key of a TOML text stands: key path to (line, column).

``tomllib`` gives values without positions; an error message needs them. The text is known to be valid TOML when this
runs, so the
scanner is short. Lines and columns count from 1; array elements have their index in the path.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]
Position = tuple[int, int]


def positions(text: str) -> dict[KeyPath, Position]:
    """Positions of all keys, table headers and array elements of a valid TOML text."""
    return _Scanner(text).scan()


def nearest(found: Mapping[KeyPath, Position], path: KeyPath) -> Position:
    """The position of ``path``, or of the closest enclosing key that has one; (1, 1) if none has."""
    for end in range(len(path), 0, -1):
        position = found.get(path[:end])
        if position is not None:
            return position
    return 1, 1


def syntax_problem(file: str, text: str, message: str) -> str:
    """What tomllib says ("... (at line 3, column 7)") with its place in front, as ``file:line:column: what``."""
    what, _, place = message.rpartition(" (at ")
    numbers = re.findall(r"\d+", place)
    if what and len(numbers) == 2:
        line, column = int(numbers[0]), int(numbers[1])
    else:
        # "at end of document"
        what, line, column = what or message, text.count("\n") + 1, len(text) - text.rfind("\n")
    return f"{file}:{line}:{column}: {what[:1].lower()}{what[1:]}"


def in_order(file: str, problems: list[str]) -> list[str]:
    """Problems of one file, ``file:line:column: ...``, from its top to its bottom."""

    def place(problem: str) -> list[int]:
        return [int(number) for number in problem.removeprefix(file + ":").split(":", 2)[:2]]

    return sorted(problems, key=place)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, Position] = {}
        self.counts: dict[KeyPath, int] = {}
        """Elements seen of each array of tables."""
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        """Where each line begins."""

    def scan(self) -> dict[KeyPath, Position]:
        table: KeyPath = ()
        while self._skip(newlines=True):
            if self.text.startswith("[[", self.at):
                start = self.at
                self.at += 2
                keys = self._keys()
                parent = self._resolve(keys[:-1], start)
                array = (*parent, keys[-1])
                index = self.counts.get(array, -1) + 1
                self.counts[array] = index
                table = (*array, index)
                self.found.setdefault(array, self._position(start))
                self.found[table] = self._position(start)
                self._expect("]]")
            elif self.text[self.at] == "[":
                start = self.at
                self.at += 1
                table = self._resolve(self._keys(), start)
                self._expect("]")
            else:
                self._pair(table)
        return self.found

    def _resolve(self, keys: list[str], start: int) -> KeyPath:
        """The keys of a header, at ``start``, as a path: arrays of tables stand for their last element."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, self._position(start))
            if path in self.counts:
                path = (*path, self.counts[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self.at
        path: KeyPath = (*table, *self._keys())
        for end in range(len(table) + 1, len(path) + 1):
            self.found.setdefault(path[:end], self._position(start))
        self._skip()
        self._expect("=")
        self._skip()
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip()
            if self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                start = self.at
                while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-"):
                    self.at += 1
                keys.append(self.text[start : self.at])
            self._skip()
            if self.at < len(self.text) and self.text[self.at] == ".":
                self.at += 1
                continue
            return keys

    def _value(self, path: KeyPath) -> None:
        character = self.text[self.at]
        if character in "\"'":
            self._string()
        elif character == "[":
            self.at += 1
            index = 0
            while self._skip(newlines=True) and self.text[self.at] != "]":
                self.found[(*path, index)] = self._position(self.at)
                self._value((*path, index))
                index += 1
                self._skip(newlines=True)
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        elif character == "{":
            self.at += 1
            while self._skip(newlines=True) and self.text[self.at] != "}":
                self._pair(path)
                self._skip(newlines=True)
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def _string(self) -> str:
        text = self.text
        quote = text[self.at]
        if text.startswith(quote * 3, self.at):
            start = self.at + 3
            end = start
            while not text.startswith(quote * 3, end):
                end += 2 if quote == '"' and text[end] == "\\" else 1
            self.at = end + 3
            while self.at < len(text) and text[self.at] == quote:
                self.at += 1  # up to two quotes may stand before the closing three
            return text[start:end]
        end = self.at + 1
        while text[end] != quote:
            end += 2 if quote == '"' and text[end] == "\\" else 1
        whole = text[self.at : end + 1]
        self.at = end + 1
        if quote == '"' and "\\" in whole:
            return str(tomllib.loads(f"key = {whole}")["key"])
        return whole[1:-1]

    def _skip(self, *, newlines: bool = False) -> bool:
        """Past blanks and comments; True while there is text."""
        blanks = " \t\r\n" if newlines else " \t"
        while self.at < len(self.text):
            if self.text[self.at] in blanks:
                self.at += 1
            elif newlines and self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return True
        return False

    def _expect(self, token: str) -> None:
        if self.text.startswith(token, self.at):
            self.at += len(token)

    def _position(self, at: int) -> Position:
        line = bisect_right(self.lines, at)
        return line, at - self.lines[line - 1] + 1
