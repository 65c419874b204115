"""What several workers say, as one: pure functions over what their status shows.

What stands in the ledger is the same for all of them, but for the moment at which each looked: the highest is taken.
What each does by itself is summed up. Of a destination, the worker that fares worst is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.ports import Json

STATES = ("up", "probing", "resting", "paused", "not configured")
"""Of a destination, the worst last."""


def union(lists: Iterable[Sequence[str]]) -> list[str]:
    """Each text once, in order."""
    return list(dict.fromkeys(text for texts in lists for text in texts))


def rules(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of ``status`` and ``rules``: of the first, with the problems of all, one of which is to differ."""
    problems = union(one["problems"] for one in found)
    if len({one["version"] for one in found}) > 1:
        problems.append("workers have different rules in force: one has not read the files again yet")
    return {**found[0], "problems": problems}


def rule_list(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``rules``, with the matches of all workers."""
    matches: dict[str, int] = {}
    for one in found:
        for rule in one["rules"]:
            matches[rule["name"]] = matches.get(rule["name"], 0) + rule["matches"]
    return {**rules(found), "rules": [{**rule, "matches": matches[rule["name"]]} for rule in found[0]["rules"]]}


def destination(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One destination as the workers see it."""
    worst = max(found, key=lambda one: STATES.index(one["state"]))
    ages = [one["oldest_seconds"] for one in found if one["oldest_seconds"] is not None]
    return {
        **worst,
        "waiting": max(one["waiting"] for one in found),
        "bytes": max(one["bytes"] for one in found),
        "oldest_seconds": max(ages, default=None),
        "in_flight": sum(one["in_flight"] for one in found),
        "associations": sum(one["associations"] for one in found),
        "dead_letters": max(one["dead_letters"] for one in found),
    }


def destinations(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of ``status`` and ``queue``; every worker has those of the configuration, and of others what the ledger said when
    it looked."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        for row in one["destinations"]:
            rows.setdefault(row["name"], []).append(row)
    return [destination(several) for several in rows.values()]


def status(found: Sequence[Mapping[str, Any]]) -> Json:
    """The status of a node by that of its workers, one at least."""
    first = found[0]
    listeners = [
        {**rows[0], "associations": sum(row["associations"] for row in rows)}
        for rows in zip(*(one["listeners"] for one in found), strict=True)
    ]
    spools = [one["spool"] for one in found]
    return {
        **first,
        "rules": rules([one["rules"] for one in found]),
        "listeners": listeners,
        "destinations": destinations(found),
        "held": max(one["held"] for one in found),
        "dead_letters": max(one["dead_letters"] for one in found),
        "spool": {
            "bytes": sum(spool["bytes"] for spool in spools),
            "live_bytes": sum(spool["live_bytes"] for spool in spools),
            "free_bytes": min(spool["free_bytes"] for spool in spools),
        },
    }
