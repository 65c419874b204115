"""``replay``: the stored objects of the last days, decided again by other rules."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.app.cli import exits
from router.app.cli.exits import Failure
from router.app.cli.options import config_option, find_config, json_option, print_json
from router.app.cli.tables import moment, say, table
from router.errors import ConfigError, DatasetError, RouterError
from router.model import Decision, InstanceInfo, Verdict, format_id
from router.routing.values import seconds

if TYPE_CHECKING:
    from router.app.cli.stored import OpenSegment
    from router.app.config import Config
    from router.dicom.attributes import Attributes
    from router.routing import RuleSet
    from router.spool.record import FoundRecord

EXAMPLES = 3
"""Instances named for each kind of change."""


@dataclass(slots=True)
class Change:
    """One kind of difference, and how many objects it would have met."""

    was: Decision
    would_be: Decision
    objects: int = 0
    examples: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Replayed:
    objects: int = 0
    unreadable: int = 0
    """Damaged, or overwritten while they were looked at."""
    oldest: float | None = None
    """Arrival of the oldest one; epoch seconds."""
    changes: dict[tuple[object, ...], Change] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(change.objects for change in self.changes.values())


@click.command(short_help="What other rules would have done with the objects of the last days.")
@click.option("--since", default="7d", show_default=True, help='How far back, such as "12h" or "7d".')
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the rules to try. Default: the one of the configuration, as it is on disk now.",
)
@config_option
@json_option
def replay(since: str, against: Path | None, config: Path | None, as_json: bool) -> None:
    """Decide the stored objects of the last days again, by other rules, and say what would be different from what was
    decided when they arrived. Nothing is changed or sent; the running router is not asked.

    Only what is still in the spool can be decided again: what is undelivered or held, and what was delivered within
    [spool] keep_delivered.

    \b
    Examples:
      dicom-router replay --since 7d --against new-rules/
      dicom-router replay --since 12h --json | jq '.changes[] | {objects, would_be}'
    """
    try:
        back = seconds(since)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
    settings, rules = _read(find_config(config), against)
    try:
        found = decide_again(settings, rules, time.time() - back)
    except (RouterError, OSError) as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json(_as_json(found, rules.version))
    else:
        _tell(found, rules.version)


def _read(path: Path | None, against: Path | None) -> tuple[Config, RuleSet]:
    """Raises Failure with every problem."""
    from router.app.config import load_config
    from router.routing import load

    try:
        config = load_config(path, os.environ)
        rules = load(
            config.rules_folder if against is None else against,
            [destination.name for destination in config.destinations],
            on_no_match=config.on_no_match,
            arrivals=config.arrivals,
        )
    except ConfigError as error:
        raise Failure("\n".join(error.problems), exits.BAD_CONFIG) from None
    return config, rules


def decide_again(config: Config, rules: RuleSet, since: float) -> Replayed:
    """Raises SpoolError, OSError if there is no spool."""
    from router.app.held import facts_of

    found = Replayed()
    for info, was, attributes in _stored(config, rules, since, found):
        found.objects += 1
        found.oldest = info.received if found.oldest is None else min(found.oldest, info.received)
        # By the time of its arrival: a rule that knows days or hours must see the day on which it came.
        would_be = rules.decide(attributes, facts_of(info, info.received))
        key = (*_effect(was), *_effect(would_be))
        if _effect(was) == _effect(would_be):
            continue
        change = found.changes.setdefault(key, Change(was, would_be))
        change.objects += 1
        if len(change.examples) < EXAMPLES:
            change.examples.append(info.id)
    return found


def _stored(
    config: Config, rules: RuleSet, since: float, found: Replayed
) -> Iterator[tuple[InstanceInfo, Decision, Attributes]]:
    """Each object once, although its record may have been moved."""
    from router.app.cli import stored

    seen: set[int] = set()
    for path in stored.segments(config.data_dir / "spool"):
        with stored.opened(path) as segment:
            for record in segment.records(hash_data=False) if segment is not None else ():
                info, decision = record.info, record.decision
                if segment is None or info is None or decision is None or not record.ok:
                    found.unreadable += not record.torn
                    continue
                if info.received < since or info.id in seen:
                    continue
                seen.add(info.id)
                try:
                    yield info, decision, _attributes(segment, record, info, config, rules)
                except (DatasetError, RouterError, OSError):
                    found.unreadable += 1


def _attributes(
    segment: OpenSegment, record: FoundRecord, info: InstanceInfo, config: Config, rules: RuleSet
) -> Attributes:
    """What the rules see of a stored object: of its head alone, if that is all that they look at (elements stand in
    ascending order, PS3.5 §7.1, so nothing of it comes behind the pixels)."""
    from router.dicom.inspect import DatasetInspector

    inspector = DatasetInspector(info.transfer_syntax, rules.wanted, config.limits)
    for piece in segment.data_set(record):
        inspector.feed(piece)
        head = inspector.head() if rules.of_head else None
        if head is not None:
            return head
    return inspector.finish()


def _effect(decision: Decision) -> tuple[object, ...]:
    """What becomes of the object, whatever the rules are called."""
    routed = decision.verdict is Verdict.ROUTE
    return (
        decision.verdict,
        tuple(sorted(decision.destinations)) if routed else (),
        decision.priority if routed else None,
    )


def _as_json(found: Replayed, version: str) -> dict[str, Any]:
    return {
        "version": version,
        "objects": found.objects,
        "unchanged": found.objects - found.changed,
        "unreadable": found.unreadable,
        "oldest": found.oldest,
        "changes": [
            {
                "objects": change.objects,
                "was": _decision_as_json(change.was),
                "would_be": _decision_as_json(change.would_be),
                "examples": [format_id(number) for number in change.examples],
            }
            for change in _most_first(found)
        ],
    }


def _decision_as_json(decision: Decision) -> dict[str, Any]:
    return {
        "verdict": decision.verdict.value,
        "destinations": list(decision.destinations),
        "priority": decision.priority.name.lower(),
        "rules": list(decision.rules),
    }


def _tell(found: Replayed, version: str) -> None:
    text = f"{found.objects} objects"
    if found.oldest is not None:
        text += f", the oldest of {moment(found.oldest)},"
    say(f"{text} decided again by rules {version}")
    if found.unreadable:
        say(f"{found.unreadable} records could not be read: dicom-router spool verify", err=True, colour="red")
    if not found.changes:
        say("nothing would be different")
        return
    say(f"{found.objects - found.changed} as they were, {found.changed} otherwise:")
    table(
        ("objects", "was", "would be", "by the rules", "such as"),
        [
            (
                change.objects,
                _words(change.was),
                _words(change.would_be),
                ", ".join(change.would_be.rules) or "none",
                " ".join(map(format_id, change.examples)),
            )
            for change in _most_first(found)
        ],
        right=frozenset(("objects",)),
    )


def _words(decision: Decision) -> str:
    if decision.verdict is not Verdict.ROUTE:
        return str(decision.verdict.value)
    priority = decision.priority.name.lower()
    return f"to {', '.join(decision.destinations)}" + (f", priority {priority}" if priority != "normal" else "")


def _most_first(found: Replayed) -> list[Change]:
    return sorted(found.changes.values(), key=lambda change: -change.objects)
