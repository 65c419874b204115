"""How commands end: the exit codes that scripts rely on, and the errors that carry them."""

from __future__ import annotations

import click

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 69
"""The peer, or the router that was asked, cannot be reached."""
TRY_LATER = 75
"""Disk or queue full, or a transient refusal: the same command may succeed later."""
BAD_CONFIG = 78


class Failure(click.ClickException):
    """Ends a command: ``message`` goes to standard error, ``code`` to the shell."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = code  # click declares a class variable and reads it off the instance

    def show(self, file: object = None) -> None:
        """Without the word "Error:", as every line of ours says what it is about."""
        click.echo(self.message, err=True)
