"""One router that all hostile senders of a module meet in turn; after each it must be as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.support import Victim
from tests.support.router_process import RouterProcess

LIMITS = """
handshake_timeout = 3.0
idle_timeout = 20.0
rate_window = 3.0
artim_timeout = 1.0
release_timeout = 1.0
"""


@pytest.fixture(scope="module")
def victim_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("victim")
    archive = folder / "archive"
    with RouterProcess(folder / "router", {"archive": f"file://{archive}"}, limits=LIMITS) as router:
        victim = Victim(router, archive)
        victim.warm_up()
        yield victim


@pytest.fixture
def victim(victim_of_module: Victim, tmp_path: Path) -> Iterator[Victim]:
    """The router, watched: it lives on, serves others, and keeps no descriptor and no association."""
    files = victim_of_module.open_files()
    yield victim_of_module
    victim_of_module.still_serves()
    victim_of_module.settled(files)
