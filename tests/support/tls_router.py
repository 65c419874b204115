"""A router process that listens with TLS beside its plain port, and the files that it and its peers show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.authority import Authority, Identity
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess


class TlsRouter:
    """Configuration for ``RouterProcess``: certificates made for one test, a listener, destinations.

    Its files are in ``folder``; the certificate that the router shows everywhere is ``identity``.
    """

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.identity = self.authority.issue("router")
        self.modality = self.authority.issue("modality", "modality.hospital", "127.0.0.1")
        self.port = free_port()

    def listener(self, accept: str = "any", **more: str) -> str:
        extra = "".join(f', {name} = "{value}"' for name, value in more.items())
        return (
            f'[[listen]]\nbind = "127.0.0.1:{self.port}"\naccept = "{accept}"\n'
            f'tls = {{ certificate = "{self.identity.certificate}", key = "{self.identity.key}", '
            f'ca = "{self.authority.file}"{extra} }}\n'
        )

    def destination(self, name: str, port: int, *, aet: str = "STORESCP", tls: str | None = None) -> str:
        if tls is None:
            tls = (
                f'certificate = "{self.identity.certificate}", key = "{self.identity.key}", '
                f'ca = "{self.authority.file}"'
            )
        return f'[destinations.{name}]\nurl = "dicoms://{aet}@127.0.0.1:{port}"\ntls = {{ {tls} }}\n'

    def router(
        self, folder: Path, destinations: Mapping[str, int], *, more: str = "", workers: int = 1
    ) -> RouterProcess:
        names = ", ".join(f'"{name}"' for name in destinations)
        return RouterProcess(
            folder,
            {},
            rules=f'[[rule]]\nname = "everything"\nto = [{names}]\n' if destinations else "",
            extra=self.listener() + "".join(self.destination(*one) for one in destinations.items()) + more,
            workers=workers,
        )

    def options(self, identity: Identity | None = None, *, ca: Path | None = None) -> list[str]:
        """Of DCMTK's tools."""
        shown = identity or self.modality
        return ["+tls", str(shown.key), str(shown.certificate), "+cf", str(ca or self.authority.file)]
