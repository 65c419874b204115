"""``schema``, ``init``, ``completion``: what one needs once."""

from __future__ import annotations

from pathlib import Path

import click

from router.app.cli.exits import Failure
from router.app.cli.options import print_json


@click.command(short_help="JSON Schema of router.toml.")
def schema() -> None:
    """JSON Schema of router.toml, for editors that complete and check TOML.

    \b
    Example:
      dicom-router schema > router.schema.json     # and in router.toml: #:schema ./router.schema.json
    """
    from router.app.config_model import json_schema

    print_json(json_schema())


@click.command(short_help="Write a starter configuration.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def init(folder: Path, force: bool) -> None:
    """Write a commented router.toml and rules/10-everything.toml to FOLDER (default: here). They work as they are.

    \b
    Example:
      dicom-router init /etc/dicom-router
    """
    from router.app.cli.starter import ROUTER_TOML, RULES_TOML

    files = {folder / "router.toml": ROUTER_TOML, folder / "rules" / "10-everything.toml": RULES_TOML}
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise Failure(f"already there, not overwritten: {', '.join(there)}; --force overwrites")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            click.echo(f"wrote {path}")
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from None
    click.echo(f"next: dicom-router check -c {folder / 'router.toml'}")


@click.command(short_help="Shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Completion for your shell.

    \b
    Examples:
      eval "$(dicom-router completion bash)"                                     # in ~/.bashrc
      eval "$(dicom-router completion zsh)"                                      # in ~/.zshrc
      dicom-router completion fish > ~/.config/fish/completions/dicom-router.fish
    """
    from click.shell_completion import get_completion_class

    from router.app.cli.root import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise Failure(f"no completion for {shell}")
    script = kind(cli, {}, "dicom-router", "_DICOM_ROUTER_COMPLETE")
    # The source, not the completer: that would ask the shell for its version.
    click.echo(script.source_template % script.source_vars())
