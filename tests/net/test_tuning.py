"""What the sockets of an association carry: how soon a peer that vanished without a word is noticed by the system."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from router.model import TlsSettings
from router.net.dialer import associate
from router.net.tls import Credentials
from router.ul.association import AssociationSettings
from router.ul.pdus import AssociateRequest, ProposedContext
from tests.net.doubles import CT, EXPLICIT, LISTENER, Node, RecordingLog
from tests.support.authority import Authority

REQUEST = AssociateRequest(called_ae="ROUTER", calling_ae="US", contexts=(ProposedContext(1, CT, (EXPLICIT,)),))
SETTINGS = AssociationSettings(acse_timeout=5, release_timeout=5, artim_timeout=5, idle_timeout=None)
OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}
"""Seconds, but for the last: milliseconds."""


def carried(transport: asyncio.BaseTransport | None) -> dict[str, int]:
    assert transport is not None
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=descriptor) as sock:
        found = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS}
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    return found


@pytest.mark.parametrize("encrypted", [False, True])
async def test_both_ends_notice_a_peer_that_has_vanished(tmp_path: Path, encrypted: bool) -> None:
    """Silent: after 30 s and three questions, 10 s apart. Within what we send: after 60 s without acknowledgement."""
    node, credentials = Node(), None
    if encrypted:
        node, credentials = with_tls(Authority(tmp_path))
    async with node:
        dialed = await associate(
            "127.0.0.1",
            node.port,
            REQUEST,
            SETTINGS,
            connect_timeout=5,
            log=RecordingLog(),
            credentials=credentials,
        )
        [accepted] = node.server.connections
        assert carried(accepted.transport) == OPTIONS
        assert carried(dialed.transport) == OPTIONS
        dialed.release()
        await dialed.closed
        await node.settled()


def with_tls(authority: Authority) -> tuple[Node, Credentials]:
    server, client = (
        TlsSettings(
            certificate=str(identity.certificate),
            key=str(identity.key),
            ca=str(authority.file),
            place="router.toml:1:1: tls",
        )
        for identity in (authority.issue("server"), authority.issue("client", "ct1.hospital"))
    )
    node = Node(replace(LISTENER, tls=server))
    node.server.credentials = Credentials(server, server_side=True)
    return node, Credentials(client, server_side=False)
