"""Inputs made of a corpus without a fuzzer: the same ones for the same seed, so that what fails once fails always."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    12,
    0x7F,
    0x80,
    0xFE,
    0xFF,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


def mutations(corpus: Sequence[bytes], words: Sequence[bytes], count: int, longest: int, seed: int) -> Iterator[bytes]:
    """``count`` inputs of at most ``longest`` bytes, each one of the corpus with one to five changes."""
    randomness = random.Random(seed)
    for _ in range(count):
        data = bytearray(randomness.choice(corpus))
        for _ in range(randomness.randint(1, 5)):
            _change(data, corpus, words, randomness)
        yield bytes(data[:longest])


def single_changes(corpus: Sequence[bytes]) -> Iterator[bytes]:
    """Every input with one byte, each in turn, made 0, 255, one more or less, left out or doubled."""
    for data in corpus:
        for at, byte in enumerate(data):
            for other in {0, 255, byte + 1 & 255, byte - 1 & 255} - {byte}:
                yield data[:at] + bytes((other,)) + data[at + 1 :]
            yield data[:at] + data[at + 1 :]
            yield data[: at + 1] + data[at:]


def _change(data: bytearray, corpus: Sequence[bytes], words: Sequence[bytes], randomness: random.Random) -> None:
    at = randomness.randint(0, len(data))
    end = min(len(data), at + randomness.choice((1, 1, 2, 4, 8, 16, 64)))
    how = randomness.randrange(7)
    if how == 0:
        del data[at:end]
    elif how == 1:
        data[at:at] = data[at:end]
    elif how == 2 and words:
        data[at : at + randomness.choice((0, 0, 1, 2, 4))] = randomness.choice(words)
    elif how == 3:
        other = randomness.choice(corpus)
        start = randomness.randint(0, len(other))
        data[at:] = other[start:]
    elif how == 4:
        size = randomness.choice((1, 2, 4))
        number = randomness.choice(NUMBERS) & (1 << 8 * size) - 1
        data[at : at + size] = number.to_bytes(size, randomness.choice(("little", "big")))
    elif at < len(data):
        data[at] = randomness.randrange(256) if how == 5 else data[at] ^ 1 << randomness.randrange(8)
