"""The parent of several workers: starts them, starts those that crash again, passes signals on, ends when they have
ended.

It carries no data. What it holds for them is the lock of the spool and the count of their associations, which they
inherit, the listening addresses, and the one admin endpoint (``front``).

What the end of a worker means:

* before all have served once: the router could not start, and the exit code is the worker's
* 3, storage failed: the disk is everybody's; all are stopped and the exit code is 3, so that whoever supervises the
  router decides when it is tried again
* anything else: a crash. It is started again at once, and then after ever longer waits while it keeps crashing. Its
  log is read to the end when it starts, its leases are taken over; the others have gone on meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from router.app.config import Config
from router.app.service_manager import ServiceManager
from router.app.supervisor import EXIT_FAILED, EXIT_STORAGE, STOP_NOW
from router.app.workers.errand import Errand, part_of
from router.app.workers.front import LOOK_EVERY, Front
from router.app.workers.member import Member
from router.errors import RouterError
from router.ledger import shared
from router.model import Listener, Share
from router.net.occupancy import OccupancyMemory
from router.observe.faults import log_of_loop
from router.observe.logs import get_logger
from router.spool.lock import take_lock
from router.web.admin import create_app
from router.web.server import AdminServer

LOCK_WAIT = 10.0
"""Seconds for the workers of a killed parent to end; the system kills them at once."""
FIRST_WAIT = 0.2
"""Seconds before a crashed worker is started again; doubled with each crash in a row."""
LONGEST_WAIT = 30.0
LONGEST_ALONE = 1.0
"""The same, while no other worker serves: nobody would take anything meanwhile."""
STEADY = 60.0
"""Seconds of service after which a crash is the first of a row again."""
SILENT = 60.0
"""Seconds without an answer after which a worker that should serve is killed: as long as leases last."""
STORAGE_GRACE = 1.5
"""Seconds for the others when the disk has failed one."""
KILL_AFTER = 20.0
"""Seconds beyond twice the grace time after which a worker that does not end is killed."""


class Parent:
    """``run`` it once."""

    def __init__(self, config: Config, manager: ServiceManager | None = None) -> None:
        self.config = config
        self.manager = manager if manager is not None else ServiceManager({})
        self.log = get_logger()
        self.members = [Member(index, config.data_dir) for index in range(config.workers)]
        self.stopping = asyncio.Event()
        self.occupancy = OccupancyMemory(config.workers, config.limits.associations)
        self.code = 0
        self._started = False
        self._lock = -1
        self._fresh = False
        self._ports: tuple[int, ...] = ()
        self._stops = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Until all workers have ended; gives the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_of_loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        front = Front(self.config, self.members, self.stopping.is_set)
        admin = AdminServer(create_app(front, front), host=self.config.admin_host, port=self.config.admin_port)
        try:
            self._prepare()
            with reserved(self.config.listeners) as self._ports:
                await admin.start()
                watching = [
                    loop.create_task(front.watch()),
                    loop.create_task(self._watch_silent()),
                    loop.create_task(self.manager.watch(self._stuck, self.log)),
                ]
                await self._run_workers(f"{self.config.admin_host}:{admin.port}")
                for task in watching:
                    task.cancel()
        except (RouterError, OSError) as error:
            self.log.error("could not start", reason=str(error))
            print(f"dicom-router: {error}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            await admin.close()
            if self._lock >= 0:
                os.close(self._lock)
        self.log.info("stopped", code=self.code)
        return self.code

    def _prepare(self) -> None:
        """What is done once for all of them. Blocking. Raises RouterError, OSError."""
        folder = self.config.data_dir
        try:
            (folder / "spool").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(folder / "spool", LOCK_WAIT)
        except OSError as error:
            raise RouterError(
                f"cannot use node.data_dir {folder}: {error.strerror}; it must be writable for this user"
            ) from error
        self._fresh = shared.prepare(folder / "ledger.db", node=self.config.node, log=self.log)

    async def _run_workers(self, admin: str) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(member)) for member in self.members]
        serving = loop.create_task(self._all_serve(admin))
        _, others = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        if others and not self.stopping.is_set():
            # A fault of ours while keeping one: without its keeper it would not be started again, and nobody told.
            self._stop_all(2 * self.config.shutdown_grace + KILL_AFTER)
        if others:
            await asyncio.wait(others)
        serving.cancel()
        for task in self._tasks:
            task.result()

    async def _all_serve(self, admin: str) -> None:
        for member in self.members:
            await member.served.wait()
        self._started = True
        self.manager.ready()
        self.log.info("all workers serve", workers=len(self.members), admin=admin)

    # One worker --------------------------------------------------------------------------------------------

    async def _keep(self, member: Member) -> None:
        """Start it, and again when it crashes, until all are to stop."""
        wait = FIRST_WAIT
        while True:
            try:
                code = await self._run_once(member)
            except OSError as error:
                if not self._started:
                    raise
                # Of memory, for want of which the system may have ended it, processes or descriptors.
                self.log.error("no room to start a worker", worker=member.index, reason=error.strerror)
                code = EXIT_FAILED
            if self.stopping.is_set():
                self._ended(code)
                return
            if code == EXIT_STORAGE or not self._started:
                self.log.error("a worker ended, all are stopped", worker=member.index, code=code)
                self._ended(code or EXIT_FAILED)
                self._stop_all(STORAGE_GRACE)
                return
            if member.serving_since and time.monotonic() - member.serving_since > STEADY:
                wait = FIRST_WAIT
            self.log.error("a worker ended, it is started again", worker=member.index, code=code, wait=wait)
            member.waits()
            if await self._stopped_within(wait):
                return
            wait = min(wait * 2, LONGEST_WAIT)
            member.restarts += 1

    async def _stopped_within(self, wait: float) -> bool:
        """Waits so many seconds, or until all are to stop; shorter while no worker serves."""
        begun = time.monotonic()
        while not self.stopping.is_set():
            serves = any(member.state == "serving" for member in self.members)
            left = begun + (wait if serves else min(wait, LONGEST_ALONE)) - time.monotonic()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), min(left, FIRST_WAIT))
        return True

    async def _run_once(self, member: Member) -> int:
        """One process from its beginning to its end; gives its exit code, as ``supervisor`` has them."""
        loop = asyncio.get_running_loop()
        ready, tell = os.pipe()
        share = Share(member.index, len(self.members))
        try:
            errand = Errand(
                config=part_of(self.config, share, self._ports), share=share, fresh=self._fresh and not member.restarts,
                parent=os.getpid(), lock=self._lock, occupancy=self.occupancy.descriptor, ready=tell,
            )  # fmt: skip
            process = await asyncio.create_subprocess_exec(
                *command(),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(self._lock, self.occupancy.descriptor, tell),
                # A Ctrl-C is for the parent: a worker that got it too would take our SIGTERM for the second.
                start_new_session=True,
            )
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(tell)
        member.starts(process)
        loop.add_reader(ready, self._is_ready, member, ready)
        try:
            if self.stopping.is_set():
                member.signal(signal.SIGTERM)
            try:
                await process.communicate(errand.encode())
            except (ConnectionError, RuntimeError):
                # The latter is uvloop's, of one that was gone before the first byte. It has no errand.
                with suppress(ProcessLookupError):
                    process.kill()
            code = await process.wait()
        finally:
            loop.remove_reader(ready)
            os.close(ready)
        member.ends()
        self.occupancy.clear(member.index)
        return code

    async def _watch_silent(self) -> None:
        """Kill who hangs: as long as its leases last nobody delivers what it has, and others may wait for it."""
        while not self.stopping.is_set():
            await asyncio.sleep(LOOK_EVERY)
            for member in self.members:
                if member.silent_since and time.monotonic() - member.silent_since > SILENT:
                    self.log.error("a worker does not answer, it is killed", worker=member.index, after=SILENT)
                    member.silent_since = 0.0
                    member.signal(signal.SIGKILL)

    async def _stuck(self) -> str:
        """Workers that hang are killed by us, and nobody needs to end us for it."""
        return ""

    def _is_ready(self, member: Member, ready: int) -> None:
        asyncio.get_running_loop().remove_reader(ready)
        if os.read(ready, 1):
            member.serves()

    # Ending ------------------------------------------------------------------------------------------------

    def _ended(self, code: int) -> None:
        """The worst of all is what the parent ends with."""
        if code == EXIT_STORAGE or self.code == EXIT_STORAGE:
            self.code = EXIT_STORAGE
        elif code and code != -signal.SIGTERM:  # of ours, before it had begun to listen to it
            self.code = self.code or (code if code > 0 else EXIT_FAILED)

    def _terminate(self) -> None:
        self.log.info("draining" if not self._stops else "stopping now", grace=self.config.shutdown_grace)
        self._stop_all(2 * self.config.shutdown_grace + KILL_AFTER)

    def _stop_all(self, grace: float) -> None:
        """Drain; the second time, now. SIGKILL after ``grace`` seconds."""
        number = STOP_NOW if self._stops else signal.SIGTERM
        self._stops += 1
        self.stopping.set()
        self.manager.stopping()
        loop = asyncio.get_running_loop()
        for member in self.members:
            member.signal(number)
            loop.call_later(grace, member.signal, signal.SIGKILL)

    def _reload(self) -> None:
        self.manager.reloading()
        for member in self.members:
            member.reload()
        self.manager.ready()


def command() -> list[str]:
    """How a worker is started: by this interpreter, which finds the modules where this process did."""
    safe = [] if str(Path.cwd()) in sys.path or "" in sys.path else ["-P"]
    return [sys.executable, *safe, "-m", "router.app.workers.worker", str(os.getpid())]


@contextmanager
def reserved(listeners: tuple[Listener, ...]) -> Iterator[tuple[int, ...]]:
    """The ports of the listeners, kept for our workers as long as it lasts. Raises RouterError.

    The first bind, without sharing, meets every other program that has the port, also another router; the second only
    holds it: connections go to sockets that listen.
    """
    held: list[socket.socket] = []
    try:
        for listener in listeners:
            port = listener.port
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                try:
                    family, kind, protocol, _, address = socket.getaddrinfo(
                        listener.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                    )[0]
                    holder = socket.socket(family, kind, protocol)
                    held.append(holder)
                    holder.setsockopt(socket.SOL_SOCKET, option, 1)
                    holder.bind(address)
                    if option == socket.SO_REUSEADDR:
                        # Two that only bind with this option do not meet; one that listens does.
                        holder.listen(1)
                    port = holder.getsockname()[1]
                except OSError as error:
                    raise RouterError(
                        f"cannot listen on {listener.name}: {error.strerror or type(error).__name__}; "
                        "another program may have the port, or it needs privileges"
                    ) from error
                if option == socket.SO_REUSEADDR:
                    held.pop().close()
        yield tuple(holder.getsockname()[1] for holder in held)
    finally:
        for holder in held:
            holder.close()
