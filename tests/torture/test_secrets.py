"""Secrets that a site gives the router come out nowhere: not in what it writes, shows or says, nor in its command line.

The planted ones are passwords of keys, in a file and in the environment, and the keys themselves.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.support.authority import Authority, Identity
from tests.support.peers import wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess
from tests.torture.figures import Figure, report

IN_FILE, IN_ENVIRONMENT, WRONG = "pXq7-file-secret", "pXq7-environment-secret", "pXq7-wrong-secret"
PASSWORDS = (IN_FILE, IN_ENVIRONMENT, WRONG)
VARIABLE = "SITE_KEY_PASSWORD"
ROOM = '[spool]\nreserve_associations = "0B"\nreserve_objects = "0B"\n'


class Site:
    """A router with two TLS listeners whose keys are encrypted, and everything that it says."""

    def __init__(self, folder: Path, workers: int) -> None:
        authority = Authority(folder / "tls")
        self.one, self.two = authority.issue("one"), authority.issue("two")
        self.plain_keys = [identity.key.read_text() for identity in (self.one, self.two)]
        encrypt(self.one, IN_FILE)
        encrypt(self.two, IN_ENVIRONMENT)
        self.password = folder / "tls" / "one.password"
        self.password.write_text(f"{IN_FILE}\n")
        self.password.chmod(0o600)
        self.ports = (free_port(), free_port())
        secrets = (f'{{ file = "{self.password}" }}', f'{{ env = "{VARIABLE}" }}')
        listeners = "".join(
            f'[[listen]]\nbind = "127.0.0.1:{port}"\naccept = "any"\n'
            f'tls = {{ certificate = "{identity.certificate}", key = "{identity.key}", ca = "{authority.file}", '
            f'client_certificates = "none", key_password = {secret} }}\n'
            for port, identity, secret in zip(self.ports, (self.one, self.two), secrets, strict=True)
        )
        environment = {VARIABLE: IN_ENVIRONMENT}
        self.router = RouterProcess(
            folder / "router", {}, extra=listeners + ROOM, workers=workers, environment=environment
        )
        self.said: dict[str, str] = {}

    def ask(self, *arguments: str, **environment: str) -> int:
        """A command of an operator who has the router's environment; gives its exit code."""
        before = dict(os.environ)
        os.environ.update({VARIABLE: IN_ENVIRONMENT, **environment})
        try:
            done = self.router.cli(*arguments, "-c", str(self.router.config), check=False)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.said[f"{' '.join(arguments)} {len(self.said)}"] = done.stdout + done.stderr
        return done.returncode

    def look(self) -> None:
        for path in ("/metrics", "/readyz", "/api/v1/status", "/api/v1/rules"):
            self.said[path] = self.router.get(path)
        for process in processes(self.router):
            self.said[f"command line of {process}"] = Path(f"/proc/{process}/cmdline").read_text()

    def hits(self) -> list[str]:
        self.said["log"] = self.router.log.read_text()
        data = self.router.folder / "data"
        self.said |= {path.name: path.read_bytes().decode("latin-1") for path in data.rglob("*") if path.is_file()}
        lines = [line for key in self.plain_keys for line in key.splitlines()[1:-1]]
        secrets = (*PASSWORDS, *lines)
        return [where for where, text in self.said.items() if any(secret in text for secret in secrets)]


def encrypt(identity: Identity, password: str) -> None:
    key = load_pem_private_key(identity.key.read_bytes(), None)
    encryption = BestAvailableEncryption(password.encode())
    identity.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def processes(router: RouterProcess) -> list[int]:
    assert router.process is not None
    pid = router.process.pid
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def certificate_at(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


@contextmanager
def written(path: Path, text: str, mode: int = 0o600) -> Iterator[None]:
    """With this in the file, and after that what was there."""
    before, bits = path.read_text(), path.stat().st_mode
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.write_text(before)
        path.chmod(bits)


@pytest.mark.timeout(300)
def test_secrets_come_out_nowhere(tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool) -> None:
    workers = amount("secret workers", 1, 2)
    site = Site(tmp_path, workers)
    router = site.router
    with router:
        assert [certificate_at(port) for port in site.ports] == [
            identity.certificate.read_text() for identity in (site.one, site.two)
        ], "the keys were opened"
        site.look()
        assert site.ask("config", "show") == 0
        assert site.ask("check") == 0
        assert site.ask("status") == 0
        with written(site.password, WRONG):
            wait_for(lambda: "does not open the key" in router.log.read_text(), 30, "the wrong password refused")
            assert site.ask("check") == 78
        with written(site.password, WRONG, 0o644):
            wait_for(lambda: "can be read by others" in router.log.read_text(), 30, "the open file refused")
        assert certificate_at(site.ports[0]) == site.one.certificate.read_text(), "what was read before is in force"
        assert site.ask("check", **{VARIABLE: ""}) == 78
        assert site.ask("check", DICOM_ROUTER__LISTEN__1__TLS__KEY_PASSWORD=WRONG) == 78
        site.look()
    assert site.ask("run", DICOM_ROUTER__LISTEN__1__TLS__KEY_PASSWORD=WRONG) == 78
    with written(site.password, WRONG):
        assert site.ask("run") == 78
    assert "key_password" in json.dumps(site.said)
    hits = site.hits()
    assert not hits
    report(
        Figure(
            test="T27",
            promise="secrets planted in files, the environment and mistaken for values: none comes out",
            goal="0 hits",
            found=f"0 hits of {len(PASSWORDS)} passwords and 2 keys in {len(site.said)} places, {workers} worker(s)",
            n=len(site.said),
            command="make torture (tests/torture/test_secrets.py)",
        ),
        keep=campaign,
    )
