"""``config``: what the files, the environment and the defaults come to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from router.app.cli import exits
from router.app.cli.options import config_option, find_config, json_option, print_json


@click.group(short_help="The configuration as it is in force.")
def config() -> None:
    """The configuration as it is in force.

    \b
    Example:
      dicom-router config show
    """


@config.command(short_help="Show it, with every default.")
@config_option
@json_option
def show(config: Path | None, as_json: bool) -> None:
    """Show what router.toml, conf.d, the environment and the defaults come to, as one router.toml. Secrets are shown as
    what refers to them. Exits 78 if the configuration is wrong.

    \b
    Examples:
      dicom-router config show
      dicom-router config show -c /etc/dicom-router/router.toml --json
    """
    from router.app.config import in_force
    from router.errors import ConfigError

    path = find_config(config)
    try:
        values = in_force(path, os.environ)
    except ConfigError as error:
        raise exits.Failure("\n".join(error.problems), exits.BAD_CONFIG) from None
    if as_json:
        print_json(values)
        return
    click.echo(f"# {path or 'embedded defaults'}, with the environment and the defaults")
    click.echo("\n".join(as_toml(values)))


def as_toml(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The lines of a table: first its values, then the tables within it."""
    inner: list[tuple[str, str, Mapping[str, Any]]] = []
    for name, value in table.items():
        key = name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _text(name)
        place = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            inner.append((f"[{place}]", place, value))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            inner += [(f"[[{place}]]", place, item) for item in value]
        else:
            yield f"{key} = {_value(value)}"
    for head, place, content in inner:
        # A table of tables alone needs no line of its own.
        if head.startswith("[[") or not content or any(not isinstance(one, Mapping) for one in content.values()):
            yield from ("", head)
        yield from as_toml(content, place)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _text(text: str) -> str:
    """JSON's escapes are TOML's, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
