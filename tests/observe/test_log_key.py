"""The key of the hashes in logs: the same over restarts, for the router's user alone."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from router.observe.log_key import NAME, SIZE, kept_key


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_key_is_the_same_at_every_start(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "router"
    key, told = kept_key(folder)
    assert (len(key), told) == (SIZE, "")
    assert kept_key(folder) == (key, "")
    assert kept_key(tmp_path / "other")[0] != key


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept_key(tmp_path / "data")
    finally:
        os.umask(before)
    assert mode(tmp_path / "data" / NAME) == 0o600
    assert mode(tmp_path / "data") == 0o700
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME], "nothing else is left"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_a_key_that_others_could_read_is_replaced_and_that_is_told(tmp_path: Path, bits: int) -> None:
    key, _ = kept_key(tmp_path)
    (tmp_path / NAME).chmod(bits)
    new, told = kept_key(tmp_path)
    assert new != key
    assert "was readable by others" in told
    assert mode(tmp_path / NAME) == 0o600
    assert kept_key(tmp_path) == (new, "")


@pytest.mark.parametrize("content", [b"", b"short", bytes(SIZE + 1)])
def test_a_damaged_key_is_replaced_and_that_is_told(tmp_path: Path, content: bytes) -> None:
    kept_key(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    key, told = kept_key(tmp_path)
    assert "was damaged" in told
    assert len(key) == SIZE
    assert kept_key(tmp_path) == (key, "")


def test_what_a_crash_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.{os.getpid()}").write_bytes(b"half")
    key, told = kept_key(tmp_path)
    assert (len(key), told) == (SIZE, "")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(SIZE))
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        kept_key(tmp_path)


def test_a_folder_that_cannot_be_had_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"directory|exists"):
        kept_key(tmp_path / "file" / "data")


def test_all_who_start_at_once_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: _key_in_a_process_of_its_own(tmp_path / "data"), range(8)))
    assert len(keys) == 1


def _key_in_a_process_of_its_own(folder: Path) -> bytes:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, kept_key(folder)[0])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        key = pipe.read()
    os.waitpid(child, 0)
    return key


@pytest.mark.parametrize("made", [False, True])
def test_what_a_killed_router_was_making_is_removed(tmp_path: Path, made: bool) -> None:
    if made:
        kept_key(tmp_path)
    (tmp_path / ".log.key.1").write_bytes(bytes(7))
    kept_key(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.key"]
