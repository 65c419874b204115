"""How problems are worded: what was misspelt, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def did_you_mean(word: str, words: Collection[str]) -> str:
    """``, did you mean "match"?``, or all that would do."""
    close = difflib.get_close_matches(word.lower(), words, 1)
    return f', did you mean "{close[0]}"?' if close else f", use one of {', '.join(words)}"


def unknown_destination(name: str, destinations: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(destinations), 1)
    hint = f', did you mean "{close[0]}"?' if close else f", there are: {', '.join(sorted(destinations)) or 'none'}"
    return f'unknown destination "{name}"{hint}'
