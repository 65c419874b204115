"""Connections that each say a byte of a message now and then, from a process of their own, so that what they cost is
the router's alone.

    python -m tests.torture.loris MESSAGE SECONDS DESCRIPTOR ...

MESSAGE is hexadecimal. Each connection says its next byte every SECONDS, all of them evenly spread. A line on the
standard input is answered with how many the other side has not closed; its end ends all.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

from tests.support.told import Told

PARTS = 20
"""Shares of the connections that say their byte at the same moment."""


class Loris(Told):
    """The process, seen from the test.

    Args:
        sockets: Open connections, which it takes over.
        pace: Seconds from one byte to the next.
    """

    def __init__(self, sockets: list[socket.socket], message: bytes, pace: float) -> None:
        numbers = [one.fileno() for one in sockets]
        super().__init__("tests.torture.loris", message.hex(), pace, *numbers, pass_fds=numbers)
        for one in sockets:
            one.close()

    @property
    def left(self) -> int:
        """How many the router has not closed."""
        return int(self.ask(""))

    def all_closed(self) -> bool:
        return self.left == 0


def main() -> None:
    message, pace = bytes.fromhex(sys.argv[1]), float(sys.argv[2])
    said = {socket.socket(fileno=int(number)): 0 for number in sys.argv[3:]}
    parts = [list(said)[index::PARTS] for index in range(PARTS)]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for one in said:
        one.setblocking(False)
        selector.register(one, selectors.EVENT_READ)

    def gone(one: socket.socket) -> None:
        if said.pop(one, None) is not None:
            selector.unregister(one)
            one.close()

    turn, due = 0, time.monotonic()
    while True:
        for key, _ in selector.select(max(0.0, due - time.monotonic())):
            if isinstance(key.fileobj, socket.socket):
                gone(key.fileobj)
            elif not sys.stdin.readline():
                return
            else:
                print(len(said), flush=True)
        if time.monotonic() < due:
            continue
        due += pace / PARTS
        for one in parts[turn % PARTS]:
            if one in said:
                try:
                    one.send(message[said[one] : said[one] + 1])
                    said[one] += 1
                except OSError:
                    gone(one)
        turn += 1


if __name__ == "__main__":
    main()
