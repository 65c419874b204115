"""What a worker is given by its parent: who it is, and the whole configuration as the parent read it.

The configuration goes along so that a worker that is started again, long after, is like its siblings whatever has
become of the file meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
from dataclasses import dataclass, replace

from router.app.config import Config
from router.model import Share

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """Goes through the worker's standard input."""

    config: Config
    share: Share
    fresh: bool
    """The ledger was empty when the parent began."""
    parent: int
    """Process id."""
    lock: int
    """Descriptor of the spool's lock: held as long as any process of the router lives."""
    occupancy: int
    """Descriptor of the memory in which all workers count their associations."""
    ready: int
    """Descriptor of a pipe: one byte when the worker serves."""

    def encode(self) -> bytes:
        return pickle.dumps(self)

    @classmethod
    def decode(cls, data: bytes) -> Errand:
        """From a pipe that only the parent has written to. Raises ValueError."""
        value = pickle.loads(data)  # noqa: S301 (our own parent's)
        if not isinstance(value, cls):
            raise ValueError("not an errand")
        return value


def part_of(config: Config, share: Share, ports: tuple[int, ...]) -> Config:
    """The configuration of one worker: what bounds memory or a destination's associations for the node is divided.

    Args:
        ports: Of the listeners, as they are really bound.
    """
    limits = config.limits
    listeners = tuple(replace(listener, port=port) for listener, port in zip(config.listeners, ports, strict=True))
    names = {old.name: new.name for old, new in zip(config.listeners, listeners, strict=True)}
    return replace(
        config,
        listeners=listeners,
        peers=tuple(replace(peer, listeners=tuple(names[name] for name in peer.listeners)) for peer in config.peers),
        destinations=tuple(
            replace(destination, max_associations=share.part(destination.max_associations))
            for destination in config.destinations
        ),
        limits=replace(
            limits,
            ingest_memory=share.part(limits.ingest_memory),
            window_memory=share.part(limits.window_memory),
            handshake_memory=share.part(limits.handshake_memory),
            window=share.part(limits.window),
        ),
    )


def die_with_parent(parent: int) -> bool:
    """From here on the system kills this process when its parent ends; False if that has happened already.

    A router that lost its parent would hold the spool's lock for ever.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent
