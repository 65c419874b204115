"""systemd hears when the router serves, reloads, drains, and that it makes progress: from the real process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.app.service_manager import ServiceManager
from tests.support.peers import accepts, wait_for
from tests.support.ports import free_port
from tests.support.router_process import RouterProcess

STUCK = """
import sys
from {module} import {holder}
{holder}.{name} = {value}
from router.app.cli import main
sys.exit(main())
"""

REFUSE = """
from router.errors import LedgerError
async def refuse(ledger):
    raise LedgerError("not written: the ledger is in use by another program")
"""


class Manager:
    """The other end: a datagram socket, as systemd has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def hear(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def hear_until(self, line: str, most: int = 50) -> list[str]:
        """The message with this line; the ones before it are not looked at."""
        for _ in range(most):
            lines = self.hear()
            if line in lines:
                return lines
        raise AssertionError(f"{line} was not heard")

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def service(tmp_path: Path, manager: Manager, **more: object) -> RouterProcess:
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "900000"}
    destinations = {"pacs": f"dicom://PACS@127.0.0.1:{free_port()}"}
    return RouterProcess(tmp_path / "router", destinations, environment=environment, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_ready_when_it_listens_and_says_what_becomes_of_it(
    tmp_path: Path, manager: Manager, workers: int
) -> None:
    router = service(tmp_path, manager, workers=workers)
    router.launch()
    try:
        manager.hear_until("READY=1")
        assert accepts(router.port)
        assert router.process is not None
        for _ in range(3):
            manager.hear_until("WATCHDOG=1")
        router.process.send_signal(signal.SIGHUP)
        reloading = manager.hear_until("RELOADING=1")
        assert any(line.startswith("MONOTONIC_USEC=") for line in reloading)
        manager.hear_until("READY=1")
        assert router.stop() == 0
        manager.hear_until("STOPPING=1")
    finally:
        router.kill()


@pytest.mark.parametrize(
    ("module", "holder", "name", "value", "told"),
    [
        ("router.spool", "Spool", "stuck_for", "property(lambda spool: 1e9)", "the spool's disk does not answer"),
        (
            "router.ledger", "SqliteLedger", "flush",
            "lambda ledger: __import__('asyncio').sleep(1e9)", "the ledger does not answer",
        ),
    ],
)  # fmt: skip
def test_a_router_that_makes_no_progress_gives_no_sign_of_life(
    tmp_path: Path, manager: Manager, module: str, holder: str, name: str, value: str, told: str
) -> None:
    script = STUCK.format(module=module, holder=holder, name=name, value=value)
    router = service(tmp_path, manager, program=[sys.executable, "-c", script])
    router.launch()
    try:
        assert "READY=1" in manager.hear()
        for _ in range(4):
            assert manager.hear() == [f"STATUS={told}"]
    finally:
        router.kill()


@pytest.mark.parametrize(
    ("workers", "module", "holder", "what"),
    [(2, "router.spool", "Spool", "the spool's disk"), (1, "router.ledger", "SqliteLedger", "the ledger")],
)
def test_what_hangs_is_why_the_router_is_not_ready(
    tmp_path: Path, manager: Manager, workers: int, module: str, holder: str, what: str
) -> None:
    hangs = f"from {module} import {holder}\n{holder}.stuck_for = property(lambda it: 11.0)\n"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(hangs)  # which every process of it reads at its start
    router = service(tmp_path, manager, workers=workers)
    router.environment["PYTHONPATH"] = str(site)
    router.launch()
    try:
        manager.hear_until("READY=1")
        reason = f"{what} has not answered for 11 s"
        wait_for(lambda: reason in readiness(router), 20, "the reason")
    finally:
        router.kill()


def readiness(router: RouterProcess) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", router.admin, timeout=10)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().read().decode()


def test_a_ledger_that_refuses_for_a_while_ends_no_signs_of_life(tmp_path: Path, manager: Manager) -> None:
    script = STUCK.format(module="router.ledger", holder="SqliteLedger", name="flush", value="refuse")
    router = service(tmp_path, manager, program=[sys.executable, "-c", REFUSE + script])
    router.launch()
    try:
        manager.hear_until("READY=1")
        for _ in range(3):
            assert manager.hear() == ["WATCHDOG=1"]
    finally:
        router.kill()


def test_a_loop_that_hangs_gives_no_sign_of_life(manager: Manager) -> None:
    async def hang() -> None:
        environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "60000"}
        watching = asyncio.get_running_loop().create_task(ServiceManager(environment).watch(fine, log=None))  # type: ignore[arg-type]
        assert await asyncio.to_thread(manager.hear) == ["WATCHDOG=1"]
        manager.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                manager.hear()
        # From here on the loop does nothing else: what it sends, it would have to send now.
        manager.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            manager.hear()
        watching.cancel()

    asyncio.run(hang())


async def fine() -> str:
    return ""


def test_without_a_manager_nothing_is_told() -> None:
    manager = ServiceManager({})
    manager.ready()
    assert manager.interval is None


def test_children_inherit_nothing_and_the_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert ServiceManager(environment).interval is None
    assert environment == {}
