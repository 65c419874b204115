"""The node as its operators see it, over workers that answer as they should, or do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.app.workers import told
from router.app.workers.front import Front
from router.app.workers.member import Member
from router.errors import InvalidRequest, LedgerError, NotFound
from router.observe.metrics import RouterMetrics
from router.web.admin import create_app
from router.web.server import AdminServer
from tests.web.fakes import FakeControl


class Worker:
    """A worker that runs in this process: its member, its control, and what it was told."""

    def __init__(self, folder: Path, index: int) -> None:
        self.member = Member(index, folder)
        self.control = FakeControl()
        self.metrics = RouterMetrics(destinations=["pacs"], listeners=["l"], peers=["ct"], process=False)
        self.told: list[tuple[str, Any]] = []
        routes = [Route(path, self._hear(path), methods=["POST"]) for path in (told.PAUSED, told.RESUMED, told.OWED)]
        self.server = AdminServer(create_app(self.control, self.metrics, routes), path=self.member.path)

    def _hear(self, path: str) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def hear(request: Request) -> JSONResponse:
            self.told.append((path, await request.json() if await request.body() else None))
            return JSONResponse({})

        return hear

    async def start(self) -> None:
        await self.server.start()
        self.member.starts(SimpleNamespace(pid=100 + self.member.index, returncode=0))  # type: ignore[arg-type]
        self.member.serves()

    async def stop(self) -> None:
        await self.server.close()
        self.member.ends()
        self.member.waits()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[Worker]]:
    made = [Worker(tmp_path, index) for index in range(3)]
    for worker in made:
        await worker.start()
    yield made
    for worker in made:
        await worker.server.close()


@pytest.fixture
def front(workers: list[Worker]) -> Front:
    return Front(None, [worker.member for worker in workers], lambda: False)  # type: ignore[arg-type]


async def test_the_status_of_all_names_who_does_not_answer(front: Front, workers: list[Worker]) -> None:
    status = await front.status()
    assert status["listeners"][0]["associations"] == 6
    assert [worker["state"] for worker in status["workers"]] == ["serving"] * 3
    assert [worker["pid"] for worker in status["workers"]] == [100, 101, 102]
    assert status["not_answering"] == []
    await workers[1].stop()
    await workers[2].server.close()  # it hangs, or has just died
    status = await front.status()
    assert status["listeners"][0]["associations"] == 2
    assert [text[:8] for text in status["not_answering"]] == ["worker 1", "worker 2"]
    queue = await front.queue("pacs", 5)
    assert len(queue["destinations"]) == 1
    assert len(queue["not_answering"]) == 2
    await workers[0].stop()
    with pytest.raises(LedgerError, match="worker 0 is waiting; worker 1"):
        await front.status()


async def test_an_action_is_done_once_and_the_others_are_told(front: Front, workers: list[Worker]) -> None:
    await front.pause("pacs", "")
    assert workers[0].control.calls == [("pause", "pacs", "paused by an operator")]
    assert [worker.told for worker in workers] == [
        [], *[[(told.PAUSED, {"destination": "pacs", "reason": "paused by an operator"})]] * 2
    ]  # fmt: skip
    await front.resume("pacs")
    assert workers[2].told[-1] == (told.RESUMED, {"destination": "pacs"})
    assert await front.resend("1.2.3", None) == {"deliveries": 3}
    assert await front.release(None, ["pacs"]) == {"released": 4, "still_held": 1}
    assert await front.retry_dead(None, [1]) == {"retried": 1}
    assert await front.discard_dead([1, 2]) == {"discarded": 2}
    assert [call[0] for call in workers[0].control.calls] == [
        "pause", "resume", "resend", "release", "retry_dead", "discard_dead"
    ]  # fmt: skip
    assert workers[1].control.calls == []
    assert [path for path, _ in workers[1].told][2:] == [told.OWED] * 4


async def test_who_is_down_is_passed_over(front: Front, workers: list[Worker]) -> None:
    await workers[0].stop()
    await workers[1].server.close()
    await front.pause("pacs", "x")
    assert workers[2].control.calls == [("pause", "pacs", "x")]
    assert (await front.trace("1.2.3"))["instances"]
    assert (await front.studies("", 3))["studies"]
    assert (await front.explain("1.2.3"))["verdict"] == "route"
    assert (await front.dead_letters(None, 3))["total"] == 1


async def test_errors_of_a_worker_are_those_of_the_node(front: Front, workers: list[Worker]) -> None:
    with pytest.raises(NotFound, match="nothing is known"):
        await front.trace("nothing")
    workers[0].control.failure = InvalidRequest("not like this")
    with pytest.raises(InvalidRequest, match="not like this"):
        await front.resend("1.2.3", None)
    workers[0].control.failure = LedgerError("full")
    with pytest.raises(LedgerError, match="full"):
        await front.discard_dead([1])
    assert workers[1].told == []


async def test_a_reload_reaches_all_and_tells_every_problem_once(front: Front, workers: list[Worker]) -> None:
    assert await front.reload() == []
    for worker in workers[:2]:
        worker.control.problems = ["a.toml:1:1: no rule"]
    await workers[2].stop()
    assert await front.reload() == ["a.toml:1:1: no rule", "worker 2 is waiting"]
    assert (await front.rules())["problems"][-1] == "worker 2 is waiting"


async def test_ready_while_one_serves_and_not_before_all_have_served(front: Front, workers: list[Worker]) -> None:
    async def look() -> tuple[bool, list[str]]:
        for worker in workers:
            await front._look(worker.member)
        ready, reasons = front.ready()
        return ready, list(reasons)

    assert front.ready() == (True, [])
    assert await look() == (True, [])
    workers[0].control.reasons = ["disk below its floor"]
    assert await look() == (True, ["worker 0: disk below its floor"])
    await workers[1].stop()
    workers[2].control.reasons = ["storage failed"]
    assert await look() == (
        False, ["worker 0: disk below its floor", "worker 1: waiting", "worker 2: storage failed"]
    )  # fmt: skip
    workers[0].member.served.clear()
    assert front.ready() == (False, ["worker 0: starting"])
    assert Front(None, [], lambda: True).ready() == (False, ["shutting down"])  # type: ignore[arg-type]


async def test_metrics_tell_who_answers(front: Front, workers: list[Worker]) -> None:
    for worker in workers:
        worker.metrics.listener("l").received("ct", 10)
    lines = (await front.exposition()).decode().splitlines()
    assert 'dicom_router_instances_received_total{listener="l",peer="ct"} 3.0' in lines
    assert any(line.startswith('process_open_fds{worker="parent"}') for line in lines)
    await workers[1].stop()
    lines = (await front.exposition()).decode().splitlines()
    assert 'dicom_router_instances_received_total{listener="l",peer="ct"} 3.0' in lines
    assert 'dicom_router_worker_up{worker="0"} 1.0' in lines
    assert 'dicom_router_worker_up{worker="1"} 0.0' in lines
    assert 'dicom_router_worker_restarts_total{worker="1"} 0.0' in lines
