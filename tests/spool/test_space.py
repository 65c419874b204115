"""The floors below which nothing more is taken."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from router.model import SpoolSettings
from router.spool.space import Space
from tests.spool.support import SMALL, Running, entry_of

GB = 10**9


@pytest.mark.parametrize(
    ("free", "total", "largest", "associations", "objects"),
    [
        (50 * GB, 100 * GB, 0, False, False),
        (4 * GB, 40 * GB, 0, True, False),  # below 5 GB
        (40 * GB, 1000 * GB, 0, True, False),  # below 5 %
        (1 * GB, 40 * GB, 0, True, True),  # below 2 GB
        (15 * GB, 100 * GB, 8 * GB, False, True),  # no room for two more of the largest
        (17 * GB, 100 * GB, 8 * GB, False, False),
    ],
)
def test_floors_without_settings(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    total: int,
    largest: int,
    associations: bool,
    objects: bool,
) -> None:
    state = SimpleNamespace(f_bavail=free // 1000, f_blocks=total // 1000, f_frsize=1000)
    monkeypatch.setattr(os, "statvfs", lambda path: state)
    space = Space(tmp_path, SpoolSettings())
    space.largest_object = largest
    space.refresh()
    assert (space.below_associations_floor(), space.below_objects_floor()) == (associations, objects)


async def test_what_can_be_overwritten_counts_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMALL, reserve_objects=40_000, reserve_associations=0)
    state = SimpleNamespace(f_bavail=30, f_blocks=10**6, f_frsize=1000)
    async with Running(tmp_path / "s", settings) as running:
        entries = [entry_of(n, 9000) for n in range(1, 9)]
        await running.put(*entries[:-1])
        await running.put(entries[-1])
        monkeypatch.setattr(os, "statvfs", lambda path: state)
        running.spool.refresh_free()
        await running.files_settled()
        reusable = sum(s.size for s in running.pool.segments.values() if not s.being_written and not s.live)
        assert running.spool.below_objects_floor() == (30_000 + reusable < 40_000)
        assert not running.spool.below_associations_floor()
        assert running.spool.usage().free_bytes == 30_000
        monkeypatch.undo()


async def test_room_that_comes_back_is_noticed_without_any_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.spool.writer.REFRESH", 0.01)
    states = [SimpleNamespace(f_bavail=0, f_blocks=10**6, f_frsize=1000)]
    monkeypatch.setattr(os, "statvfs", lambda path: states[-1])
    async with Running(tmp_path / "s", replace(SMALL, reserve_associations=1, reserve_objects=1)) as running:
        assert running.spool.below_objects_floor()
        states.append(SimpleNamespace(f_bavail=10, f_blocks=10**6, f_frsize=1000))
        async with asyncio.timeout(10):
            while running.spool.below_objects_floor():
                await asyncio.sleep(0.005)
        assert not running.spool.below_associations_floor()
        monkeypatch.undo()
