"""Peers that put marks, or another text, into everything they may say: destinations by their answers, senders by their
requests.

Plain sockets, so that what a peer's library would not send is sent, and everything that the router says is heard.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from router.dimse.command import parse_command
from router.services.storage_scu import propose
from router.ul.pdus import (
    AssociateAccept,
    ContextResult,
    UserIdentity,
    UserInformation,
    decode_request,
    encode_accept,
    encode_request,
)
from tests.support.plain_pdu import fragments, p_data
from tests.support.wire import ABORT, read_pdu
from tests.torture.marked import CT, EXPLICIT, mark

MAX = 65536
RELEASE_RQ, RELEASE_RP = (bytes([kind, 0, 0, 0, 0, 4, 0, 0, 0, 0]) for kind in (5, 6))
NO_DATA_SET = 0x0101


def command_set(elements: Mapping[int, bytes | int]) -> bytes:
    """Group 0000; numbers become US."""
    body = b""
    for number, value in sorted(elements.items()):
        content = struct.pack("<H", value) if isinstance(value, int) else value + b" " * (len(value) % 2)
        body += struct.pack("<HHI", 0, number, len(content)) + content
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


class Destination:
    """Listens on ``port``; what it does is its ``manner``.

    * a status, 0x0000 to 0xFFFF: answers every object with it, a comment, and elements that nobody asked for
    * ``"no context"``: accepts associations and nothing in them
    * ``"another syntax"``: accepts with its text for a transfer syntax
    * ``"another context"``: accepts with its text for an application context
    * ``"rejects"``: A-ASSOCIATE-RJ, permanent
    * ``"aborts"``: takes an object, answers with half a PDU of text, and aborts
    * ``"babbles"``: answers the first PDU with something that is no DICOM

    Args:
        text: What it says wherever it can say something; None: marks.
    """

    def __init__(self, manner: int | str, text: str | None = None) -> None:
        self.manner = manner
        self._text = text
        self.served = 0
        """Objects, or associations where there are none."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)

    def _say(self, what: str = "..") -> str:
        return mark(0, what) if self._text is None else self._text

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked = read_pdu(connection)
            if asked is None:
                return
            if self.manner == "babbles":
                self.served += 1
                connection.sendall(f"HTTP/1.1 400 {self._say('HT')}\r\n\r\n{self._say()}".encode())
            elif self.manner == "rejects":
                self.served += 1
                connection.sendall(bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 7]))
            else:
                connection.sendall(encode_accept(self._answer(asked[1])))
                self._objects(connection)

    def _answer(self, body: bytes) -> AssociateAccept:
        request = decode_request(body)
        refused = self.manner == "no context"
        self.served += refused or self.manner in ("another syntax", "another context")
        syntax = self._say("TS") if self.manner == "another syntax" else None
        answer = AssociateAccept(
            contexts=tuple(
                ContextResult(item.id, 3 * refused, syntax or item.transfer_syntaxes[0]) for item in request.contexts
            ),
            user=UserInformation(
                max_length=MAX,
                implementation_class_uid="2.25.7713946205" if self._text is None else self._text,
                implementation_version=self._say("IV"),
                extended=((CT, self._say("EX").encode()),),
            ),
            raw_header=(self._say("CA")[:16].ljust(16) + self._say("CD")[:16].ljust(16)).encode().ljust(64, b"\0"),
        )
        return replace(answer, application_context=self._say("AC")) if self.manner == "another context" else answer

    def _objects(self, connection: socket.socket) -> None:
        command = b""
        while (pdu := read_pdu(connection)) is not None:
            kind, body = pdu
            if kind == 5:
                connection.sendall(RELEASE_RP)
                return
            if kind != 4:
                return
            context, control = body[4], body[5]
            if control & 1:
                command = body[6:]
            elif control & 2:
                self.served += 1
                if not isinstance(self.manner, int):
                    connection.sendall(p_data(context, 3, self._say().encode()) + ABORT)
                    return
                connection.sendall(p_data(context, 3, self._response(command, self.manner)))

    def _response(self, command: bytes, status: int) -> bytes:
        request = parse_command(command)
        return command_set(
            {
                0x0002: CT.encode() + b"\0" if self._text is None else self._text.encode(),
                0x0010: self._say("RE").encode(),
                0x0100: 0x8001,
                0x0120: request.message_id or 0,
                0x0800: NO_DATA_SET,
                0x0900: status,
                0x0901: b"\x10\x00\x10\x00",
                0x0902: f"bad PatientName {self._say('CO')}\r\n\x1b[31m{self._say('CO')}".encode().ljust(64),
                0x0903: 4711,
                0x1000: (f"2.25.7713946205{status}" if self._text is None else self._text).encode(),
                0x1030: self._say("MO").encode(),
            }
        )


class Sender:
    """One association to the router; ``heard`` keeps every byte that the router said.

    Args:
        calling: AE title.
        chatty: Marks in everything that an association's request may hold.
    """

    def __init__(self, port: int, calling: str, *, called: str = "ROUTER", chatty: bool = False) -> None:
        self.heard = bytearray()
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        request = propose([(CT, EXPLICIT)], called_ae=called, calling_ae=calling)
        if chatty:
            request = replace(
                request,
                user=replace(
                    request.user,
                    implementation_version=mark(0, "IV"),
                    implementation_class_uid="2.25.7713946205",
                    extended=((CT, mark(0, "EX").encode()),),
                    user_identity=UserIdentity(2, True, mark(0, "UN").encode(), mark(0, "PW").encode()),
                ),
            )
        self.connection.sendall(encode_request(request))
        self.accepted = self._hear() == 2

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.accepted:
            with suppress(OSError):
                self.connection.sendall(RELEASE_RQ)
                while self._hear() not in (6, None):
                    pass
        self.connection.close()

    def _hear(self) -> int | None:
        """The type of the next PDU; None: the router has closed."""
        pdu = read_pdu(self.connection)
        if pdu is None:
            return None
        if pdu[0] == 2:
            self.heard += pdu[1][68:]  # what stands before repeats what we said (PS3.8 Table 9-17)
        else:
            self.heard += pdu[1]
        self._last = pdu[1]
        return pdu[0]

    def send(self, command: Mapping[int, bytes | int], data: bytes = b"", *, share: float = 1.0) -> None:
        """A message; ``share``: only so much of the data set, and no last fragment."""
        self.connection.sendall(p_data(1, 3, command_set(command)))
        pieces = fragments(data, MAX) if data else []
        for number, piece in enumerate(pieces, 1):
            last = number == len(pieces)
            if share < 1 and last:
                self.connection.sendall(p_data(1, 0, piece[: int(len(piece) * share)]))
            else:
                self.connection.sendall(p_data(1, 2 if last else 0, piece))

    def status(self) -> int | None:
        """Of the next response; None: the router aborted, or closed. What repeats the request's UIDs is not heard."""
        before = len(self.heard)
        if self._hear() != 4:
            return None
        response = parse_command(self._last[6:])
        for echo in (response.sop_instance_bytes, response.sop_class_bytes):
            if echo:
                self.heard[before:] = self.heard[before:].replace(echo, b"")
        return response.status

    def store(self, sop_instance: str, data: bytes, *, sop_class: str = CT) -> int | None:
        self.send(
            {
                0x0002: sop_class.encode() + b"\0" * (len(sop_class) % 2),
                0x0100: 0x0001,
                0x0110: 1,
                0x0700: 0,
                0x0800: 1,
                0x1000: sop_instance.encode() + b"\0" * (len(sop_instance) % 2),
                0x1030: mark(0, "MO").encode(),
                0x1031: 7,
            },
            data,
        )
        return self.status()
