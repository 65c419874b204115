"""Who watches the system sees our threads by their names."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from router._disk import Committer
from router.threads import LONGEST, name_this_thread


def names() -> list[str]:
    return [entry.read_text().strip() for entry in Path("/proc/self/task").glob("*/comm")]


@pytest.mark.parametrize("name", ["ledger", "longer-than-linux-keeps"])
def test_a_thread_has_the_name_that_it_gave_itself(name: str) -> None:
    seen: list[str] = []

    def run() -> None:
        name_this_thread(name)
        seen.append(Path("/proc/thread-self/comm").read_text().strip())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [name[:LONGEST]]


def test_the_disks_thread_is_called_disk() -> None:
    before = names().count("disk")
    committer = Committer(staging=1 << 16, group_bytes=1 << 16)
    try:
        assert names().count("disk") == before + 1
    finally:
        committer.close()
