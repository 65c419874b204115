"""What was worked out of late, by what it was worked out from: a modality opens its associations with the same bytes
each time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

COUNT = 128


class Remembered(Generic[Key, Value]):
    """At most ``COUNT`` of them; the one that was not asked for for longest is forgotten first. Who keeps something
    here sees to it that it is not long."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        value = self._known.pop(key, None)
        if value is not None:
            self._known[key] = value
        return value

    def keep(self, key: Key, value: Value) -> None:
        if len(self._known) >= COUNT:
            del self._known[next(iter(self._known))]
        self._known[key] = value
