"""How one value is compared: text with wildcards, numbers, ranges, regular expressions, dates, networks.

Each function takes what the rule says and gives a test of one value; a rule that cannot mean anything raises ValueError with
what would do. Compiled once, at load.
"""

from __future__ import annotations

import re as standard_re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network

import re2

TextTest = Callable[[str], bool]
NumberTest = Callable[[float], bool]

_SIZE = standard_re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*")
_UNITS = {
    None: 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATION = standard_re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def wildcard(pattern: str) -> TextTest:
    """``*`` any characters, ``?`` one; nothing else is special. The usual shapes avoid a regular expression."""
    if not is_pattern(pattern):
        return lambda value: value == pattern
    inner = pattern.strip("*")
    if "*" not in inner and "?" not in pattern:
        if pattern == "*" * len(pattern):
            return lambda value: True
        if pattern.startswith("*") and pattern.endswith("*"):
            return lambda value: inner in value
        if pattern.startswith("*"):
            return lambda value: value.endswith(inner)
        return lambda value: value.startswith(inner)
    translated = "".join(".*" if c == "*" else "." if c == "?" else re2.escape(c) for c in pattern)
    compiled = re2.compile(f"(?s)^{translated}$")
    return lambda value: compiled.match(value) is not None


def regex(pattern: str) -> TextTest:
    """google-re2, found anywhere in the value; linear in time, so no rule can stall the loop."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"not a regular expression of RE2: {error}") from None

    @lru_cache(maxsize=4096)
    def search(value: str) -> bool:
        return compiled.search(value) is not None

    return search


def size_in_bytes(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a number of bytes, or a text such as "10MiB"')
    return float(match[1]) * _UNITS[match[2]]


def seconds(value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a duration such as "30d", "12h", "90m"')
    return float(match[1]) * _SECONDS[match[2]]


def number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError("must be a number")


def network(text: str) -> TextTest:
    """An address, a network (CIDR) or a wildcard pattern."""
    if is_pattern(text):
        return wildcard(text)
    try:
        allowed = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('must be an address, a network such as "10.1.0.0/16", or a pattern such as "10.1.*"') from None

    @lru_cache(maxsize=1024)
    def contains(value: str) -> bool:
        try:
            return ip_address(value) in allowed
        except ValueError:
            return False

    return contains


def is_recent(value: str, now: float, span: float) -> bool:
    """Whether a DA or DT value lies within ``span`` seconds before ``now``; up to a day ahead is taken for a time zone."""
    digits = value.replace(".", "").replace("-", "")[:8]
    if len(digits) != 8 or not digits.isdigit():
        return False
    try:
        moment = datetime(int(digits[:4]), int(digits[4:6]), int(digits[6:]), tzinfo=UTC).timestamp()
    except ValueError:
        return False
    return now - span - 86400 <= moment <= now + 86400
