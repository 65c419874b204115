"""``explain``: where an object would go, and for every rule the condition that decided."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from router.app.cli import exits
from router.app.cli.client import AdminClient
from router.app.cli.exits import Failure
from router.app.cli.options import admin_options, find_config, json_option, print_json
from router.app.cli.tables import say
from router.errors import RouterError

PIECE = 1 << 20


@click.command(short_help="Which rules match an object, which do not and why.")
@click.argument("what", metavar="FILE.dcm|UID")
@click.option("--calling", default=None, help="Calling AE title. Default: the one in the file, if it has one.")
@click.option("--called", default="ROUTER", show_default=True, help="Called AE title.")
@click.option("--address", default="127.0.0.1", show_default=True, help="IP address of the sender.")
@click.option("--listener", default=None, help="Bind of the listener. Default: the first one.")
@click.option("--show-values", is_flag=True, help="Also the values that the rules look at: data of the patient.")
@admin_options
@json_option
def explain(
    what: str,
    calling: str | None,
    called: str,
    address: str,
    listener: str | None,
    show_values: bool,
    config: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Which rules match an object, which do not and because of which condition, and where it would go.

    A FILE is decided here, by the rules on disk, as if it were sent. A UID or instance id names an object that the
    running router has, and is decided by the rules in force there.

    \b
    Examples:
      dicom-router explain slice.dcm --calling CT01
      dicom-router explain slice.dcm -c new/router.toml --show-values
      dicom-router explain 1.2.840.99.1.2.3
    """
    path = Path(what)
    if path.exists():
        found = explain_file(path, find_config(config), calling, called, address, listener, show_values=show_values)
    elif "/" in what or what.lower().endswith(".dcm"):
        raise Failure(f"{what}: no such file")
    else:
        if calling is not None or show_values:
            raise click.UsageError("--calling and --show-values go with a file.")
        found = AdminClient(config, url).get("/api/v1/explain", selector=what)
    if as_json:
        print_json(found)
    else:
        _tell(found)


def explain_file(
    path: Path,
    config_path: Path | None,
    calling: str | None,
    called: str,
    address: str,
    listener: str | None,
    *,
    show_values: bool,
) -> dict[str, Any]:
    """Decide a Part 10 file as if it were sent. Raises Failure."""
    from router.app.cli.check import examine
    from router.dicom.inspect import DatasetInspector
    from router.dicom.part10 import read_part10
    from router.routing import RuleFacts

    checked = examine(config_path)
    config, rules = checked.config, checked.rules
    if config is None or rules is None:
        raise Failure("\n".join(checked.problems), exits.BAD_CONFIG)
    try:
        with path.open("rb") as file:
            meta = read_part10(file)
            inspector = DatasetInspector(meta.transfer_syntax, rules.wanted, config.limits)
            while piece := file.read(PIECE):
                inspector.feed(piece)
        attributes = inspector.finish()
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    except RouterError as error:
        raise Failure(f"{path}: the router would refuse it with status {error}") from None
    facts = RuleFacts(
        calling_ae=meta.calling_ae if calling is None else calling,
        called_ae=called,
        peer_address=address,
        listener=listener or config.listeners[0].name,
        sop_class=meta.sop_class,
        transfer_syntax=meta.transfer_syntax,
        size=inspector.size,
        now=time.time(),
    )
    explanation = rules.explain(attributes, facts)
    decision = explanation.decision
    found: dict[str, Any] = {
        "verdict": decision.verdict.value,
        "destinations": list(decision.destinations),
        "priority": decision.priority.name.lower(),
        "version": decision.version,
        "rules": [{"name": rule.name, "matched": rule.matched, "because": rule.because} for rule in explanation.rules],
    }
    if not attributes.available:
        found["note"] = "the data set cannot be looked into (unknown transfer syntax, or its head is over a limit)"
    if show_values:
        found["values"] = {_name(tags): attributes.texts(tags) for tags in sorted(rules.wanted)}
    return found


def _name(path: tuple[int, ...]) -> str:
    """A path as rules write it: keywords, item numbers, dots."""
    from router.dicom import dictionary

    parts = []
    for index, number in enumerate(path):
        if index % 2:
            parts.append(str(number))
        else:
            parts.append(dictionary.keyword_of(number) or f"{number >> 16:04x},{number & 0xFFFF:04x}")
    return ".".join(parts)


def _tell(found: dict[str, Any]) -> None:
    destinations = ", ".join(found.get("destinations", ()))
    verdict = str(found.get("verdict"))
    priority = found.get("priority", "normal")
    text = f"{verdict}" + (f" to {destinations}" if destinations else "")
    click.secho(text + (f", priority {priority}" if priority != "normal" and destinations else ""), bold=True)
    instance = f", of instance {found['instance']}" if found.get("instance") else ""
    say(f"rules {found.get('version')}{instance}")
    rules = found.get("rules", ())
    width = max((len(str(rule.get("name"))) for rule in rules), default=0)
    for rule in rules:
        matched = rule.get("matched")
        mark = "yes" if matched else "-" if matched is None else "no"
        say(f"  {mark:<3}  {rule.get('name')!s:<{width}}  {rule.get('because') or ''}".rstrip())
    if found.get("note"):
        say(f"note: {found['note']}")
    for name, values in found.get("values", {}).items():
        shown = "not in the object" if values is None else "empty" if not values else " \\ ".join(values)
        say(f"  {name}: {shown}")
