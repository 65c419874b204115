"""``run`` and ``demo``."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click

from router.app.cli.options import config_option, find_config


@click.command(short_help="Run the router.")
@config_option
def run(config: Path | None) -> None:
    """Run the router until SIGTERM.

    SIGTERM drains: no new associations, open ones finish within the grace time, exit 0; a second one stops now. SIGHUP
    reloads the rules. Without a configuration file it runs on its embedded defaults: 127.0.0.1:11112 as ROUTER.

    \b
    Examples:
      dicom-router run
      dicom-router run -c /etc/dicom-router/router.toml
      DICOM_ROUTER__LOG__LEVEL=debug dicom-router run -c router.toml
    """
    gc.disable()  # until ``supervisor.set_up``
    from router.app import supervisor

    sys.exit(supervisor.run(find_config(config)))


@click.command(short_help="See the whole in a minute.")
def demo() -> None:
    """See the whole in a minute: two archives in this process, sample objects sent through a router, and a table of
    what reached whom. Writes to a temporary folder only.

    \b
    Example:
      dicom-router demo
    """
    from router.app.demo import run as show

    sys.exit(show())
