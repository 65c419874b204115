"""What the parent does with workers that end, seen with small programs in their place."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from router.app.config import Config, load_config
from router.app.workers import parent as module
from router.app.workers.errand import Errand, part_of
from router.app.workers.parent import Parent, command, reserved
from router.errors import RouterError
from router.model import Listener, Share
from router.spool.lock import take_lock

PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
from router.app.workers.errand import Errand
errand = Errand.decode(sys.stdin.buffer.read())
index, folder = errand.share.worker, errand.config.data_dir
runs = folder / f"runs-{index}"
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
run = len(runs.read_text())
def serve():
    os.write(errand.ready, b"1")
def wait():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(0.01)
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "rules").mkdir()
    (tmp_path / "router.toml").write_text(
        f'[node]\nworkers = 2\nshutdown_grace = 1\ndata_dir = "{tmp_path / "data"}"\n'
        '[[listen]]\nbind = "127.0.0.1:0"\naccept = "any"\ntls = "off"\n[admin]\nbind = "127.0.0.1:0"\n'
        f'[rules]\npath = "{tmp_path / "rules"}"\n'
        '[destinations.a]\nurl = "dicom://A@127.0.0.1:104"\nmax_associations = 5\n'
    )
    return load_config(tmp_path / "router.toml", {})


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives the workers another program."""

    def use(program: str) -> None:
        monkeypatch.setattr(module, "command", lambda: [sys.executable, "-c", PROLOGUE + program])
        monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
        monkeypatch.setattr(module, "STORAGE_GRACE", 0.3)

    return use


def runs(config: Config, worker: int) -> int:
    path = config.data_dir / f"runs-{worker}"
    return len(path.read_text()) if path.exists() else 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_worker_that_cannot_start_ends_all_with_its_code(
    config: Config, workers: Callable[[str], None]
) -> None:
    workers("if index == 1: sys.exit(78)\nserve()\nwait()")
    async with asyncio.timeout(20):
        assert await Parent(config).run() == 78
    assert runs(config, 1) == 1


async def test_a_failed_disk_ends_all_with_3_whatever_the_others_do(
    config: Config, workers: Callable[[str], None]
) -> None:
    workers(
        "serve()\nif index == 0:\n time.sleep(1)\n sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    )
    started = time.monotonic()
    async with asyncio.timeout(20):
        assert await Parent(config).run() == 3
    assert time.monotonic() - started < 10
    assert runs(config, 0) == 1, "that is for whoever supervises the router to decide"


async def test_crashes_are_answered_with_new_starts_until_told_to_end(
    config: Config, workers: Callable[[str], None]
) -> None:
    workers("serve()\nif index == 1 and run <= 3:\n time.sleep(0.3)\n os.kill(os.getpid(), signal.SIGKILL)\nwait()")
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    await until(lambda: runs(config, 1) == 4 and parent.members[1].state == "serving")
    assert [member.restarts for member in parent.members] == [0, 3]
    assert runs(config, 0) == 1
    with pytest.raises(RouterError, match="in use"):
        take_lock(config.data_dir / "spool")
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 0
    os.close(take_lock(config.data_dir / "spool"))


async def test_while_no_worker_serves_none_waits_long_for_its_next_start(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers("serve()\nwait()")
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(module, "LONGEST_ALONE", 0.3)
    parent = Parent(config)
    assert not await parent._stopped_within(600)
    running = asyncio.create_task(parent.run())
    await until(lambda: parent._started)
    waiting = asyncio.create_task(parent._stopped_within(600))
    await asyncio.wait([waiting], timeout=1)
    assert not waiting.done(), "another one serves"
    parent._terminate()
    async with asyncio.timeout(20):
        assert await waiting
        assert await running == 0


def test_one_that_is_gone_before_it_has_its_errand_is_started_again(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers("serve()\nwait()")
    create = asyncio.create_subprocess_exec
    started: list[int] = []

    async def gone_at_once(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*arguments, **options)
        started.append(process.pid)
        if len(started) == 4:
            process.kill()
            await process.wait()
        return process

    async def run() -> None:
        parent = Parent(config)
        running = asyncio.create_task(parent.run())
        await until(lambda: parent._started)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", gone_at_once)
        started.extend([0, 0])
        for number in (1, 2):
            parent.members[1].signal(signal.SIGKILL)
            await until(lambda number=number: parent.members[1].restarts >= number)  # type: ignore[misc]
            await until(lambda: parent.members[1].state == "serving")
        assert len(started) >= 5, "the second start failed, another followed"
        parent._terminate()
        async with asyncio.timeout(20):
            assert await running == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_a_start_for_which_there_is_no_memory_is_tried_again(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have ended the worker for want of just that."""
    workers("serve()\nif index == 1 and run == 1:\n time.sleep(0.3)\n os.kill(os.getpid(), signal.SIGKILL)\nwait()")
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    create = asyncio.create_subprocess_exec
    refused: list[int] = []

    async def scarce(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        if len(refused) < 2:
            refused.append(errno.ENOMEM)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return await create(*arguments, **options)

    await until(lambda: parent._started)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    await until(lambda: running.done() or (runs(config, 1) == 2 and parent.members[1].state == "serving"))
    assert not running.done()
    assert runs(config, 0) == 1
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 0


async def test_a_keeper_that_fails_ends_the_router_instead_of_leaving_its_worker_away(
    config: Config, workers: Callable[[str], None]
) -> None:
    workers("serve()\nif index == 1:\n time.sleep(0.3)\n sys.exit(5)\nwait()")
    parent = Parent(config)

    def faulty() -> None:
        raise KeyError("a bug")

    parent.members[1].waits = faulty  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        async with asyncio.timeout(20):
            await parent.run()
    assert parent.members[0].pid is None, "the others were stopped first"


async def test_a_worker_that_does_not_end_is_killed(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()\ntime.sleep(600)")
    monkeypatch.setattr(module, "KILL_AFTER", -1.8)
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    await until(lambda: all(member.state == "serving" for member in parent.members))
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 1


async def test_a_worker_that_hangs_is_killed_and_started_again(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of these programs answers; the first of worker 1 has said that it serves and is asked.
    workers("if index == 1: serve()\nif index == 1 and run > 1:\n runs.with_name('again').touch()\nwait()")
    monkeypatch.setattr(module, "SILENT", 0.1)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    parent = Parent(config)
    parent._started = True
    running = asyncio.create_task(parent.run())
    await until((config.data_dir / "again").exists)
    assert runs(config, 0) == 1, "one that is still starting has its time"
    parent._terminate()
    async with asyncio.timeout(20):
        await running


async def test_told_to_end_before_the_workers_listen(config: Config, workers: Callable[[str], None]) -> None:
    workers("time.sleep(600)")
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    await until(lambda: runs(config, 0) + runs(config, 1) == 2)
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 0


async def test_a_second_sigterm_stops_now(config: Config, workers: Callable[[str], None]) -> None:
    workers(
        "signal.signal(signal.SIGTERM, lambda *_: None)\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
        "serve()\nwhile True: time.sleep(0.01)"
    )
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    await until(lambda: all(member.state == "serving" for member in parent.members))
    parent._terminate()
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 0


async def test_a_reload_reaches_those_that_are_starting_when_they_serve(
    config: Config, workers: Callable[[str], None]
) -> None:
    workers(
        "while index == 1 and not (folder / 'go').exists(): time.sleep(0.01)\n"
        "signal.signal(signal.SIGHUP, lambda *_: (folder / f'reloaded-{index}').touch())\nserve()\nwait()"
    )
    parent = Parent(config)
    running = asyncio.create_task(parent.run())
    await until(lambda: parent.members[0].state == "serving" and parent.members[1].pid is not None)
    parent._reload()
    await until((config.data_dir / "reloaded-0").exists)
    assert parent.members[1].state == "starting"
    (config.data_dir / "go").touch()
    await until((config.data_dir / "reloaded-1").exists)
    parent._terminate()
    async with asyncio.timeout(20):
        assert await running == 0


async def test_a_spool_that_another_router_has_is_left_alone(
    config: Config, workers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers("serve()\nwait()")
    monkeypatch.setattr(module, "LOCK_WAIT", 0.1)
    (config.data_dir / "spool").mkdir(parents=True)
    lock = take_lock(config.data_dir / "spool")
    try:
        assert await Parent(config).run() == 1
    finally:
        os.close(lock)
    assert runs(config, 0) == 0


def test_what_bounds_the_node_is_divided(config: Config) -> None:
    parts = [part_of(config, Share(worker, 2), (11112,)) for worker in range(2)]
    assert [part.destinations[0].max_associations for part in parts] == [3, 2]
    assert sum(part.limits.ingest_memory for part in parts) == config.limits.ingest_memory
    assert {part.listeners[0].port for part in parts} == {11112}
    assert Share(2, 3).part(2) == 1, "at least one"


def test_an_errand_goes_through_a_pipe_whole(config: Config) -> None:
    errand = Errand(config=config, share=Share(1, 2), fresh=True, parent=1, lock=3, occupancy=5, ready=4)
    assert Errand.decode(errand.encode()) == errand


def test_a_worker_without_its_parent_does_not_start() -> None:
    arguments = command()
    assert arguments[-1] == str(os.getpid())
    done = subprocess.run([*arguments[:-1], "1"], stdin=subprocess.DEVNULL, timeout=60)  # not the parent of this one
    assert done.returncode == 1


def test_ports_are_kept_and_a_taken_one_is_met() -> None:
    listener = Listener(host="127.0.0.1", port=0)
    with reserved((listener, listener)) as ports:
        assert len(set(ports)) == 2
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", ports[0]))
            worker.listen()
            with (
                pytest.raises(RouterError, match="cannot listen on"),
                reserved((Listener(host="127.0.0.1", port=ports[0]),)),
            ):
                pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with (
            pytest.raises(RouterError, match="another program"),
            reserved((Listener(host="127.0.0.1", port=other.getsockname()[1]),)),
        ):
            pass
