"""Certificates in force follow their files, however these are replaced."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from router.app import watching
from router.app.certificates import CertificatesInForce
from router.app.config import Config, load_config
from router.model import TlsSettings
from tests.ledger.support import SilentLog
from tests.support.authority import Authority, Identity


def put(identity: Identity, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copy2(identity.key, folder / "router.key")
    shutil.copy2(identity.certificate, folder / "router.pem")


def speaking_tls(folder: Path, files: Path) -> Config:
    (folder / "router.toml").write_text(f'[node]\ndata_dir = "{folder}"\n')
    config = load_config(folder / "router.toml", {})
    tls = TlsSettings(certificate=str(files / "router.pem"), key=str(files / "router.key"), client_certificates="none")
    return replace(config, listeners=(replace(config.listeners[0], tls=tls),))


async def test_a_folder_that_took_the_place_of_another_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.2)
    authority = Authority(tmp_path / "ca")
    issued = [authority.issue(name) for name in ("one", "two", "three")]
    files = tmp_path / "tls"
    put(issued[0], files)
    config = speaking_tls(tmp_path, files)
    in_force = CertificatesInForce(config, expires=lambda *_: None, log=SilentLog())
    (credentials,) = in_force.listeners.values()
    task = asyncio.create_task(in_force.watch())

    async def read(identity: Identity) -> None:
        async with asyncio.timeout(10):
            while credentials.certificate is None or credentials.certificate.public_key != identity.public_key_sha256:
                await asyncio.sleep(0.05)

    await asyncio.sleep(0.5)
    put(issued[1], tmp_path / "new")
    files.rename(tmp_path / "old")
    (tmp_path / "new").rename(files)
    await read(issued[1])
    put(issued[2], files)
    await read(issued[2])
    task.cancel()
    await asyncio.wait({task})
