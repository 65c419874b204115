"""Doubles for the stages around net and services, and a peer that sends exactly the bytes a test says.

``Node`` is a listener with the real acceptor on loopback, an intake that gathers in memory and can be told when to
answer, and counters
for everything that a leak would show in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from router.model import Limits, Listener, Origin, Peer
from router.net.admission import Gate
from router.net.listener import ListeningServer
from router.services.acceptor import serving
from router.ul.pdus import (
    AssociateRequest,
    ContextResult,
    ProposedContext,
    UserInformation,
    decode_request,
    encode_request,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

RELEASE_RQ = bytes.fromhex("05000000000400000000")
RELEASE_RP = bytes.fromhex("06000000000400000000")


def abort_pdu(source: int, reason: int) -> bytes:
    return bytes((7, 0, 0, 0, 0, 4, 0, 0, source, reason))


class RecordingLog:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **values: Any) -> None:
        self.lines.append(("debug", event, values))

    def info(self, event: str, **values: Any) -> None:
        self.lines.append(("info", event, values))

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append(("warning", event, values))

    def error(self, event: str, **values: Any) -> None:
        self.lines.append(("error", event, values))

    def levels(self) -> set[str]:
        return {level for level, _, _ in self.lines}


class CountingMetrics:
    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.refused: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.bytes = 0
        self.statuses: list[int] = []

    def association_opened(self) -> None:
        self.open += 1
        self.opened += 1

    def association_closed(self) -> None:
        self.open -= 1

    def rejected(self, reason: str) -> None:
        self.refused[reason] += 1

    def received(self, peer: str, size: int) -> None:
        self.objects[peer] += 1
        self.bytes += size

    def response(self, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.statuses.append(status)


class GatheringReception:
    """One data set; answered at once, or when the test says so."""

    def __init__(self, intake: GatheringIntake, facts: dict[str, Any], resume: Callable[[], None]) -> None:
        self.intake = intake
        self.facts = facts
        self.resume = resume
        self.data = bytearray()
        self.finished = False
        self.discarded = False
        self.answer: Callable[[int, str], None] | None = None

    read = None

    def write(self, fragment: memoryview) -> None:
        if self.intake.fault is not None:
            raise self.intake.fault
        self.data += fragment
        self.intake.arrived.set()

    def finish(self, done: Callable[[int, str], None]) -> None:
        assert not self.finished and not self.discarded
        self.finished = True
        self.answer = done
        self.intake.finished.append(self)
        self.intake.arrived.set()
        if self.intake.answer_at_once:
            done(*self.intake.status)

    def discard(self) -> None:
        assert not self.finished
        self.discarded = True
        self.intake.discarded += 1
        self.intake.arrived.set()

    @property
    def congested(self) -> bool:
        return self.intake.congested


class GatheringIntake:
    def __init__(self) -> None:
        self.answer_at_once = True
        self.status = (0x0000, "")
        self.congested = False
        self.fault: Exception | None = None
        self.begun: list[GatheringReception] = []
        self.finished: list[GatheringReception] = []
        self.discarded = 0
        self.arrived = asyncio.Event()

    def begin(
        self,
        origin: Origin,
        *,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        move_originator: tuple[str, int] | None,
        resume: Callable[[], None],
    ) -> GatheringReception:
        facts = {
            "origin": origin,
            "sop_class": sop_class,
            "sop_instance": sop_instance,
            "transfer_syntax": transfer_syntax,
            "move_originator": move_originator,
        }
        reception = GatheringReception(self, facts, resume)
        self.begun.append(reception)
        return reception

    @property
    def open(self) -> int:
        return len(self.begun) - len(self.finished) - self.discarded

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for something that arriving data brings about."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()


class House:
    """Whether the state of the disk lets associations in."""

    def __init__(self) -> None:
        self.refuses: tuple[int, int, int, str] | None = None

    def refusal(self) -> tuple[int, int, int, str] | None:
        return self.refuses


LISTENER = Listener(host="127.0.0.1", port=0, ae_titles=("ROUTER",), accept="any")


class Node:
    """A listener that serves, with everything around it made visible."""

    def __init__(self, listener: Listener = LISTENER, *, peers: Sequence[Peer] = (), **limits: Any) -> None:
        self.intake = GatheringIntake()
        self.house = House()
        self.log = RecordingLog()
        self.metrics = CountingMetrics()
        self.limits = replace(Limits(), **limits)
        self.gate = Gate(self.limits, peers, self.house)
        self.server = ListeningServer(
            listener,
            self.limits,
            self.gate,
            serving(self.intake, log=self.log),
            metrics=self.metrics,
            log=self.log,
        )

    async def __aenter__(self) -> Node:
        await self.server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.server.close()
        assert not self.server.connections
        assert self.gate.associations == 0 == self.metrics.open
        assert self.gate.handshakes == 0 == self.gate.handshake_memory
        assert self.intake.open == 0

    @property
    def port(self) -> int:
        return self.server.port

    async def settled(self, seconds: float = 10) -> None:
        """Every connection is gone."""
        async with asyncio.timeout(seconds):
            while self.server.connections:
                await asyncio.wait([connection.closed for connection in self.server.connections])

    @contextlib.asynccontextmanager
    async def peer(self, *, associated: bool = True, **options: Any) -> AsyncIterator[RawPeer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        peer = RawPeer(reader, writer)
        try:
            if associated:
                await peer.associate(**options)
            yield peer
        finally:
            await peer.close()


class RawPeer:
    """Sends bytes, reads PDUs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def pdu(self, seconds: float = 10) -> bytes:
        """The next PDU whole, or nothing if the connection ended."""
        async with asyncio.timeout(seconds):
            try:
                head = await self.reader.readexactly(6)
                return head + await self.reader.readexactly(int.from_bytes(head[2:], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""

    async def message(self) -> tuple[int, bytes]:
        """Context id and command set of the next message without data set, from one P-DATA-TF with one PDV."""
        pdu = await self.pdu()
        assert pdu[0] == 4, f"P-DATA-TF expected, got {pdu[:16].hex()}"
        assert pdu[11] == 3
        return pdu[10], pdu[12:]

    async def status(self) -> int:
        return element(await self.command(), 0x0900)

    async def command(self) -> bytes:
        return (await self.message())[1]

    async def associate(self, *contexts: tuple[str, str], **fields: Any) -> bytes:
        self.send(associate_rq(*contexts, **fields))
        answer = await self.pdu()
        assert answer[0] == 2, answer.hex()
        return answer

    async def ended(self, seconds: float = 10) -> bool:
        """The peer closed, and sent nothing more before that."""
        return await self.pdu(seconds) == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def associate_rq(
    *contexts: tuple[str, str],
    called: str = "ROUTER",
    calling: str = "MODALITY",
    max_length: int = 131072,
    async_window: tuple[int, int] | None = None,
) -> bytes:
    pairs = contexts or ((VERIFICATION, IMPLICIT), (CT, EXPLICIT))
    return encode_request(
        AssociateRequest(
            called_ae=called,
            calling_ae=calling,
            contexts=tuple(
                ProposedContext(2 * n + 1, abstract, (syntax,)) for n, (abstract, syntax) in enumerate(pairs)
            ),
            user=UserInformation(max_length=max_length, async_window=async_window),
        )
    )


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    """One P-DATA-TF with one PDV. Control: 1 command, 2 last."""
    return (
        b"\4\0"
        + (len(data) + 6).to_bytes(4, "big")
        + (len(data) + 2).to_bytes(4, "big")
        + bytes((context_id, control))
        + data
    )


def element(command: bytes, number: int) -> int:
    """A US element of a command set."""
    value = raw_element(command, number)
    assert value is not None, f"no element {number:04X}"
    return int.from_bytes(value, "little")


def raw_element(command: bytes, number: int) -> bytes | None:
    at = 0
    while at < len(command):
        length = int.from_bytes(command[at + 4 : at + 8], "little")
        if int.from_bytes(command[at + 2 : at + 4], "little") == number:
            return command[at + 8 : at + 8 + length]
        at += 8 + length
    return None


def command_set(**elements: int | str | bytes) -> bytes:
    """A command set from ``e0100=0x0030`` like arguments; text is padded to even length with NUL, bytes stay as they
    are."""
    body = b""
    for name, value in sorted(elements.items()):
        if isinstance(value, int):
            encoded = value.to_bytes(2, "little")
        elif isinstance(value, str):
            encoded = value.encode() + b"\0" * (len(value) % 2)
        else:
            encoded = value
        body += b"\0\0" + int(name[1:], 16).to_bytes(2, "little") + len(encoded).to_bytes(4, "little") + encoded
    return b"\0\0\0\0\4\0\0\0" + len(body).to_bytes(4, "little") + body


def echo_rq(message_id: int = 1) -> bytes:
    return command_set(e0002=VERIFICATION, e0100=0x0030, e0110=message_id, e0800=0x0101)


def store_rq(
    message_id: int = 1, sop_instance: str | bytes = "1.2.3.4", sop_class: str | bytes = CT, **more: Any
) -> bytes:
    elements: dict[str, Any] = {
        "e0002": sop_class,
        "e0100": 1,
        "e0110": message_id,
        "e0700": 0,
        "e0800": 1,
        "e1000": sop_instance,
    }
    return command_set(**(elements | more))


def store(data: bytes, message_id: int = 1, context_id: int = 3, **fields: Any) -> bytes:
    """A whole C-STORE-RQ in two P-DATA-TFs."""
    return p_data(context_id, 3, store_rq(message_id, **fields)) + p_data(context_id, 2, data)


@contextlib.asynccontextmanager
async def scripted_scp(script: Callable[[RawPeer], Awaitable[None]]) -> AsyncIterator[int]:
    """A peer that plays ``script`` for every connection; gives its port. A failing script fails the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        try:
            await script(peer)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            await peer.close()

    def started(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(play(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(started, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    for failure in failures:
        raise failure


def associate_ac(
    rq: bytes,
    results: dict[int, tuple[int, str]] | None = None,
    *,
    max_length: int | None = 131072,
    async_window: tuple[int, int] | None = None,
    extra_user_items: bytes = b"",
    extra_contexts: tuple[ContextResult, ...] = (),
) -> bytes:
    """An A-ASSOCIATE-AC to ``rq`` that accepts every context, or says ``results`` (context id to result and syntax)."""
    request = decode_request(rq[6:])
    if results is None:
        results = {context.id: (0, context.transfer_syntaxes[0]) for context in request.contexts}
    body = b"\0\1\0\0" + request.raw_header + item(0x10, b"1.2.840.10008.3.1.1.1")
    for context in (*(ContextResult(number, *result) for number, result in results.items()), *extra_contexts):
        content = bytes((context.id, 0, context.result, 0))
        if context.transfer_syntax != "omitted":
            content += item(0x40, context.transfer_syntax.encode())
        body += item(0x21, content)
    if max_length is not None:
        user = item(0x51, max_length.to_bytes(4, "big"))
        if async_window is not None:
            user += item(0x53, async_window[0].to_bytes(2, "big") + async_window[1].to_bytes(2, "big"))
        body += item(0x50, user + extra_user_items)
    return b"\2\0" + len(body).to_bytes(4, "big") + body


def item(kind: int, content: bytes) -> bytes:
    return bytes((kind, 0)) + len(content).to_bytes(2, "big") + content
