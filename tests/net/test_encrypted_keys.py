"""Private keys at rest: encrypted ones and what opens them, and who else can read them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from router.model import TlsSettings
from router.net.tls import Credentials, TlsFilesError, examine
from router.secret import SecretReference
from tests.support.authority import Authority

PASSWORD = "hunter2"


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    """An encrypted key, its password in a file."""
    authority = Authority(tmp_path)
    identity = authority.issue("router")
    encrypt(identity.key, PASSWORD)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    return TlsSettings(
        certificate=str(identity.certificate),
        key=str(identity.key),
        ca=str(authority.file),
        key_password=SecretReference(file=str(password)),
    )


def encrypt(key: Path, password: str, *, old: str | None = None) -> None:
    opened = load_pem_private_key(key.read_bytes(), old.encode() if old else None)
    key.write_bytes(opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())))


def test_an_encrypted_key_is_opened_by_its_password(tls: TlsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials(tls, server_side=True).certificate is not None
    assert examine(tls, time.time(), server_side=True) == ([], [])
    monkeypatch.setenv("ROUTER_KEY_PASSWORD", PASSWORD)
    by_env = replace(tls, key_password=SecretReference(env="ROUTER_KEY_PASSWORD"))
    assert Credentials(by_env, server_side=False).certificate is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key_password": None}, "is encrypted; say key_password"),
        ({"key_password": SecretReference(env="NOT_THERE")}, "key_password environment variable NOT_THERE is not set"),
        ({"key_password": SecretReference(file="/nowhere/password")}, "key_password /nowhere/password: cannot be read"),
    ],
)
def test_a_password_that_cannot_be_had_is_named_by_its_reference(
    tls: TlsSettings, change: dict[str, SecretReference | None], why: str
) -> None:
    with pytest.raises(TlsFilesError, match=why):
        Credentials(replace(tls, **change), server_side=True)


def test_a_password_that_is_longer_than_any_is_told_of(tls: TlsSettings) -> None:
    assert tls.key_password is not None
    Path(tls.key_password.file).write_text("x" * 1025)
    problems, _ = examine(tls, time.time(), server_side=True)
    assert problems == [f"key_password {tls.key_password}: longer than 1024 bytes"]


def test_a_file_that_goes_away_while_it_is_read_is_told_of(tls: TlsSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewing takes the old file away first."""
    credentials = Credentials(tls, server_side=True)
    before = credentials.context

    def gone(_: object) -> bool:
        Path(tls.key).unlink()
        return False

    monkeypatch.setattr("router.net.tls.readable_by_others", gone)
    with pytest.raises(TlsFilesError, match="a file went away while it was read"):
        credentials.reload()
    assert credentials.context is before


def test_a_password_that_does_not_fit_is_told_and_not_shown(tls: TlsSettings) -> None:
    assert tls.key_password is not None
    Path(tls.key_password.file).write_text("hunter3")
    with pytest.raises(TlsFilesError, match="key_password does not open the key") as caught:
        Credentials(tls, server_side=True)
    assert "hunter3" not in repr(caught.value)


def test_a_reload_takes_a_new_key_and_its_new_password(tls: TlsSettings) -> None:
    held = Credentials(tls, server_side=True)
    before = held.context
    assert tls.key_password is not None
    encrypt(Path(tls.key), "hunter3", old=PASSWORD)
    with pytest.raises(TlsFilesError, match="does not open"):
        held.reload()
    assert held.context is before, "what was read before stays in force"
    Path(tls.key_password.file).write_text("hunter3")
    held.reload()
    assert held.context is not before


def test_a_password_for_a_key_that_needs_none_is_warned_of(tls: TlsSettings, tmp_path: Path) -> None:
    plain = Authority(tmp_path / "plain")
    identity = plain.issue("router")
    settings = replace(tls, certificate=str(identity.certificate), key=str(identity.key), ca=str(plain.file))
    _, warnings = examine(settings, time.time(), server_side=True)
    assert warnings == [f"key {identity.key} is not encrypted: key_password has no use"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tls: TlsSettings, mode: int) -> None:
    Path(tls.key).chmod(mode)
    with pytest.raises(TlsFilesError, match="can be read by others: chmod go="):
        Credentials(tls, server_side=True)
