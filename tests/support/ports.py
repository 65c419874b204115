"""Ports for peers that cannot be told to choose one themselves."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path


def _candidates() -> list[int]:
    """Outside of the range from which the system takes the near end of a connection: between our looking and the
    peer's listening, a connection of a test beside this one could take such a port."""
    every = range(10_000, 60_000)
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return list(every)
    return [port for port in every if not first <= port <= last] or list(every)


def _shuffled() -> Iterator[int]:
    """Each process in an order of its own, none twice before all were used."""
    ports = _candidates()
    while True:
        random.SystemRandom().shuffle(ports)
        yield from ports


_PORTS = _shuffled()


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago and that nothing else is about to take.

    Raises:
        OSError: None of 1,000 was free.
    """
    for _ in range(1000):
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port among 1,000")
