"""``dead-letters``: deliveries given up, which a person decides about."""

from __future__ import annotations

from pathlib import Path

import click

from router.app.cli.client import AdminClient
from router.app.cli.options import admin_options, json_option, limit_option, print_json
from router.app.cli.tables import moment, say, size, table


@click.group(name="dead-letters", short_help="Deliveries given up: list, retry, discard.")
def dead_letters() -> None:
    """Deliveries given up because the destination refused the object itself. The objects are kept: mend what was wrong,
    then retry.

    \b
    Examples:
      dicom-router dead-letters list
      dicom-router dead-letters retry --all --to pacs
      dicom-router dead-letters discard 17 18
    """


@dead_letters.command(name="list", short_help="What was given up, and why.")
@click.argument("destination", required=False, metavar="[DEST]")
@admin_options
@limit_option
@json_option
def list_letters(destination: str | None, config: Path | None, url: str | None, limit: int, as_json: bool) -> None:
    """What was given up and why, latest first. The number is what retry and discard take."""
    found = AdminClient(config, url).get("/api/v1/dead-letters", destination=destination, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = found.get("dead_letters", ())
    if not rows:
        say("no dead letters")
        return
    table(
        ("number", "destination", "sop instance", "size", "attempts", "status", "given up", "why"),
        [
            (
                row.get("delivery"),
                row.get("destination"),
                row.get("sop_instance"),
                size(row.get("size")),
                row.get("attempts", 0),
                f"0x{row['last_status']:04X}" if row.get("last_status") is not None else "",
                moment(row.get("updated")),
                row.get("last_error"),
            )
            for row in rows
        ],
        right=frozenset(("number", "size", "attempts")),
    )
    total = found.get("total", len(rows))
    if total > len(rows):
        say(f"{total - len(rows)} more: --limit")


@dead_letters.command(short_help="Try again.")
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1, type=click.IntRange(min=1))
@click.option("--all", "everything", is_flag=True, help="All of them, or all of --to.")
@click.option("--to", "destination", metavar="DEST", help="Only those for this destination.")
@admin_options
@json_option
def retry(
    numbers: tuple[int, ...],
    everything: bool,
    destination: str | None,
    config: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Try dead letters again, with a clean count of attempts.

    \b
    Examples:
      dicom-router dead-letters retry 17 18
      dicom-router dead-letters retry --all --to pacs
    """
    if everything == bool(numbers):
        raise click.UsageError("Name the numbers that `dead-letters list` shows, or say --all.")
    if numbers and destination:
        raise click.UsageError("--to goes with --all; a number names its destination already.")
    found = AdminClient(config, url).post(
        "/api/v1/dead-letters/retry", destination=destination, deliveries=list(numbers) or None
    )
    if as_json:
        print_json(found)
    else:
        retried = found.get("retried", 0)
        say(f"{retried} deliveries are tried again")
        if retried < len(numbers) or not retried:
            say("others are no dead letters, or for a destination that is not configured: dead-letters list", err=True)


@dead_letters.command(short_help="Give up for good.")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, type=click.IntRange(min=1), required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@admin_options
@json_option
def discard(numbers: tuple[int, ...], yes: bool, config: Path | None, url: str | None, as_json: bool) -> None:
    """Give dead letters up for good. The story of each object remembers it.

    \b
    Example:
      dicom-router dead-letters discard 17
    """
    if not yes:
        click.confirm(f"Never deliver {len(numbers)} of them?", abort=True, err=True)
    found = AdminClient(config, url).post("/api/v1/dead-letters/discard", deliveries=list(numbers))
    if as_json:
        print_json(found)
    else:
        say(f"{found.get('discarded', 0)} discarded")
