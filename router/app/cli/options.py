"""Options that several commands share, and where a configuration is looked for when none is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_VARIABLE = "DICOM_ROUTER_CONFIG"
# JSON itself escapes those of ASCII but one: DEL, the C1 controls, and what turns the direction of writing.
_ACTED_ON = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
USUAL_PLACES = (Path("router.toml"), Path("/etc/dicom-router/router.toml"))


def config_option(command: Command) -> Command:
    """``-c FILE``; the command gets ``config``, a path that exists or None."""
    return click.option(
        "-c",
        "--config",
        "config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar=CONFIG_VARIABLE,
        help=f"Configuration file. Default: ${CONFIG_VARIABLE}, ./router.toml, /etc/dicom-router/router.toml.",
    )(command)


def json_option(command: Command) -> Command:
    """``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for scripts.")(command)


def limit_option(command: Command) -> Command:
    """``--limit N``; the command gets ``limit``."""
    return click.option(
        "-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Rows at most."
    )(command)


def admin_options(command: Command) -> Command:
    """``-c FILE`` and ``--url``: how to find the running router. The command gets ``config`` and ``url``."""
    url = click.option(
        "--url", envvar="DICOM_ROUTER_URL", help="Address of the admin API, if not that of the configuration."
    )
    return config_option(url(command))


def find_config(config: Path | None) -> Path | None:
    """The file named, else the first of the usual places that exists, else None: the embedded defaults."""
    if config is not None:
        return config
    return next((place for place in USUAL_PLACES if place.is_file()), None)


def print_json(value: object) -> None:
    """Readable as it is; what a terminal would act on is escaped, as JSON does it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    click.echo(_ACTED_ON.sub(lambda found: json.dumps(found.group())[1:-1], text))
