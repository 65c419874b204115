"""An association that ends at any byte, in any way, leaves nothing behind; what was answered stays answered.

The whole router runs in this process, so that its tasks, descriptors and memory can be counted. Its peer plays one
small association (A-ASSOCIATE-RQ, an object, A-RELEASE-RQ) up to a byte and then resets the connection, closes it,
aborts, or falls silent. The object is just long enough to be streamed, so that it has begun a segment of its own when
it breaks off.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
import uvloop

from router.app.config import load_config
from router.app.router import Router
from router.dimse.command import parse_command
from router.observe.logs import configure_logging
from tests.support.objects import encode, received, sha256, synthetic
from tests.support.router_process import NO_FLOORS
from tests.support.script import ABORT, Script
from tests.torture.figures import Figure, report

OBJECT_MEMORY = 4096
"""``limits.object_memory``: past it an object has a segment of its own."""
STREAMED = 4500
PLACE = b"2.25.18000000"
"""Where each object's own UID goes."""
SILENCE = 1.0
"""Seconds that the router here waits for a silent peer, for whatever it waits."""
TOGETHER = 100
"""Silent peers at once."""
CONFIG = """
[node]
name = "aborted"
data_dir = "{folder}/data"
[[listen]]
bind = "127.0.0.1:0"
ae_titles = ["ROUTER"]
accept = "any"
tls = "off"
[destinations.archive]
url = "file://{folder}/archive"
[rules]
path = "{folder}/rules"
[admin]
bind = "127.0.0.1:0"
[limits]
object_memory = {object_memory}
associations_per_peer = 200
handshakes_per_address = 200
handshake_timeout = {silence}
idle_timeout = {silence}
rate_window = {silence}
artim_timeout = {silence}
release_timeout = {silence}
"""
RULES = '[[rule]]\nname = "everything"\nto = ["archive"]\n'


async def start(folder: Path) -> Router:
    (folder / "rules").mkdir()
    (folder / "rules" / "10-test.toml").write_text(RULES)
    path = folder / "router.toml"
    path.write_text(CONFIG.format(folder=folder, object_memory=OBJECT_MEMORY, silence=SILENCE))
    return await Router.start(load_config(path, NO_FLOORS))


class Peer:
    """Plays a script to a byte."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def play(self, script: Script, end: int) -> bool:
        """Gives whether the object was answered 0x0000; waits for each answer that is due."""
        async with asyncio.timeout(30):
            await self._loop.sock_connect(self.socket, ("127.0.0.1", self._port))
            await self._loop.sock_sendall(self.socket, script.data[: min(end, script.requested)])
            if end < script.requested:
                return False
            assert (await self._pdu())[0] == 2
            await self._loop.sock_sendall(self.socket, script.data[script.requested : min(end, script.stored)])
            if end < script.stored:
                return False
            assert parse_command((await self._pdu())[12:]).status == 0x0000
            await self._loop.sock_sendall(self.socket, script.data[script.stored : end])
            return True

    async def _pdu(self) -> bytes:
        head = await self._exactly(6)
        return head + await self._exactly(int.from_bytes(head[2:], "big"))

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._loop.sock_recv(self.socket, size - len(data))
            assert piece, "closed by the router"
            data += piece
        return data

    async def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    async def abort(self) -> None:
        await self._loop.sock_sendall(self.socket, ABORT)

    async def silence(self) -> None:
        """Until the router closes; it may say A-ABORT before."""
        async with asyncio.timeout(SILENCE * 10):
            with suppress(ConnectionError):
                while await self._loop.sock_recv(self.socket, 4096):
                    pass


ENDINGS: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "RST": Peer.reset,
    "FIN": Peer.finish,
    "A-ABORT": Peer.abort,
    "silence": Peer.silence,
}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(0.01)


def nothing_held(router: Router) -> bool:
    gate, intake = router.gate, router.intake
    return (
        not any(listener.connections for listener in router.listeners)
        and gate.associations == gate.handshakes == gate.handshake_memory == 0
        and intake.open_receptions == intake.in_memory == 0
    )


def segments(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "data" / "spool").iterdir())


async def campaign_of(folder: Path, step: int) -> tuple[int, int, float]:
    """Plays every ``step``-th byte with every ending; gives points, objects answered, seconds until all was free."""
    router = await start(folder)
    try:
        port = router.listeners[0].port
        template = encode(synthetic(size=STREAMED, sop_instance=PLACE.decode()))
        numbers = iter(range(1_000_000))
        answered: dict[str, str] = {}
        completed: dict[str, str] = {}
        begun: set[str] = set()

        async def one(ending: str, end: int) -> None:
            uid = f"2.25.18{next(numbers):06d}"
            data = template.replace(PLACE, uid.encode())
            script = Script.of(uid, data)
            begun.add(uid)
            missing = script.stored - end
            if ending == "A-ABORT" and 0 < missing <= len(ABORT):
                # Within a PDU the bytes of an A-ABORT are data: the object is whole, with other bytes, and kept.
                completed[uid] = sha256(data[:-missing] + ABORT[:missing])
            peer = Peer(port)
            try:
                if await peer.play(script, end):
                    answered[uid] = sha256(data)
                await ENDINGS[ending](peer)
            finally:
                peer.socket.close()

        script = Script.of(PLACE.decode(), template)
        length = len(script.data)
        await one("FIN", length)  # what the first object opens stays open
        await until(lambda: nothing_held(router) and len(received(folder / "archive")) == 1, "the first delivery")
        tasks, files = len(asyncio.all_tasks()), open_files()
        kept = segments(folder)
        turns = (script.requested, script.stored, length - 1)
        ends = sorted({*range(0, length + 1, step), *(turn + by for turn in turns for by in (-1, 0, 1))})
        slowest = 0.0
        for ending in ENDINGS:
            for batch in range(0, len(ends), TOGETHER):
                points = ends[batch : batch + TOGETHER]
                if ending == "silence":
                    await asyncio.gather(*(one(ending, end) for end in points))
                else:
                    for end in points:
                        await one(ending, end)
                since = time.monotonic()
                await until(lambda: nothing_held(router), f"everything free after {ending}")
                slowest = max(slowest, time.monotonic() - since)
        await until(lambda: len(received(folder / "archive")) >= len(answered) + len(completed), "the deliveries")
        await until(lambda: len(asyncio.all_tasks()) <= tasks, "the end of every task")
        arrived = received(folder / "archive")
        # Each object that is kept has a segment of its own; reclaiming leaves some spare ones.
        spare = router.config.spool.spare_segments
        await until(
            lambda: segments(folder) <= kept + len(arrived) + spare, "the end of what was received half", seconds=10
        )
        await until(lambda: open_files() <= files + spare, "the end of every descriptor")
        assert arrived == {uid: [digest] for uid, digest in (answered | completed).items()}
        return len(begun) - 1, len(answered), slowest
    finally:
        await router.close(grace=1)


@pytest.mark.timeout(7200)
def test_an_association_that_ends_at_any_byte_leaves_nothing_and_loses_nothing(
    tmp_path: Path, amount: Callable[[str, int, int], int], campaign: bool
) -> None:
    step = amount("abort_step", 197, 1)
    configure_logging("json", level="error")  # a line of warning per point says nothing more
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            points, answered, slowest = runner.run(campaign_of(tmp_path, step))
    finally:
        structlog.reset_defaults()
    report(
        Figure(
            test="T18",
            promise="a peer that resets, closes, aborts or falls silent at any byte of an association leaves nothing",
            goal="0 leaked descriptors, tasks, segments; nothing answered lost; places free at once",
            found=f"0 leaked; {answered:,} objects answered, 0 of them lost, nothing unfinished kept; all places free "
            f"after {slowest:.2f} s at most, of a silent peer after {SILENCE:.0f} s (set so) more",
            n=points,
            command=f"make torture (tests/torture/test_aborts.py, --amount abort_step={step})",
        ),
        keep=campaign,
    )
