"""Peers as people write them: ``AET@host:port``, ``dicom://AET@host:port``, ``dicoms://`` for TLS, or DCMTK's ``host
port``."""

from __future__ import annotations

from dataclasses import dataclass

import click

DEFAULT_PORT = 104
"""PS3.8 §9.1.1: the well-known port."""
DEFAULT_TLS_PORT = 2762
"""PS3.15 Annex B: the one registered for DICOM over TLS."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    ae_title: str
    """Called AE title; empty if the text named none."""
    tls: bool = False
    """Written as ``dicoms://``."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.ae_title}@{host}:{self.port}"


def parse(text: str) -> Address:
    """Raises click.BadParameter that says what would do."""
    tls = text.startswith("dicoms://")
    rest = text.removeprefix("dicoms://" if tls else "dicom://").rstrip("/")
    if "://" in rest:
        raise click.BadParameter(f"{text!r}: only dicom:// and dicoms:// are spoken here; write AET@host:port")
    title, at, where = rest.rpartition("@")
    if at and not ae_title_fits(title):
        raise click.BadParameter(f"{text!r}: an AE title has 1 to 16 characters, not only spaces, no backslash")
    host, colon, number = where.rpartition(":")
    if where.startswith("[") and where.endswith("]"):
        host, colon, number = where, "", ""
    elif not colon:
        host = where
    if host.count(":") and not (host.startswith("[") and host.endswith("]")):
        raise click.BadParameter(f"{text!r}: write an IPv6 address in brackets: AET@[::1]:11112")
    host = host.removeprefix("[").removesuffix("]")
    if not host or any(char.isspace() for char in host):
        raise click.BadParameter(f"{text!r}: no host; write AET@host:port")
    return Address(host, port_of(number) if colon else DEFAULT_TLS_PORT if tls else DEFAULT_PORT, title, tls)


def port_of(text: str) -> int:
    """1 to 65535. Raises click.BadParameter."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65_536):
        raise click.BadParameter(f"{text!r} is no port; ports are 1 to 65535")
    return int(text)


def ae_title_fits(title: str) -> bool:
    """PS3.5 §6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash or control characters."""
    return bool(title.strip(" ")) and len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title
