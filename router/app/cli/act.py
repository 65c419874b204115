"""``pause``, ``resume``, ``resend``, ``release``, ``reload``: acting on the running router."""

from __future__ import annotations

from pathlib import Path

import click

from router.app.cli.client import AdminClient, destination_path
from router.app.cli.exits import Failure
from router.app.cli.options import admin_options, json_option, print_json


@click.command(short_help="Send nothing to a destination until resumed.")
@click.argument("destination", metavar="DEST")
@click.option("--reason", default="", help="Shown by status and queue.")
@admin_options
@json_option
def pause(destination: str, reason: str, config: Path | None, url: str | None, as_json: bool) -> None:
    """Send nothing to DEST until resumed, also after a restart. What is in flight finishes; what arrives waits.

    \b
    Example:
      dicom-router pause pacs --reason "upgrade tonight"
    """
    found = AdminClient(config, url).post(destination_path(destination, "pause"), reason=reason)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{destination} is paused; dicom-router resume {destination} lets it go on")


@click.command(short_help="Lift a pause; end a rest.")
@click.argument("destination", metavar="DEST")
@admin_options
@json_option
def resume(destination: str, config: Path | None, url: str | None, as_json: bool) -> None:
    """Lift the pause of DEST; or, if it rests after failures, try again now instead of at the end of its back-off.

    \b
    Example:
      dicom-router resume pacs
    """
    found = AdminClient(config, url).post(destination_path(destination, "resume"))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{destination} goes on; the next attempt is made now")


@click.command(short_help="Deliver stored objects again.")
@click.argument("selector", metavar="UID|ACCESSION|ID")
@click.option("--to", "destination", metavar="DEST", help="Only there. Default: wherever they were sent before.")
@admin_options
@json_option
def resend(selector: str, destination: str | None, config: Path | None, url: str | None, as_json: bool) -> None:
    """Deliver stored objects again: one instance, a series, a study, or all of an accession number.

    Delivered objects stay in the spool for [spool] keep_delivered.

    \b
    Examples:
      dicom-router resend 1.2.840.99.1
      dicom-router resend ACC20260001 --to vna
    """
    found = AdminClient(config, url).post("/api/v1/resend", selector=selector, destination=destination)
    if as_json:
        print_json(found)
    else:
        count = found.get("deliveries", 0)
        hint = "dicom-router queue shows them" if count else "it is on its way, held, or was for nobody of router.toml"
        click.echo(f"{count} deliveries are owed again; {hint}")


@click.command(short_help="Decide held objects again, or send them where you say.")
@click.argument("selector", metavar="[UID|ACCESSION|ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="All that is held.")
@click.option(
    "--to", "destinations", metavar="DEST", multiple=True, help="Send there, whatever the rules say; repeatable."
)
@admin_options
@json_option
def release(
    selector: str | None,
    everything: bool,
    destinations: tuple[str, ...],
    config: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Decide held objects again by the rules in force, or send them where --to says.

    Objects are held when no rule matched ([rules] on_no_match = "hold").

    \b
    Examples:
      dicom-router release --all
      dicom-router release 1.2.840.99.1 --to pacs --to vna
    """
    if everything == (selector is not None):
        raise click.UsageError("Name what to release, or say --all.")
    found = AdminClient(config, url).post("/api/v1/release", selector=selector, destinations=list(destinations) or None)
    if as_json:
        print_json(found)
        return
    dropped = f"{found['discarded']} discarded by rules, " if found.get("discarded") else ""
    click.echo(f"{found.get('released', 0)} released, {dropped}{found.get('still_held', 0)} still held")


@click.command(short_help="Make the router read its rules again.")
@admin_options
@json_option
def reload(config: Path | None, url: str | None, as_json: bool) -> None:
    """Make the running router read its rules again. Anything wrong keeps the old ones, is printed, and exits 78.

    \b
    Example:
      dicom-router check && dicom-router reload
    """
    try:
        found = AdminClient(config, url).post("/-/reload")
    except Failure as failure:
        if as_json:
            print_json({"reloaded": False, "problems": failure.message.splitlines()})
        raise
    if as_json:
        print_json(found)
    else:
        click.echo("the new rules are in force")
