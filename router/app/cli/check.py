"""``check``: everything that is wrong with configuration and rules, before the router runs by them."""

from __future__ import annotations

import asyncio
import os
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from router.app.cli import exits
from router.app.cli.options import config_option, find_config, json_option, print_json
from router.app.config import Config, load_config
from router.errors import ConfigError
from router.model import AuditSettings, Destination, TlsSettings
from router.net import tls
from router.routing import RuleSet, load


@dataclass(frozen=True, slots=True)
class Reached:
    destination: str
    url: str
    ok: bool
    text: str


@dataclass(slots=True)
class Checked:
    """What was found; ``config`` and ``rules`` are there as far as they could be read."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config: Config | None = None
    rules: RuleSet | None = None


def examine(path: Path | None) -> Checked:
    """Read configuration and rules. A wrong configuration does not hide what is wrong with the rules."""
    found = Checked()
    try:
        found.config = load_config(path, os.environ)
    except ConfigError as error:
        found.problems += error.problems
        _rules_nevertheless(path, found)
        return found
    config = found.config
    found.warnings += config.warnings
    _look_at_certificates(config, found)
    try:
        names = [destination.name for destination in config.destinations]
        found.rules = load(
            config.rules_folder,
            names,
            on_no_match=config.on_no_match,
            arrivals=config.arrivals,
        )
    except ConfigError as error:
        found.problems += error.problems
    else:
        found.warnings += found.rules.warnings
    return found


def _look_at_certificates(config: Config, found: Checked) -> None:
    now = time.time()
    everywhere = [(listener.tls, True) for listener in config.listeners]
    everywhere += [(destination.tls, False) for destination in config.destinations]
    everywhere.append((config.audit.tls, False))
    for settings, server_side in everywhere:
        if settings is not None:
            problems, warnings = tls.examine(settings, now, server_side=server_side)
            found.problems += [f"{settings.place}: {problem}" for problem in problems]
            found.warnings += [f"{settings.place}: {warning}" for warning in warnings]


def _rules_nevertheless(path: Path | None, found: Checked) -> None:
    """Look at the rules with what they need of a wrong configuration: their folder, and the names of destinations."""
    if path is None:
        return
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return
    destinations, rules = table.get("destinations", {}), table.get("rules", {})
    folder = rules.get("path", "rules") if isinstance(rules, dict) else "rules"
    if not isinstance(destinations, dict) or not isinstance(folder, str):
        return
    try:
        load(path.parent / folder, list(destinations))
    except ConfigError as error:
        found.problems += error.problems


async def reach(destinations: Sequence[Destination]) -> list[Reached]:
    """Ask every destination, all at once: C-ECHO for a peer, a look for a folder. Cancelling it is safe."""
    return list(await asyncio.gather(*(_reach(destination) for destination in destinations)))


async def _reach_all(config: Config) -> list[Reached]:
    if config.audit.kind != "collector":
        return await reach(config.destinations)
    reached, collector = await asyncio.gather(reach(config.destinations), reach_collector(config.audit))
    return [*reached, collector]


async def _reach(destination: Destination) -> Reached:
    if destination.kind == "file":
        return await asyncio.to_thread(_reach_folder, destination)
    from router.app.cli.address import Address
    from router.app.cli.console_log import QUIET, ConsoleLog
    from router.app.cli.dicom_client import CallOptions
    from router.app.cli.echo import echo_once

    try:
        credentials = None if destination.tls is None else tls.Credentials(destination.tls, server_side=False)
    except tls.TlsFilesError as error:
        return Reached(destination.name, destination.url, False, str(error))
    peer = Address(destination.host, destination.port, destination.ae_title)
    options = CallOptions(
        calling=destination.calling_ae_title,
        connect_timeout=destination.connect_timeout,
        acse_timeout=destination.acse_timeout,
        response_timeout=destination.acse_timeout,
        max_pdu=destination.max_pdu,
        credentials=credentials,
    )
    try:
        seconds = await echo_once(peer, options, ConsoleLog(QUIET))
    except exits.Failure as failure:
        return Reached(destination.name, destination.url, False, failure.message)
    return Reached(destination.name, destination.url, True, f"answered C-ECHO in {seconds * 1000:.1f} ms")


async def reach_collector(settings: AuditSettings) -> Reached:
    """Open a connection to the collector of the audit trail, and say nothing."""
    from router.audit.sinks import CollectorSink

    name, url = "audit collector", f"syslog+tls://{settings.host}:{settings.port}"
    try:
        credentials = tls.Credentials(settings.tls or TlsSettings(), server_side=False)
    except tls.TlsFilesError as error:
        return Reached(name, url, False, str(error))
    sink = CollectorSink(settings.host, settings.port, credentials)
    began = time.monotonic()
    try:
        await sink.greet()
    except OSError as error:
        return Reached(name, url, False, f"cannot connect: {error.strerror or error}")
    finally:
        await sink.close()
    return Reached(name, url, True, f"took the connection in {(time.monotonic() - began) * 1000:.1f} ms")


def _reach_folder(destination: Destination) -> Reached:
    place = Path(destination.path).absolute()
    url = place.as_uri()
    while not place.exists() and place != place.parent:
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Reached(destination.name, url, True, "writable")
    return Reached(destination.name, url, False, f"{place} is not a folder that this user can write to")


@click.command(short_help="All problems of configuration and rules.")
@config_option
@click.option(
    "--connect",
    is_flag=True,
    help="Also ask every destination: C-ECHO, or a look at the folder; and connect to the audit collector.",
)
@click.option("--strict", is_flag=True, help="Warnings count as problems.")
@json_option
def check(config: Path | None, connect: bool, strict: bool, as_json: bool) -> None:
    """All problems of configuration and rules in one run, each as file:line:column: what is wrong, what would do. Runs
    the [[test]]s of the rules. Touches nothing.

    Exits 0 if all is well, 78 if the configuration is wrong, 69 if a destination (or the audit
    collector) cannot be reached.

    \b
    Examples:
      dicom-router check
      dicom-router check -c /etc/dicom-router/router.toml --strict --connect
    """
    path = find_config(config)
    found = examine(path)
    reached: list[Reached] = []
    if connect and found.config is not None:
        reached = asyncio.run(_reach_all(found.config))
    wrong = bool(found.problems) or (strict and bool(found.warnings))
    code = exits.BAD_CONFIG if wrong else exits.OK if all(one.ok for one in reached) else exits.UNREACHABLE
    if as_json:
        print_json(
            {
                "ok": code == exits.OK,
                "problems": found.problems,
                "warnings": found.warnings,
                "destinations": [asdict(one) for one in reached],
            }
        )
        raise SystemExit(code)
    for problem in found.problems:
        click.secho(problem, fg="red", err=True)
    for warning in found.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    for one in reached:
        click.secho(f"{one.destination}: {one.text}", fg=None if one.ok else "red", err=not one.ok)
    if found.problems:
        click.echo(f"{len(found.problems)} problems", err=True)
    elif found.config is not None and found.rules is not None:
        click.echo(_summary(path, found.config, found.rules))
    raise SystemExit(code)


def _summary(path: Path | None, config: Config, rules: RuleSet) -> str:
    counts = (
        (len(config.listeners), "listener"),
        (len(config.peers), "peer"),
        (len(config.destinations), "destination"),
        (len(rules.rules), "rule"),
    )
    parts = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
    return f"{path or 'embedded defaults'}: {parts} (version {rules.version}), no problems"
