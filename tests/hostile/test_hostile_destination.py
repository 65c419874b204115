"""Destinations that break the protocol: nothing counts as delivered that was not, memory stays, and the lane goes on.

One router delivers one object to all of them at once. Each misbehaves on its first association and is a good one after
that, so that what was not delivered, and nothing else, must arrive once more.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from router.dimse.command import encode_c_echo_rq, encode_response, parse_command
from router.ul.pdus import AssociateAccept, ContextResult, UserInformation, decode_request, encode_accept
from tests.hostile.support import forget_peak, resident
from tests.net.doubles import command_set
from tests.support.objects import encode, synthetic
from tests.support.peers import wait_for
from tests.support.plain_pdu import p_data
from tests.support.router_process import RouterProcess
from tests.support.script import ABORT, CT, EXPLICIT
from tests.support.wire import MAX, WireSender, WireSink, read_pdu

MIB = 1 << 20
RELEASE_RQ = bytes.fromhex("05000000000400000000")
FLOOD = 32 * MIB
"""Bytes that a flooding destination tries to send."""
OPTIONS = """
connect_timeout = 3.0
acse_timeout = 2.0
response_timeout = 3.0
release_timeout = 1.0
idle_timeout = 1.0
"""


Results = tuple[ContextResult, ...]


def accept(body: bytes, change: Callable[[Results], Results] = lambda results: results) -> bytes:
    asked = decode_request(body)
    results = tuple(ContextResult(item.id, 0, item.transfer_syntaxes[0]) for item in asked.contexts)
    user = UserInformation(max_length=MAX, implementation_class_uid="2.25.1")
    return encode_accept(AssociateAccept(contexts=change(results), user=user, raw_header=asked.raw_header))


class Talk:
    """The hostile side of one association."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(20)

    def request(self) -> bytes:
        pdu = read_pdu(self.connection)
        assert pdu is not None
        return pdu[1]

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def accept(self) -> None:
        self.send(accept(self.request()))

    def instance(self) -> tuple[int, bytes, bytes]:
        """Takes one C-STORE-RQ whole; gives its context, its response of success, and the same for another message."""
        command, context = b"", 0
        while (pdu := read_pdu(self.connection)) is not None:
            context, control = pdu[1][4], pdu[1][5]
            if control & 1:
                command += pdu[1][6:]
            elif control & 2:
                good = encode_response(parse_command(command), 0)
                at = good.index(b"\0\0\x20\x01\2\0\0\0") + 8
                number = int.from_bytes(good[at : at + 2], "little") ^ 0x55
                return context, good, good[:at] + number.to_bytes(2, "little") + good[at + 2 :]
        raise ConnectionError

    def flood(self, data: bytes) -> None:
        for _ in range(FLOOD // len(data)):
            self.send(data)

    def wait(self) -> None:
        """Until the router ends it."""
        while read_pdu(self.connection) is not None:
            pass


def says_nothing(talk: Talk) -> None:
    talk.wait()


def accepts_before_it_is_asked(talk: Talk) -> None:
    talk.send(bytes.fromhex("0200000000440001") + bytes(66))
    talk.wait()


def answers_with_no_pdu(talk: Talk) -> None:
    talk.request()
    talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    talk.wait()


def accepts_with_4_gib(talk: Talk) -> None:
    talk.request()
    talk.send(struct.pack(">BBI", 2, 0, 0xFFFFFFFF))
    talk.flood(bytes(MIB))


def accepts_what_was_not_proposed(talk: Talk) -> None:
    talk.send(accept(talk.request(), lambda _: (ContextResult(99, 0, EXPLICIT), ContextResult(255, 0, EXPLICIT))))
    talk.wait()


def accepts_another_transfer_syntax(talk: Talk) -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    talk.send(accept(talk.request(), lambda results: tuple(ContextResult(item.id, 0, jpeg) for item in results)))
    talk.wait()


def accepts_twice(talk: Talk) -> None:
    body = talk.request()
    talk.send(accept(body) * 2)
    talk.wait()


def responds_before_the_request(talk: Talk) -> None:
    response = command_set(e0002=CT, e0100=0x8001, e0120=1, e0800=0x0101, e0900=0)
    talk.send(accept(talk.request()) + p_data(1, 3, response))
    talk.wait()


def never_responds(talk: Talk) -> None:
    talk.accept()
    talk.instance()
    talk.wait()


def responds_to_another_message(talk: Talk) -> None:
    talk.accept()
    context, _, other = talk.instance()
    talk.send(p_data(context, 3, other))
    talk.wait()


def responds_on_another_context(talk: Talk) -> None:
    talk.accept()
    context, good, _ = talk.instance()
    talk.send(p_data(context + 2, 3, good))
    talk.wait()


def asks_instead_of_responding(talk: Talk) -> None:
    talk.accept()
    context, _, _ = talk.instance()
    talk.send(p_data(context, 3, encode_c_echo_rq(1)))
    talk.wait()


def responds_without_a_status(talk: Talk) -> None:
    talk.accept()
    context, good, _ = talk.instance()
    talk.send(p_data(context, 3, good.replace(b"\0\0\0\x09\2\0\0\0\0\0", b"")))
    talk.wait()


def responds_without_an_end(talk: Talk) -> None:
    """A command of fragments that never end."""
    talk.accept()
    context, _, _ = talk.instance()
    talk.flood(p_data(context, 1, bytes(60_000)))


def responds_with_data_without_an_end(talk: Talk) -> None:
    """Stored, it says; what it says after that is of no interest, and not kept."""
    talk.accept()
    context, good, _ = talk.instance()
    follows = good.replace(b"\0\0\0\x08\2\0\0\0\1\1", b"\0\0\0\x08\2\0\0\0\0\0")
    talk.send(p_data(context, 3, follows))
    talk.flood(p_data(context, 0, bytes(60_000)))


def sends_4_gib_instead_of_a_response(talk: Talk) -> None:
    talk.accept()
    talk.instance()
    talk.send(struct.pack(">BBI", 4, 0, 0xFFFFFFFF))
    talk.flood(bytes(MIB))


def floods_with_other_responses(talk: Talk) -> None:
    talk.accept()
    context, _, other = talk.instance()
    talk.flood(p_data(context, 3, other) * 1000)


def releases_instead_of_responding(talk: Talk) -> None:
    talk.accept()
    talk.instance()
    talk.send(RELEASE_RQ)
    talk.wait()


def aborts_instead_of_responding(talk: Talk) -> None:
    talk.accept()
    talk.instance()
    talk.send(ABORT)


def closes_within_its_response(talk: Talk) -> None:
    talk.accept()
    context, good, _ = talk.instance()
    talk.send(p_data(context, 3, good)[:-1])


HOSTILE = (
    says_nothing,
    accepts_before_it_is_asked,
    answers_with_no_pdu,
    accepts_with_4_gib,
    accepts_what_was_not_proposed,
    accepts_another_transfer_syntax,
    accepts_twice,
    responds_before_the_request,
    never_responds,
    responds_to_another_message,
    responds_on_another_context,
    asks_instead_of_responding,
    responds_without_a_status,
    responds_without_an_end,
    sends_4_gib_instead_of_a_response,
    floods_with_other_responses,
    releases_instead_of_responding,
    aborts_instead_of_responding,
    closes_within_its_response,
)


def responds_byte_by_byte(talk: Talk) -> None:
    """Slow, and right."""
    for byte in accept(talk.request()):
        talk.send(bytes((byte,)))
    context, good, _ = talk.instance()
    for byte in p_data(context, 3, good):
        talk.send(bytes((byte,)))
    while (pdu := read_pdu(talk.connection)) is not None and pdu[0] != 5:
        pass
    talk.send(bytes.fromhex("06000000000400000000"))


RIGHT = (responds_byte_by_byte, responds_with_data_without_an_end)
"""Odd, but the object arrived whole and was answered 0x0000 after that."""


class HostileSink(WireSink):
    """Misbehaves on its first association only."""

    def __init__(self, misbehave: Callable[[Talk], None]) -> None:
        self.misbehave: Callable[[Talk], None] | None = misbehave
        self.delivered: Callable[[], float] = lambda: 0.0
        self.delivered_before = -1.0
        """What the router called delivered here when it came with its second association."""
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        misbehave, self.misbehave = self.misbehave, None
        if misbehave is None:
            if self.delivered_before < 0:
                self.delivered_before = self.delivered()
            super()._serve(connection)
            return
        with suppress(OSError), connection:
            misbehave(Talk(connection))


@pytest.fixture
def sinks() -> Iterator[dict[str, HostileSink]]:
    with ExitStack() as stack:
        yield {
            misbehave.__name__: stack.enter_context(HostileSink(misbehave))  # type: ignore[misc]
            for misbehave in (*HOSTILE, *RIGHT)
        }


def test_nothing_counts_as_delivered_that_was_not(tmp_path: Path, sinks: dict[str, HostileSink]) -> None:
    data = encode(synthetic(size=20_000, sop_instance="2.25.41"))
    urls = {name: f"dicom://SINK@127.0.0.1:{sink.port}" for name, sink in sinks.items()}
    extra = "\n".join(f'[destinations.{name}]\nurl = "{url}"\n{OPTIONS}' for name, url in urls.items())
    rules = '[[rule]]\nname = "everything"\nto = [' + ", ".join(f'"{name}"' for name in urls) + "]\n"
    with RouterProcess(tmp_path / "router", {}, rules=rules, extra=extra) as router:
        assert router.process is not None
        pid = router.process.pid

        def outcomes(name: str, outcome: str) -> float:
            return router.metric("dicom_router_deliveries_total", destination=name, outcome=outcome)

        def delivered(name: str) -> bool:
            return outcomes(name, "delivered") == 1

        for name, sink in sinks.items():
            sink.delivered = partial(outcomes, name, "delivered")
        before = resident(pid)
        forget_peak(pid)
        sender = WireSender(router.port, (CT, EXPLICIT))
        assert sender.store("2.25.41", data) == 0
        right = {misbehave.__name__: sinks.pop(misbehave.__name__) for misbehave in RIGHT}
        wait_for(lambda: all(map(delivered, right)), 20, "the odd but right deliveries")
        wait_for(lambda: all(sink.whole for sink in sinks.values()), 60, "the second attempt everywhere")
        for name, sink in sinks.items():
            assert sink.delivered_before == 0, f"{name}: not met twice, or called delivered after the first association"
            assert sink.whole == [data], name
            wait_for(partial(delivered, name), 20, f"the delivery to {name}")
            assert outcomes(name, "dead") == 0
        assert resident(pid, "VmHWM") - before <= 32 * MIB
        assert not any(sink.whole for sink in right.values())  # sent once
        assert sender.store("2.25.42", encode(synthetic(sop_instance="2.25.42"))) == 0
        wait_for(lambda: all(len(sink.whole) == 2 for sink in sinks.values()), 30, "what comes after it")
        sender.close()


def test_success_before_the_object_has_left_is_no_success(tmp_path: Path) -> None:
    """A destination that answers the command of a large object, and reads no more of it."""

    def responds_to_the_command(talk: Talk) -> None:
        talk.accept()
        pdu = read_pdu(talk.connection)
        assert pdu is not None
        talk.send(p_data(pdu[1][4], 3, encode_response(parse_command(pdu[1][6:]), 0)))
        while talk.connection.recv(1000):
            pass

    data = encode(synthetic(size=64 * MIB, sop_instance="2.25.43"))
    with HostileSink(responds_to_the_command) as sink:
        extra = f'[destinations.d0]\nurl = "dicom://SINK@127.0.0.1:{sink.port}"\ncut_through = false\n{OPTIONS}'
        with RouterProcess(
            tmp_path / "router", {}, rules='[[rule]]\nname = "all"\nto = ["d0"]\n', extra=extra
        ) as router:
            sink.delivered = lambda: router.metric("dicom_router_deliveries_total", outcome="delivered")
            sender = WireSender(router.port, (CT, EXPLICIT))
            assert sender.store("2.25.43", data) == 0
            sender.close()
            wait_for(lambda: sink.whole, 60, "the object whole")
            assert sink.delivered_before == 0
            assert sink.whole == [data]
