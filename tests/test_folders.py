"""A folder that was made is there after a power cut: each name above it is synced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router import folders
from router.folders import make_folder


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found: list[Path] = []
    sync = folders.sync_folder

    def watched(folder: Path) -> None:
        sync(folder)
        found.append(folder)

    monkeypatch.setattr(folders, "sync_folder", watched)
    return found


def test_each_name_is_synced_before_the_next_is_made(tmp_path: Path, synced: list[Path]) -> None:
    folder = tmp_path / "a" / "b" / "c"
    make_folder(folder, 0o700)
    assert synced[:3] == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_an_earlier_run_made_is_not_taken_for_durable(tmp_path: Path, synced: list[Path]) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    make_folder(folder, 0o700)
    assert {tmp_path, tmp_path / "a"} <= set(synced)


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(NotADirectoryError):
            make_folder(folder, 0o700)


def test_what_we_may_not_read_above_is_for_its_owner_to_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def guarded(path: Path, flags: int, *more: int) -> int:
        if path == tmp_path.parent:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", guarded)
    make_folder(tmp_path / "a", 0o700)
    assert (tmp_path / "a").is_dir()


def test_behind_a_link_the_names_that_count_are_those_of_its_target(tmp_path: Path, synced: list[Path]) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    make_folder(tmp_path / "link" / "a", 0o700)
    assert {tmp_path / "real" / "deep", tmp_path / "real", tmp_path} <= set(synced)
