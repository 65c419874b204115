"""What a fuzzed input is made of: a few option bytes first, then the bytes that a peer would send."""

from __future__ import annotations

import random
from typing import TypeVar

T = TypeVar("T")


def split(data: bytes, options: int) -> tuple[bytes, bytes]:
    """The option bytes, zeros where the input is shorter, and the rest."""
    return data[:options].ljust(options, b"\0"), data[options:]


def chosen(among: tuple[T, ...], option: int) -> T:
    return among[option % len(among)]


def pieces(data: bytes, option: int) -> list[bytes]:
    """``data`` as the network cuts it: 0 does not, 1 after every byte, others as a seed of random cuts."""
    if option == 0:
        return [data]
    if option == 1:
        return [data[at : at + 1] for at in range(len(data))]
    randomness = random.Random(option)
    found, at = [], 0
    while at < len(data):
        end = at + randomness.choice((0, 1, 2, 3, 5, 6, 8, 13, 40, 200))
        found.append(data[at:end])
        at = end
    return found
