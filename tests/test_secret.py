"""A secret is read where its reference points, if nobody else could have read it there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.secret import LONGEST, SecretError, SecretReference, readable_by_others

SECRET = "hunter2"


def in_a_file(folder: Path, content: bytes = SECRET.encode(), mode: int = 0o600) -> SecretReference:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return SecretReference(file=str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b" hunter 2 \n", " hunter 2 "),
        ("pässwort".encode(), "pässwort"),
    ],
)
def test_a_file_holds_the_secret_and_perhaps_a_lines_end(tmp_path: Path, content: bytes, expected: str) -> None:
    assert in_a_file(tmp_path, content).read() == expected


def test_an_environment_variable_holds_the_secret() -> None:
    assert SecretReference(env="KEY_PW").read({"KEY_PW": SECRET}) == SECRET
    for env in ({}, {"KEY_PW": ""}):
        with pytest.raises(SecretError, match="environment variable KEY_PW is not set"):
            SecretReference(env="KEY_PW").read(env)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(SecretError, match="can be read by others: chmod go="):
        in_a_file(tmp_path, mode=mode).read()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_its_own_user_is_taken(tmp_path: Path, mode: int) -> None:
    assert in_a_file(tmp_path, mode=mode).read() == SECRET


def test_a_service_without_privileges_may_be_given_a_file_of_roots_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(mode: int, owner: int) -> os.stat_result:
        return os.stat_result((0o100000 | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))

    monkeypatch.setattr(os, "geteuid", lambda: 998)
    assert not readable_by_others(status(0o440, 0))
    assert readable_by_others(status(0o444, 0)), "everybody is not its group"
    assert readable_by_others(status(0o460, 0)), "who could write it could replace it"
    assert readable_by_others(status(0o440, 998)), "its own need no group"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert readable_by_others(status(0o440, 0)), "root needs no group"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "is not UTF-8"), (b"x" * (LONGEST + 1), "larger than")],
)
def test_what_is_no_secret_is_told_without_its_content(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(SecretError, match=problem) as caught:
        in_a_file(tmp_path, content).read()
    assert str(tmp_path / "secret") in str(caught.value)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SecretError, match=r"is no file|Is a directory"):
            SecretReference(file=str(path)).read()
    with pytest.raises(SecretError, match="cannot be read: No such file"):
        SecretReference(file=str(tmp_path / "nothing")).read()


def test_a_new_secret_takes_effect_when_it_is_read_again(tmp_path: Path) -> None:
    reference = in_a_file(tmp_path)
    assert reference.read() == SECRET
    in_a_file(tmp_path, b"changed\n")
    assert reference.read() == "changed"
    assert SECRET not in repr(reference)
