"""The command line, ``dicom-router``: one module per group of commands, imported when the command is used."""

from __future__ import annotations


def main() -> None:
    """The entry point. Ends the process with one of the exit codes of ``exits``."""
    from router.app.cli.root import cli

    cli(prog_name="dicom-router")
