"""Packets of one port that vanish, as behind a cable that was pulled: no end of the connection is told."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.peers import cannot, require


def _nft(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require("nft"), "-f", "-"], input=script, capture_output=True, text=True, check=False, timeout=30
    )


@functools.cache
def _refusal() -> str:
    """Why this system lets nobody drop packets; empty: it does."""
    name = f"dicom_router_probe_{os.getpid()}"
    made = _nft(f"add table inet {name}")
    _nft(f"delete table inet {name}")
    return made.stderr.strip() if made.returncode else ""


@contextmanager
def cut_off(port: int) -> Iterator[None]:
    """Everything to and from this port of loopback is lost until the block is left."""
    if why := _refusal():
        cannot(f"packets cannot be dropped here: {why}")
    name = f"dicom_router_{os.getpid()}_{port}"
    chain = f"inet {name} both"
    rules = [
        f"add table inet {name}",
        f"add chain {chain} {{ type filter hook input priority 0; policy accept; }}",
        f'add rule {chain} iifname "lo" tcp dport {port} drop',
        f'add rule {chain} iifname "lo" tcp sport {port} drop',
    ]
    made = _nft("\n".join(rules) + "\n")
    if made.returncode:
        raise RuntimeError(made.stderr)
    try:
        yield
    finally:
        subprocess.run([require("nft"), "delete", "table", "inet", name], check=True, timeout=30)


def kill_connections(port: int) -> bool | None:
    """Every connection of this port is ended at both ends, as by a firewall that starts again.

    Returns:
        Whether there was one; None where that cannot be done.
    """
    done = subprocess.run(
        [require("ss"), "-K", "-H", "-t", f"( sport = :{port} or dport = :{port} )"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return None if done.returncode or done.stderr.strip() else bool(done.stdout.strip())
