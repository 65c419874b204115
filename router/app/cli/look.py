"""``status``, ``queue``, ``studies``, ``trace``: what the running router knows, as tables or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from router.app.cli.client import AdminClient
from router.app.cli.options import admin_options, json_option, limit_option, print_json
from router.app.cli.tables import duration, moment, say, size, table

NUMBERS = frozenset(("waiting", "bytes", "oldest", "dead", "next try", "attempts", "size", "objects", "in flight"))
NUMBERS |= {"delivered", "given up", "held"}


@click.command(short_help="What is going on.")
@admin_options
@json_option
def status(config: Path | None, url: str | None, as_json: bool) -> None:
    """What is going on: destinations, what waits, what is held, rules, disk.

    \b
    Examples:
      dicom-router status
      dicom-router status --json | jq '.destinations[] | select(.state != "up")'
    """
    found = AdminClient(config, url).get("/api/v1/status")
    if as_json:
        print_json(found)
        return
    rules, spool = found.get("rules", {}), found.get("spool", {})
    started = f", since {moment(found['started'])}" if found.get("started") else ""
    say(f"{found.get('node', 'router')} {found.get('version', '')}: {found.get('state', '?')}{started}")
    for worker in found.get("workers", ()):
        again = f", started again {worker['restarts']} times" if worker.get("restarts") else ""
        say(f"worker {worker.get('worker')}    {worker.get('state')}, process {worker.get('pid') or 'none'}{again}")
    for text in found.get("not_answering", ()):
        click.secho(f"            {text}: what follows lacks its part", fg="red")
    for listener in found.get("listeners", ()):
        titles = ", ".join(listener.get("ae_titles", ()))
        say(f"listening   {listener.get('name')} as {titles}: {listener.get('associations', 0)} associations")
    say(
        f"rules       {rules.get('version', '?')}"
        + (f", read {moment(rules['loaded'])}" if rules.get("loaded") else "")
    )
    for problem in rules.get("problems", ()):
        click.secho(f"            not reloaded: {problem}", fg="red")
    say(f"spool       {size(spool.get('bytes'))} used, {size(spool.get('free_bytes'))} free")
    if found.get("held"):
        click.secho(f"held        {found['held']} objects wait for a person: dicom-router release", fg="yellow")
    if found.get("dead_letters"):
        click.secho(f"given up    {found['dead_letters']} deliveries: dicom-router dead-letters list", fg="red")
    click.echo()
    _lanes(found.get("destinations", ()))


def _lanes(lanes: Any) -> None:
    table(
        ("destination", "state", "waiting", "bytes", "oldest", "in flight", "dead", "next try", "why"),
        [
            (
                lane.get("name"),
                lane.get("state"),
                lane.get("waiting", 0),
                size(lane.get("bytes")),
                duration(lane.get("oldest_seconds")) if lane.get("waiting") else "",
                lane.get("in_flight", 0),
                lane.get("dead_letters", 0),
                duration(lane["next_attempt_in"]) if lane.get("next_attempt_in") else "",
                lane.get("reason"),
            )
            for lane in lanes
        ],
        right=NUMBERS,
    )


@click.command(short_help="What waits, and why.")
@click.argument("destination", required=False, metavar="[DEST]")
@admin_options
@limit_option
@json_option
def queue(destination: str | None, config: Path | None, url: str | None, limit: int, as_json: bool) -> None:
    """What waits, for one destination or all of them, and why.

    \b
    Examples:
      dicom-router queue
      dicom-router queue pacs -n 200
      dicom-router queue pacs --json
    """
    found = AdminClient(config, url).get("/api/v1/queue", destination=destination, limit=limit)
    if as_json:
        print_json(found)
        return
    _lanes(found.get("destinations", ()))
    deliveries = found.get("deliveries", ())
    if not deliveries:
        return
    click.echo()
    table(
        ("instance", "destination", "state", "sop instance", "modality", "size", "received", "attempts", "last error"),
        [
            (
                row.get("instance"),
                row.get("destination"),
                row.get("state"),
                row.get("sop_instance"),
                row.get("modality"),
                size(row.get("size")),
                moment(row.get("received")),
                row.get("attempts", 0),
                row.get("last_error"),
            )
            for row in deliveries
        ],
        right=NUMBERS,
    )


@click.command(short_help="Where is my study?")
@click.argument("query", required=False, default="", metavar="[QUERY]")
@admin_options
@limit_option
@json_option
def studies(query: str, config: Path | None, url: str | None, limit: int, as_json: bool) -> None:
    """Where is my study? QUERY is a study instance UID, an accession number or a patient id; * at its end matches any
    rest. Without it: the latest studies.

    \b
    Examples:
      dicom-router studies
      dicom-router studies 1.2.840.99.1
      dicom-router studies 'ACC2026*'
    """
    found = AdminClient(config, url).get("/api/v1/studies", query=query, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = found.get("studies", ())
    if not rows:
        say(f"no study matches {query!r}; a part of it and * may" if query else "no studies")
        return
    table(
        ("study", "accession", "modality", "objects", "last received", "delivered", "waiting", "given up", "held"),
        [
            (
                row.get("study"),
                row.get("accession"),
                row.get("modality"),
                row.get("instances", 0),
                moment(row.get("last")),
                row.get("delivered") or 0,
                row.get("waiting") or 0,
                row.get("dead") or 0,
                row.get("held") or 0,
            )
            for row in rows
        ],
        right=NUMBERS,
    )


@click.command(short_help="The story of one object.")
@click.argument("selector", metavar="UID|ACCESSION|ID")
@admin_options
@json_option
def trace(selector: str, config: Path | None, url: str | None, as_json: bool) -> None:
    """The story of one object, or of all of a series, study or accession number: received from whom, decided by which
    rules, delivered where and when, or why not.

    \b
    Examples:
      dicom-router trace 1.2.840.99.1.2.3
      dicom-router trace ACC20260001
    """
    found = AdminClient(config, url).get("/api/v1/trace", selector=selector)
    if as_json:
        print_json(found)
        return
    stories = found.get("instances", ())
    for number, instance in enumerate(stories):
        if number:
            click.echo()
        _story(instance)
    more = found.get("total", 0) - len(stories)
    if more > 0:
        click.echo()
        say(f"{more} more, and what is not settled came first: name a series or an object")


def _story(instance: dict[str, Any]) -> None:
    say(f"{instance.get('sop_instance')}  (instance {instance.get('instance')})")
    if instance.get("logged_as") not in (None, instance.get("sop_instance")):
        say(f"  in the log  {instance['logged_as']}")
    say(f"  study       {instance.get('study')}  accession {instance.get('accession') or '-'}")
    received = f"  received    {moment(instance.get('received'))}"
    if instance.get("calling"):
        received += f" from {instance['calling']} at {instance.get('address')}, called {instance.get('called')}"
    say(received + (f", {size(instance['size'])}" if instance.get("size") else ""))
    if instance.get("rules") is not None:
        rules = ", ".join(instance["rules"]) or "no rule matched"
        say(f"  decided     {instance.get('verdict')}: {rules} (rules {instance.get('rule_version')})")
    else:
        say(f"  decided     {instance.get('verdict')}")
    for delivery in instance.get("deliveries", ()):
        text = f"  {delivery.get('destination')!s:<11} {delivery.get('state')}"
        if delivery.get("updated"):
            text += f" {moment(delivery['updated'])}"
        if delivery.get("attempts"):
            text += f", {delivery['attempts']} attempts"
        if delivery.get("last_error"):
            text += f": {delivery['last_error']}"
        say(text)
    for event in instance.get("events", ()):
        words = (moment(event.get("at")), event.get("what"), event.get("destination"), event.get("detail"))
        say("  " + "  ".join(str(word) for word in words if word))
