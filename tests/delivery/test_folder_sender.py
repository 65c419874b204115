"""A folder as destination: whole Part 10 files under our own names, or nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from router.delivery import folder_sender
from router.delivery.folder_sender import SHARD, FolderSender
from router.errors import DeliveryError
from router.model import Destination, format_id
from tests.delivery.support import Source, delivery
from tests.support.objects import data_set_bytes


async def opened(folder: Path) -> FolderSender:
    return await FolderSender.open(Destination(name="archive", kind="file", path=str(folder)))


async def test_the_data_set_stands_unchanged_behind_a_part_10_head(tmp_path: Path) -> None:
    sender = await opened(tmp_path / "archive")
    item = delivery()
    assert (await sender.store(item.instance, Source())).status == 0x0000
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.name == f"{format_id(item.instance.id)}.dcm"
    assert path.read_bytes()[128:132] == b"DICM"
    assert data_set_bytes(path) == b"data"
    await sender.release()


async def test_the_same_object_again_is_the_same_file(tmp_path: Path) -> None:
    sender = await opened(tmp_path)
    item = delivery()
    for _ in range(2):
        assert (await sender.store(item.instance, Source())).status == 0x0000
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    await sender.release()


async def test_a_disk_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = await opened(tmp_path)

    def broken(descriptor: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(DeliveryError, match="No space left"):
        await sender.store(delivery().instance, Source())
    assert not list(tmp_path.rglob("*.dcm"))
    await sender.release()


async def test_a_folder_that_cannot_be_made_is_a_destination_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeliveryError):
        await opened(tmp_path / "file" / "folder")


async def test_a_file_that_failed_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is somebody else's by then."""
    sender = await opened(tmp_path)
    closed: list[int] = []
    written: list[int] = []
    close = os.close

    def broken(descriptor: int) -> Any:
        written.append(descriptor)
        closed.clear()
        raise OSError(5, "Input/output error")

    def watched(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "fdatasync", broken)
    monkeypatch.setattr(os, "close", watched)
    with pytest.raises(DeliveryError, match="Input/output"):
        await sender.store(delivery().instance, Source())
    assert [closed.count(descriptor) for descriptor in written] == [1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    await sender.release()


async def test_a_subfolder_of_an_earlier_run_is_not_taken_for_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = delivery()
    (tmp_path / format_id(item.instance.id)[:SHARD]).mkdir()
    sender = await opened(tmp_path)
    synced: list[Path] = []
    monkeypatch.setattr(folder_sender, "sync_folder", synced.append)
    await sender.store(item.instance, Source())
    await sender.store(item.instance, Source())
    assert synced.count(tmp_path) == 1
    assert len(synced) == 3
    await sender.release()
