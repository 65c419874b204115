"""TLS between two of our own ends: who gets in, who is refused and why, and that bytes flow as they do without it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from router.errors import AssociationRejected, DeliveryError, TlsFailure
from router.model import CertificateBinding, Peer, TlsSettings
from router.net.dialer import DialedConnection, associate
from router.net.tls import ALIASES, PROFILES, Credentials, TlsFilesError, examine, make_context
from router.net.tls_transport import TlsTransport
from router.net.x509 import read_certificate
from router.services.storage_scu import StorageScu, propose
from router.ul.association import AssociationSettings
from tests.net.doubles import CT, EXPLICIT, IMPLICIT, LISTENER, VERIFICATION, Node, RawPeer, RecordingLog, associate_rq
from tests.support.authority import DAY, Authority, Identity
from tests.support.peers import require
from tests.support.seen import Seen
from tests.torture.figures import Figure, report

SETTINGS = AssociationSettings(acse_timeout=5, release_timeout=5, artim_timeout=5, idle_timeout=None)
PAIRS = [(CT, EXPLICIT), (VERIFICATION, IMPLICIT)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "foreign")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("client", "ct1.hospital")


def settings(identity: Identity | None, authority: Authority | None, **more: Any) -> TlsSettings:
    return TlsSettings(
        certificate=str(identity.certificate) if identity else "",
        key=str(identity.key) if identity else "",
        ca=str(authority.file) if authority else "",
        place="router.toml:1:1: tls",
        **more,
    )


@contextlib.asynccontextmanager
async def node(tls: TlsSettings, **options: Any) -> AsyncIterator[Node]:
    listening = Node(replace(LISTENER, tls=tls), **options)
    listening.server.credentials = Credentials(tls, server_side=True)
    async with listening:
        yield listening


async def dial(port: int, tls: TlsSettings, *, calling: str = "CT1", host: str = "127.0.0.1") -> DialedConnection:
    return await associate(
        host,
        port,
        propose(PAIRS, called_ae="ROUTER", calling_ae=calling, async_operations=8),
        SETTINGS,
        connect_timeout=10,
        log=RecordingLog(),
        credentials=Credentials(tls, server_side=False),
    )


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def reasons(node: Node) -> list[str]:
    return [values.get("reason", "") for _, event, values in node.log.lines if event.startswith("security")]


# Who gets in -----------------------------------------------------------------------------------------------


class Source:
    """A data set in memory, or in pieces."""

    move_originator = None

    def __init__(self, data: bytes, *, streamed: bool = False) -> None:
        self.data = data
        self.size: int | None = len(data)
        self.buffers = None if streamed else (data,)

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.data), 100_000):
            yield self.data[at : at + 100_000]


async def store(connection: DialedConnection, *sources: Source) -> list[int]:
    scu = StorageScu(connection, response_timeout=20, log=RecordingLog())
    statuses = []
    for number, source in enumerate(sources):
        info = type("Info", (), {
            "sop_class": CT, "sop_instance": f"1.2.3.{number}", "transfer_syntax": EXPLICIT, "move_originator": None,
        })()  # fmt: skip
        statuses.append((await scu.store(info, source)).status)
    await scu.release()
    return statuses


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_sent_arrives_byte_for_byte(
    authority: Authority, server: Identity, client: Identity, profile: str, version: ssl.TLSVersion
) -> None:
    data = [bytes([n]) * size for n, size in enumerate((2, 1_000, 16_384, 300_001, 3_000_000))]
    async with node(settings(server, authority, profile=profile)) as listening:
        assert listening.server.credentials is not None
        listening.server.credentials.context.maximum_version = version
        connection = await dial(listening.port, settings(client, authority, profile=profile))
        assert connection.transport is not None
        seen = connection.transport.get_extra_info("ssl_object")
        assert seen.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert seen.compression() is None
        sources = [Source(one, streamed=at % 2 == 1) for at, one in enumerate(data)]
        assert await store(connection, *sources) == [0] * len(data)
        assert [bytes(one.data) for one in listening.intake.finished] == data
        await listening.settled()


async def test_several_operations_at_once_come_back_in_order(
    authority: Authority, server: Identity, client: Identity
) -> None:
    async with node(settings(server, authority)) as listening:
        connection = await dial(listening.port, settings(client, authority))
        scu = StorageScu(connection, response_timeout=20, log=RecordingLog())
        assert scu.window == 8
        payloads = [bytes([n]) * 400_000 for n in range(8)]
        futures = []
        for number, data in enumerate(payloads):
            info = type("Info", (), {
                "sop_class": CT, "sop_instance": f"1.2.4.{number}", "transfer_syntax": EXPLICIT,
                "move_originator": None,
            })()  # fmt: skip
            futures.append(scu.store(info, Source(data)))
        assert [(await one).status for one in futures] == [0] * 8
        assert [bytes(one.data) for one in listening.intake.finished] == payloads
        await scu.release()


async def test_a_listener_that_does_not_read_stops_the_sender(
    authority: Authority, server: Identity, client: Identity
) -> None:
    """Back-pressure reaches through TLS, and what was held back arrives whole."""
    data = bytes(range(256)) * 100_000  # 25.6 MB
    async with node(settings(server, authority)) as listening:
        listening.intake.congested = True
        connection = await dial(listening.port, settings(client, authority))
        task = asyncio.ensure_future(store(connection, Source(data, streamed=True)))
        await until(lambda: bool(listening.intake.begun))
        transport = connection.transport
        assert transport is not None
        await until(lambda: not connection._writable)
        taken = len(listening.intake.begun[0].data)
        # More than is in the buffers of both sides never left the sender.
        assert taken < 2_000_000
        assert transport.get_write_buffer_size() < 4_000_000
        listening.intake.congested = False
        listening.intake.begun[0].resume()
        assert await task == [0]
        assert bytes(listening.intake.finished[0].data) == data


class Reader(asyncio.BufferedProtocol):
    """Takes a little at a time, and rests after each piece."""

    def __init__(self, *, rests: bool) -> None:
        self.view = memoryview(bytearray(5_000))
        self.data = bytearray()
        self.rests = rests
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.view[:nbytes]
        if self.rests:
            self.transport.pause_reading()
            assert not self.transport.is_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


class Writer(asyncio.BufferedProtocol):
    writable = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(bytearray(100))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True


@contextlib.asynccontextmanager
async def pair(reader: Reader, server: TlsSettings, client: TlsSettings) -> AsyncIterator[tuple[TlsTransport, Writer]]:
    """A writer's transport to ``reader``, the handshake done."""
    loop = asyncio.get_running_loop()
    held = Credentials(server, server_side=True), Credentials(client, server_side=False)
    listening = await loop.create_server(lambda: TlsTransport(reader, held[0], loop), "127.0.0.1", 0)  # type: ignore[arg-type]
    port = listening.sockets[0].getsockname()[1]
    writer = Writer()
    _, transport = await loop.create_connection(
        lambda: TlsTransport(writer, held[1], loop, host="127.0.0.1"),
        "127.0.0.1",
        port,  # type: ignore[arg-type]
    )
    try:
        await transport.established
        yield transport, writer
    finally:
        transport.abort()
        await asyncio.wait_for(reader.ended, 10)
        listening.close()


async def test_nothing_is_left_behind_when_reading_goes_on(
    authority: Authority, server: Identity, client: Identity
) -> None:
    """What is decrypted already is handed on although the socket has nothing more."""
    reader = Reader(rests=True)
    async with pair(reader, settings(server, authority), settings(client, authority)) as (transport, _):
        data = bytes(range(251)) * 800
        transport.write(data)
        await until(lambda: len(reader.data) == len(data))
        assert reader.data == data


async def test_what_is_written_before_a_close_arrives_and_is_not_encrypted_before_it_can_leave(
    authority: Authority, server: Identity, client: Identity
) -> None:
    reader = Reader(rests=False)
    async with pair(reader, settings(server, authority), settings(client, authority)) as (transport, writer):
        await until(lambda: reader.transport is not None)
        reader.transport.pause_reading()
        data = bytes(range(256)) * 100_000  # 25.6 MB
        transport.writelines([data[:12], data[12:20_000_000], b"", data[20_000_000:]])
        await until(lambda: not writer.writable)
        transport.close()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() > 10_000_000
        assert transport._raw is not None
        assert transport._raw.get_write_buffer_size() < 1_000_000
        reader.transport.resume_reading()
        await until(reader.ended.done, 30)
        assert reader.data == data


SEEN = Seen()
BAD_CLIENTS: dict[str, Callable[[Authority, Authority], tuple[Identity | None, str]]] = {
    "expired": lambda own, _: (own.issue("expired", begins=-2 * DAY, ends=-DAY), "expired"),
    "not yet valid": lambda own, _: (own.issue("early", begins=DAY), "not yet valid"),
    "of a foreign CA": lambda _, other: (other.issue("stranger"), "issuer"),
    "self-signed": lambda own, _: (own.issue("self", self_signed=True), "self-signed"),
    "revoked": lambda own, _: (revoked(own), "revoked"),
    "none": lambda _own, _other: (None, "no certificate"),
}


def revoked(own: Authority) -> Identity:
    identity = own.issue("revoked")
    own.revoke(identity)
    return identity


@pytest.mark.parametrize("case", list(BAD_CLIENTS))
async def test_a_client_without_a_good_certificate_is_refused(
    authority: Authority, foreign: Authority, server: Identity, case: str
) -> None:
    identity, why = BAD_CLIENTS[case](authority, foreign)
    crl = str(authority.revoke())
    async with node(settings(server, authority, crl=crl)) as listening:
        with pytest.raises(TlsFailure, match="refuses our certificate"):
            await dial(listening.port, settings(identity, authority))
        await listening.settled()
        assert listening.metrics.refused.total() == 1
        assert why in reasons(listening)[0]
        assert not listening.intake.begun
    SEEN.add(f"client {case}")


async def test_a_certificate_that_is_not_on_the_revocation_list_gets_in(
    authority: Authority, server: Identity, client: Identity
) -> None:
    async with node(settings(server, authority, crl=str(authority.revoke()))) as listening:
        (await dial(listening.port, settings(client, authority))).release()
        await listening.settled()


@pytest.mark.parametrize(
    ("case", "why"),
    [("neither revoked", ""), ("authority revoked", "revoked"), ("no list of the authority above", "CRL")],
)
async def test_an_authority_between_is_looked_up_in_the_lists_too(
    tmp_path: Path, authority: Authority, server: Identity, case: str, why: str
) -> None:
    between = Authority(tmp_path / "between", "between", above=authority)
    client = between.issue("client of it")
    lists = tmp_path / "all.crl"
    above = authority.revoke(*([between] if case == "authority revoked" else []))
    lists.write_bytes(between.revoke().read_bytes() + (b"" if case.startswith("no list") else above.read_bytes()))
    async with node(settings(server, authority, crl=str(lists))) as listening:
        if why:
            with pytest.raises(TlsFailure, match="refuses our certificate"):
                await dial(listening.port, settings(client, authority))
            await listening.settled()
            assert why in reasons(listening)[0]
        else:
            (await dial(listening.port, settings(client, authority))).release()
            await listening.settled()


@pytest.mark.parametrize("asked", ["optional", "none"])
async def test_a_client_without_certificate_gets_in_where_that_was_said(
    authority: Authority, server: Identity, asked: str
) -> None:
    async with node(settings(server, authority, client_certificates=asked)) as listening:
        (await dial(listening.port, settings(None, authority))).release()
        await listening.settled()


async def test_optional_does_not_let_a_bad_certificate_in(
    authority: Authority, foreign: Authority, server: Identity
) -> None:
    async with node(settings(server, authority, client_certificates="optional")) as listening:
        with pytest.raises(TlsFailure):
            await dial(listening.port, settings(foreign.issue("bad"), authority))
        await listening.settled()


BAD_SERVERS: dict[str, Callable[[Authority, Authority], tuple[Identity, str]]] = {
    "expired": lambda own, _: (own.issue("s-expired", begins=-2 * DAY, ends=-DAY), "expired"),
    "not yet valid": lambda own, _: (own.issue("s-early", begins=DAY), "not yet valid"),
    "of a foreign CA": lambda _, other: (other.issue("s-stranger"), "issuer"),
    "self-signed": lambda own, _: (own.issue("s-self", self_signed=True), "self-signed"),
    "for another address": lambda own, _: (own.issue("s-other", "127.0.0.2"), "IP address mismatch"),
    "for a name": lambda own, _: (own.issue("s-name", "pacs.hospital"), "IP address mismatch"),
    "revoked": lambda own, _: (revoked(own), "revoked"),
}


@pytest.mark.parametrize("case", list(BAD_SERVERS))
async def test_a_destination_without_a_good_certificate_gets_nothing(
    authority: Authority, foreign: Authority, client: Identity, case: str
) -> None:
    identity, why = BAD_SERVERS[case](authority, foreign)
    async with node(settings(identity, authority)) as listening:
        with pytest.raises(TlsFailure, match=why):
            await dial(listening.port, settings(client, authority, crl=str(authority.revoke())))
        await listening.settled()
        assert listening.metrics.opened == 0
    SEEN.add(f"server {case}")


def test_certificates_have_their_figure(campaign: bool) -> None:
    expected = {f"client {case}" for case in BAD_CLIENTS} | {f"server {case}" for case in BAD_SERVERS}
    report(
        Figure(
            test="T28",
            promise="certificates that are expired, not yet valid, of a foreign CA, self-signed, revoked, for another "
            "host, or missing: of peers that call us, and of destinations",
            goal="0 associations",
            found=f"0; {len(BAD_CLIENTS)} kinds of clients and {len(BAD_SERVERS)} of servers, each refused for its "
            "reason, on both event loops",
            n=SEEN.all_of(expected),
            command="make torture (tests/net/test_tls.py)",
        ),
        keep=campaign,
    )


async def test_a_peer_that_drops_the_connection_behind_the_handshake_may_refuse_our_certificate(
    authority: Authority, server: Identity, client: Identity
) -> None:
    """What it said of that in TLS 1.3 is lost if our request was under way."""
    context = make_context(settings(server, authority), server_side=True)
    gone: list[asyncio.StreamWriter] = []

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()
        gone.append(writer)

    async with await asyncio.start_server(drop, "127.0.0.1", 0, ssl=context) as peer:
        with pytest.raises(TlsFailure, match="refuses our certificate"):
            await dial(peer.sockets[0].getsockname()[1], settings(client, authority))
        await until(lambda: bool(gone))


async def test_the_name_in_a_certificate_may_be_said(authority: Authority, client: Identity) -> None:
    async with node(settings(authority.issue("named", "pacs.hospital"), authority)) as listening:
        (await dial(listening.port, settings(client, authority, server_name="pacs.hospital"))).release()
        await listening.settled()
        with pytest.raises(TlsFailure, match="Hostname mismatch"):
            await dial(listening.port, settings(client, authority, server_name="other.hospital"))
        await listening.settled()


async def test_a_pinned_key_needs_no_name_and_no_authority(
    authority: Authority, foreign: Authority, client: Identity
) -> None:
    own = foreign.issue("pinned", "elsewhere", self_signed=True)
    async with node(settings(own, authority)) as listening:
        (await dial(listening.port, settings(client, None, public_keys=(own.public_key_sha256,)))).release()
        await listening.settled()
        with pytest.raises(TlsFailure, match="pinned"):
            await dial(listening.port, settings(client, None, public_keys=(client.public_key_sha256,)))
        await listening.settled()
        with pytest.raises(TlsFailure, match="self-signed"):
            await dial(listening.port, settings(client, authority, public_keys=(own.public_key_sha256,)))
        await listening.settled()


async def test_a_pinned_key_does_not_outlive_its_certificate(authority: Authority, client: Identity) -> None:
    old = authority.issue("old", begins=-2 * DAY, ends=-DAY)
    async with node(settings(old, authority)) as listening:
        with pytest.raises(TlsFailure, match="expired"):
            await dial(listening.port, settings(client, None, public_keys=(old.public_key_sha256,)))
        await listening.settled()


# AE titles and certificates --------------------------------------------------------------------------------


def bound(client: Identity, how: str) -> CertificateBinding:
    if how == "by key":
        return CertificateBinding(public_keys=(client.public_key_sha256,))
    return CertificateBinding(names=("ct1.hospital",))


@pytest.mark.parametrize("how", ["by key", "by name"])
@pytest.mark.parametrize("accept", ["known", "any"])
async def test_an_ae_title_is_used_by_its_certificate_only(
    authority: Authority, server: Identity, client: Identity, how: str, accept: str
) -> None:
    peers = (Peer(name="ct1", ae_title="CT1", certificate=bound(client, how)), Peer(name="ct2", ae_title="CT2"))
    other = authority.issue("other", "ct2.hospital")
    listening = Node(replace(LISTENER, accept=accept), peers=peers)
    listening.server.credentials = Credentials(settings(server, authority), server_side=True)
    async with listening:

        async def answer(identity: Identity, calling: str) -> tuple[int, int, int] | None:
            try:
                connection = await dial(listening.port, settings(identity, authority), calling=calling)
            except AssociationRejected as error:
                return error.result, error.source, error.reason
            connection.release()
            await connection.closed
            return None

        assert await answer(client, "CT1") is None
        assert await answer(other, "CT2") is None
        assert await answer(other, "CT1") == (1, 1, 3)
        # What is bound to CT1 is not good for CT2, although CT2 takes any.
        assert await answer(client, "CT2") == (1, 1, 3)
        assert listening.metrics.refused == {"certificate": 2}
        assert sum(event.startswith("security: AE title") for _, event, _ in listening.log.lines) == 2
        await listening.settled()


async def test_an_ae_title_with_a_certificate_cannot_be_used_without_tls(client: Identity) -> None:
    bound_peer = Peer(name="ct1", ae_title="CT1", certificate=bound(client, "by key"))
    async with Node(peers=[bound_peer]) as plain, plain.peer(associated=False) as peer:
        peer.send(associate_rq(calling="CT1"))
        assert (await peer.pdu())[6:] == bytes((0, 1, 1, 3))


# Old and foreign speech ------------------------------------------------------------------------------------


def s_client(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input="", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


WEAK = {
    "TLS 1.0": ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
    "TLS 1.1": ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
    "CBC": ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA"),
    "no forward secrecy": ("-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-GCM-SHA384"),
    "no encryption": ("-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"),
}


@pytest.mark.parametrize("case", list(WEAK))
@pytest.mark.parametrize("profile", list(PROFILES))
async def test_what_the_profile_forbids_is_not_negotiated(
    authority: Authority, server: Identity, case: str, profile: str
) -> None:
    async with node(settings(server, authority, profile=profile, client_certificates="none")) as listening:
        done = await asyncio.to_thread(s_client, listening.port, *WEAK[case])
        assert done.returncode != 0
        assert "Cipher is ECDHE" not in done.stdout
        await listening.settled()
        assert listening.metrics.refused.total() == 1, done.stderr
        allowed = await asyncio.to_thread(s_client, listening.port, "-tls1_2")
        assert "Cipher is ECDHE-ECDSA" in allowed.stdout
        await listening.settled()


async def test_a_client_cannot_renegotiate(authority: Authority, server: Identity) -> None:
    async with node(settings(server, authority, client_certificates="none")) as listening:
        context = listening.server.credentials.context  # type: ignore[union-attr]
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        asked = await asyncio.to_thread(
            subprocess.run,
            [require("openssl"), "s_client", "-connect", f"127.0.0.1:{listening.port}", "-tls1_2"],
            input="R\n", capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert "no renegotiation" in asked.stderr.lower() or asked.returncode != 0
        await listening.settled()


@pytest.mark.parametrize("linger", [None, 0], ids=["FIN", "RST"])
async def test_a_peer_that_ends_the_handshake_without_a_word_is_told_of_as_such(
    authority: Authority, client: Identity, linger: int | None
) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if linger is not None:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger))
        writer.close()

    peer = await asyncio.start_server(close, "127.0.0.1", 0)
    async with peer:
        with pytest.raises(DeliveryError, match="closed by the peer in the TLS handshake"):
            await dial(peer.sockets[0].getsockname()[1], settings(client, authority))


async def test_a_plain_peer_on_a_port_of_tls_is_told_apart(authority: Authority, server: Identity) -> None:
    async with node(settings(server, authority)) as listening:
        async with listening.peer(associated=False) as peer:
            peer.send(associate_rq())
            assert await peer.ended()
        await listening.settled()
        assert listening.metrics.refused == {"tls_plain_peer": 1}
        assert reasons(listening) == ["the peer does not speak TLS on this port"]


async def test_a_tls_peer_on_a_plain_port_is_told_apart(authority: Authority, client: Identity) -> None:
    async with Node() as plain:
        with pytest.raises(TlsFailure, match="does not speak TLS"):
            await dial(plain.port, settings(client, authority))
        await plain.settled()
        assert plain.metrics.refused == {"tls_on_plain_port": 1}
        assert any("speaks TLS" in event for _, event, _ in plain.log.lines)


# Those that never finish -----------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["silent", "half a hello"])
async def test_a_handshake_has_the_deadline_of_the_association(
    authority: Authority, server: Identity, half: bytes
) -> None:
    async with node(settings(server, authority), handshake_timeout=0.3) as listening:
        async with listening.peer(associated=False) as peer:
            peer.send(half)
            await until(lambda: listening.gate.handshakes == 1)
            assert await peer.ended(5)
        await listening.settled()
        assert listening.gate.handshakes == 0


async def test_time_in_the_handshake_is_not_given_again_to_the_request(
    authority: Authority, server: Identity, client: Identity
) -> None:
    async with node(settings(server, authority), handshake_timeout=1.0) as listening:
        started = asyncio.get_running_loop().time()
        context = make_context(settings(client, authority), server_side=False)
        raw = socket.create_connection(("127.0.0.1", listening.port))
        raw.setblocking(False)
        await until(lambda: asyncio.get_running_loop().time() > started + 0.6)
        reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="127.0.0.1")
        peer = RawPeer(reader, writer)
        assert await peer.ended(5)
        assert asyncio.get_running_loop().time() - started < 1.5
        writer.close()
        await listening.settled()


async def test_unfinished_handshakes_take_places_of_their_own(
    authority: Authority, server: Identity, client: Identity
) -> None:
    async with node(settings(server, authority), handshakes=3, handshakes_per_address=3) as listening:
        silent = [socket.create_connection(("127.0.0.1", listening.port)) for _ in range(3)]
        await until(lambda: listening.gate.handshakes == 3)
        # From the second budget, as everywhere.
        (await dial(listening.port, settings(client, authority))).release()
        for one in silent:
            one.close()
        await listening.settled()


async def test_a_destination_that_never_answers_the_hello_costs_the_time_to_connect(
    authority: Authority, client: Identity
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(DeliveryError, match="timed out"):
        await associate(
            "127.0.0.1", deaf.getsockname()[1], propose(PAIRS, called_ae="A", calling_ae="B"), SETTINGS,
            connect_timeout=0.3, log=RecordingLog(),
            credentials=Credentials(settings(client, authority), server_side=False),
        )  # fmt: skip


async def test_garbage_behind_the_handshake_ends_the_association(
    authority: Authority, server: Identity, client: Identity
) -> None:
    async with node(settings(server, authority)) as listening:
        connection = await dial(listening.port, settings(client, authority))
        transport = connection.transport
        assert isinstance(transport, TlsTransport)
        raw = transport._raw
        assert raw is not None
        raw.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        await connection.closed
        await listening.settled()
        assert connection.error is not None


# Files -----------------------------------------------------------------------------------------------------


def test_older_names_never_weaken() -> None:
    def suites(name: str) -> set[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers(PROFILES[name])
        return {one["name"] for one in context.get_ciphers()}

    for profile in PROFILES:
        assert all(name.startswith(("ECDHE-", "TLS_")) for name in suites(profile))
        assert not any("CBC" in name or name.endswith(("SHA", "CCM8")) for name in suites(profile))
    assert set(ALIASES.values()) <= set(PROFILES)


def broken(authority: Authority, case: str) -> tuple[TlsSettings, str]:
    good, other = authority.issue("f-good"), authority.issue("f-other")
    whole = settings(good, authority)
    junk = authority.folder / "junk.pem"
    if case == "another's key":
        return replace(whole, key=str(other.key)), "do not belong together"
    if case == "missing":
        return replace(whole, certificate=str(authority.folder / "nothing.pem")), "cannot be read"
    if case == "not PEM":
        junk.write_bytes(b"\x30\x03\x02\x01\x01")
        return replace(whole, certificate=str(junk)), "no certificate in PEM"
    if case == "half a certificate":
        junk.write_bytes(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        return replace(whole, certificate=str(junk)), "cannot be read"
    if case == "for everybody to read":
        good.key.chmod(0o644)
        return whole, "can be read by others"
    if case == "encrypted":
        subprocess.run(
            [require("openssl"), "pkey", "-in", good.key, "-out", junk, "-aes256", "-passout", "pass:x"], check=True
        )
        junk.chmod(0o600)
        return replace(whole, key=str(junk)), "is encrypted"
    if case == "weak":
        return settings(authority.issue("f-weak", kind="RSA1024"), authority), "too weak"
    assert case == "a certificate for a list"
    return replace(whole, crl=str(good.certificate)), "no revocation list"


BROKEN = [
    "another's key", "missing", "not PEM", "half a certificate", "for everybody to read", "encrypted", "weak",
    "a certificate for a list",
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_named(authority: Authority, case: str) -> None:
    tls, why = broken(authority, case)
    with pytest.raises(TlsFilesError, match=why):
        Credentials(tls, server_side=True)
    problems, _ = examine(tls, 0, server_side=True)
    assert any(why in problem for problem in problems)


def test_a_broken_new_file_keeps_what_was_read_before(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    held = Credentials(settings(authority.issue("one"), authority), server_side=True)
    context, certificate = held.context, held.certificate
    (tmp_path / "one.pem").write_text("broken")
    with pytest.raises(TlsFilesError):
        held.reload()
    assert held.context is context
    assert held.certificate is certificate


@pytest.mark.parametrize(
    ("ends", "problem", "warning"),
    [
        (timedelta(days=31), "", ""),
        (timedelta(days=29), "", "expires in less than 30 days"),
        (timedelta(days=6), "", "expires in less than 7 days"),
        (timedelta(seconds=-1), "is expired", ""),
    ],
)
def test_the_end_of_a_certificate_is_told_in_time(
    authority: Authority, ends: timedelta, problem: str, warning: str
) -> None:
    identity = authority.issue("ending", begins=-40 * DAY, ends=ends)
    problems, warnings = examine(settings(identity, authority), time.time(), server_side=True)
    assert [problem in one for one in problems] == [True] * bool(problem)
    assert [warning in one for one in warnings] == [True] * bool(warning)


def test_an_outdated_revocation_list_is_told(authority: Authority, server: Identity) -> None:
    crl = authority.revoke(ends=-DAY)
    try:
        problems, _ = examine(settings(server, authority, crl=str(crl)), time.time(), server_side=True)
    finally:
        authority.revoke()
    assert any("crl" in problem and "expired" in problem for problem in problems)


def test_what_we_read_of_a_certificate_is_what_is_in_it(authority: Authority) -> None:
    names = ("ct1.hospital", "10.1.2.3", "2001:db8::1", "urn:ct:1")
    for kind, bits in (("EC", 256), ("RSA2048", 2048)):
        identity = authority.issue("read", *names, kind=kind, begins=-60 * 365 * DAY)
        found = read_certificate(ssl.PEM_cert_to_DER_cert(identity.certificate.read_text()))
        assert found.public_key == identity.public_key_sha256
        assert (found.key_kind, found.key_bits) == (kind[: 2 + (kind != "EC")], bits)
        assert set(found.names) == set(names)
        assert found.not_after == identity.issued.not_valid_after_utc.timestamp()
        assert found.not_before == identity.issued.not_valid_before_utc.timestamp()


def test_the_commands_of_the_documentation_make_files_that_fit(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    recipe = text.partition("\n## TLS\n")[2].split("```")[1]
    require("openssl")
    subprocess.run(["sh", "-eu"], input=recipe, text=True, cwd=tmp_path, check=True, capture_output=True)
    tls = TlsSettings(
        certificate=str(tmp_path / "router.pem"), key=str(tmp_path / "router.key"), ca=str(tmp_path / "ca.pem")
    )
    certificate = Credentials(tls, server_side=True).certificate
    assert certificate is not None
    assert certificate.names == ("router-1.hospital", "10.1.2.1")
    assert examine(tls, time.time(), server_side=True) == ([], [])


def test_a_damaged_certificate_is_never_more_than_a_value_error(authority: Authority, server: Identity) -> None:
    whole = ssl.PEM_cert_to_DER_cert(server.certificate.read_text())
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :]):
            with contextlib.suppress(ValueError):
                read_certificate(damaged)
