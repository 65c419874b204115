"""The top of the command line: names, one-line helps, and the module of each command, imported when it is asked for.

``status`` is typed in a hurry, so it must not wait for pydicom, pydantic or re2.
"""

from __future__ import annotations

import importlib
import os

import click

from router import __version__

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Running": {
        "run": ("run", "Run the router."),
        "demo": ("run", "See the whole in a minute: two archives, sample objects, what reached whom."),
    },
    "Rules and configuration": {
        "check": ("check", "All problems of configuration and rules; runs the rules' tests."),
        "config": ("config", "The configuration as it is in force, with every default."),
        "explain": ("explain", "Which rules match an object, which do not and why."),
        "replay": ("replay", "What other rules would have done with the objects of the last days."),
        "reload": ("act", "Make the router read its rules again."),
        "schema": ("setup", "JSON Schema of router.toml, for editors."),
        "init": ("setup", "Write a commented starter configuration."),
        "doctor": ("doctor", "Is this machine fit to run a router?"),
    },
    "Talking DICOM": {
        "echo": ("echo", "C-ECHO: is this peer there, and does it accept us?"),
        "send": ("send", "C-STORE files and folders to a peer."),
    },
    "Looking": {
        "status": ("look", "What is going on."),
        "queue": ("look", "What waits, and why."),
        "studies": ("look", "Where is my study?"),
        "trace": ("look", "The story of one object."),
    },
    "Acting": {
        "pause": ("act", "Send nothing to a destination until resumed."),
        "resume": ("act", "Lift a pause; end a rest, so the next attempt is now."),
        "resend": ("act", "Deliver stored objects again."),
        "release": ("act", "Decide held objects again, or send them where you say."),
        "dead-letters": ("dead_letters", "Deliveries given up: list, retry, discard."),
    },
    "Stored data": {
        "spool": ("spool", "Verify or export what the spool holds."),
    },
    "Shell": {
        "completion": ("setup", "Completion for bash, zsh or fish."),
    },
}
COMMANDS = {name: where for section in SECTIONS.values() for name, where in section.items()}

EPILOG = """\b
Examples:
  dicom-router run -c router.toml
  dicom-router check -c router.toml --connect
  dicom-router send ROUTER@127.0.0.1:11112 ~/images
  dicom-router trace 1.2.840.99.1.2.3
\b
Exit codes: 0 ok, 1 failed, 2 usage, 69 unreachable, 75 try later, 78 configuration wrong.
"""


class LazyGroup(click.Group):
    """Knows its commands by name; imports one when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"router.app.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dicom-router")
@click.pass_context
def cli(ctx: click.Context, /) -> None:
    """A DICOM router whose "stored" can be trusted: what it answers 0x0000 survives power loss and reaches every
    destination that its rules chose, or a person is told."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
