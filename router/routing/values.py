"""How one value is compared: text with wildcards, numbers, ranges, regular expressions, dates, networks.

Each function takes what the rule says and gives a test of one value; a rule that cannot mean anything raises
ValueError with what would do. Compiled once, at load.
"""

from __future__ import annotations

import math
import re as standard_re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import re2

TextTest = Callable[[str], bool]
NumberTest = Callable[[float], bool]

REMEMBERED = 4096
"""Answers kept per regular expression; objects of a series repeat their texts."""
LONG = 256
"""Characters past which an answer is not kept, so that memory has a bound."""

_SIZE = standard_re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*")
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
_DURATION = standard_re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|h|d|w)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE = standard_re.compile(r"([0-9]{3})([DWMY])")
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_PATTERN_ESCAPES = {"*": ".*", "?": "."}


def is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def wildcard(pattern: str) -> TextTest:
    """``*`` any characters, ``?`` one; nothing else is special. The usual shapes avoid a regular expression."""
    if not is_pattern(pattern):
        return lambda value: value == pattern
    inner = pattern.strip("*")
    if "*" not in inner and "?" not in inner:
        if not inner:
            return lambda value: True
        if pattern[0] == "*" and pattern[-1] == "*":
            return lambda value: inner in value
        if pattern[0] == "*":
            return lambda value: value.endswith(inner)
        return lambda value: value.startswith(inner)
    translated = "".join(_PATTERN_ESCAPES.get(c) or re2.escape(c) for c in pattern)
    return _remembered(re2.compile(f"(?s)^{translated}$"))


def regex(pattern: str) -> TextTest:
    """google-re2, found anywhere in the value; linear in time, so no rule can stall the loop."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not a regular expression of RE2: {text}") from None
    return _remembered(compiled)


def _remembered(compiled: Any) -> TextTest:
    @lru_cache(maxsize=REMEMBERED)
    def known(value: str) -> bool:
        return compiled.search(value) is not None

    def search(value: str) -> bool:
        return known(value) if len(value) <= LONG else compiled.search(value) is not None

    return search


def size_in_bytes(value: object) -> float:
    """A number of bytes, or a text with a unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a number of bytes, or a text such as "10MiB"')
    return float(match[1]) * _UNITS[match[2]]


def seconds(value: object) -> float:
    """A text such as "30d"."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a duration such as "30d", "12h", "90m"')
    return float(match[1]) * _SECONDS[match[2]]


def number(value: object) -> float:
    """A number, or a text that is one."""
    if isinstance(value, str) and is_pattern(value):
        raise ValueError("a number has no wildcards, use { min = ..., max = ... }")
    found = math.nan
    # Python reads "1_000"; DS and IS (PS3.5 §6.2) do not.
    if isinstance(value, int | float | str) and not isinstance(value, bool) and "_" not in str(value):
        with suppress(ValueError, OverflowError):
            found = float(value)
    if not math.isfinite(found):
        raise ValueError("must be a number")
    return found


def network(text: str) -> TextTest:
    """An address, a network (CIDR) or a wildcard pattern."""
    if is_pattern(text):
        return wildcard(text)
    try:
        allowed = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f'"{text}" must be an address, a network such as "10.1.0.0/16", or a pattern such as "10.1.*"'
            ) from None
        raise ValueError(f'"{text}" is an address within a network, did you mean "{meant}"?') from None

    @lru_cache(maxsize=1024)
    def contains(value: str) -> bool:
        try:
            address: IPv4Address | IPv6Address | None = ip_address(value)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            # What a socket that serves both families calls an IPv4 peer.
            address = address.ipv4_mapped
        return address in allowed

    return contains


# Dates and ages --------------------------------------------------------------------------------------------


def moment_text(value: object, vr: str) -> object:
    """A date or time of TOML as DA, TM or DT write it; anything else as it is."""
    if vr in ("DA", "DT") and isinstance(value, date):
        day = f"{value.year:04}{value.month:02}{value.day:02}"
        return day + _clock(value.time()) if isinstance(value, datetime) and vr == "DT" else day
    if vr == "TM" and isinstance(value, time):
        return _clock(value)
    return value


def _clock(value: time) -> str:
    return f"{value.hour:02}{value.minute:02}{value.second:02}"


def plain_moment(text: str) -> str:
    """DA and TM as they were once written, "2026.01.31" and "12:30:00", in today's form (PS3.5 §6.2)."""
    return text.replace(".", "") if text[4:5] == "." else text.replace(":", "")


def not_before(bound: str) -> TextTest:
    return lambda value: bool(value) and plain_moment(value)[: len(bound)] >= bound


def not_after(bound: str) -> TextTest:
    """Up to and including ``bound``, to the precision that it is written in: "20260131" takes all of that day."""
    return lambda value: bool(value) and plain_moment(value)[: len(bound)] <= bound


def is_recent(value: str, now: float, span: float) -> bool:
    """Whether some part of the day of a DA or DT value lies within ``span`` seconds before ``now``.

    Up to a day ahead is taken for a time zone.
    """
    digits = plain_moment(value)[:8]
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return False
    try:
        moment = datetime(int(digits[:4]), int(digits[4:6]), int(digits[6:]), tzinfo=UTC).timestamp()
    except ValueError:
        return False
    return now - span - 86400 <= moment <= now + 86400


def age_in_days(value: str) -> float:
    """Days of an AS value ("018Y"). Raises ValueError."""
    match = _AGE.fullmatch(value)
    if match is None:
        raise ValueError('must be an age as DICOM writes it: "018Y", "006M", "002W", "010D"')
    return int(match[1]) * _DAYS[match[2]]
