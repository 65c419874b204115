"""When files are looked at that somebody may have changed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from router.app import watching
from router.app.watching import looks
from tests.net.doubles import RecordingLog


async def test_the_system_tells_of_a_change_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 3600.0)
    async with asyncio.timeout(20), aclosing(looks((tmp_path,), RecordingLog())) as times:
        await anext(times)
        told = asyncio.ensure_future(anext(times))
        while not told.done():  # the first ones come before anybody watches
            (tmp_path / "file").write_text("changed")
            await asyncio.sleep(0.05)
        await told


async def test_it_is_looked_also_at_what_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.1)
    async with asyncio.timeout(20), aclosing(looks((tmp_path,), RecordingLog())) as times:
        for _ in range(3):
            await anext(times)


async def test_a_folder_in_the_place_of_another_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.1)
    begun: list[Any] = []
    awatch = watchfiles.awatch
    monkeypatch.setattr(watchfiles, "awatch", lambda *folders, **how: begun.append(folders) or awatch(*folders, **how))
    folder = tmp_path / "folder"
    folder.mkdir()
    async with asyncio.timeout(20), aclosing(looks((folder,), RecordingLog())) as times:
        await anext(times)
        await anext(times)
        folder.rename(tmp_path / "away")
        folder.mkdir()
        while len(begun) < 2:
            await anext(times)


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), RuntimeError("no more watches")])
async def test_without_watches_it_is_looked_now_and_then_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.05)

    def refuse(*folders: object, **how: object) -> None:
        raise problem

    monkeypatch.setattr(watchfiles, "awatch", refuse)
    log = RecordingLog()
    async with asyncio.timeout(20), aclosing(looks((tmp_path,), log)) as times:
        for _ in range(4):
            await anext(times)
    assert [event for _, event, _ in log.lines] == ["folders cannot be watched, they are looked at now and then"]
