"""An association as bytes, to any receiver: what it says to each object is a word, and no answer is one too."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from router.dimse.command import encode_c_store_rq, parse_command
from router.services.storage_scu import propose
from router.ul.pdus import encode_request
from tests.support.plain_pdu import fragments, p_data
from tests.support.wire import ABORT, read_pdu

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX = 16000
"""Below what every receiver here takes."""


@dataclass(frozen=True)
class Answer:
    """The status of a C-STORE-RSP, or how the association ended instead."""

    status: int | None
    instead: str = ""

    def __str__(self) -> str:
        return f"0x{self.status:04X}" if self.status is not None else self.instead


class PeerSender:
    """Raises ConnectionError when the association is not accepted.

    Args:
        timeout: Seconds for each answer.
    """

    def __init__(self, port: int, transfer_syntax: str = EXPLICIT, timeout: float = 60) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._number = 0
        request = propose([(CT, transfer_syntax)], called_ae="ROUTER", calling_ae="SENDER")
        try:
            self.connection.sendall(encode_request(request))
            answer = read_pdu(self.connection)
        except OSError as error:
            self.close()
            raise ConnectionError(f"no association: {error}") from error
        if answer is None or answer[0] != 2:
            self.close()
            raise ConnectionError("closed" if answer is None else f"RJ {'/'.join(map(str, answer[1][1:4]))}")

    def store(self, uid: str, data: bytes) -> Answer:
        self._number += 1
        pieces = fragments(data, MAX)
        try:
            self.connection.sendall(p_data(1, 3, encode_c_store_rq(self._number, CT, uid)))
            for number, piece in enumerate(pieces, 1):
                self.connection.sendall(p_data(1, 2 if number == len(pieces) else 0, piece))
        except TimeoutError:
            return Answer(None, "does not read")
        except OSError:
            pass  # what it said before it closed may still be there to be read
        return self._answer()

    def _answer(self) -> Answer:
        try:
            pdu = read_pdu(self.connection)
        except TimeoutError:
            return Answer(None, "no answer")
        except OSError:
            return Answer(None, "connection reset")
        if pdu is None:
            return Answer(None, "closed")
        if pdu[0] == 7:
            return Answer(None, "A-ABORT")
        return Answer(parse_command(pdu[1][6:]).status)

    def close(self) -> None:
        """By A-ABORT, which every receiver understands at any time."""
        try:
            self.connection.sendall(ABORT)
        except OSError:
            pass
        finally:
            self.connection.close()
