"""The node as its operators see it: implements ``ports.Control`` and the metrics over all workers.

What people ask of the ledger one worker answers for all. What each worker does by itself is asked of each and put
together (``merge``, ``metrics_sum``). What an operator does is done once, by one worker, in the ledger; then the others
are told. Whoever is not reached finds it there, at the latest when he starts.

A worker that does not answer is named in what is shown, and never simply missing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from router.app.config import Config
from router.app.workers import merge, told
from router.app.workers.member import Member
from router.app.workers.metrics_sum import MetricsSum
from router.errors import InvalidRequest, LedgerError, NotFound, RouterError
from router.ports import Json
from router.web.local import NoAnswer

LOOK_EVERY = 1.0
"""Seconds between questions whether each worker is ready."""
LOOK_TIMEOUT = 5.0
"""Seconds for what every worker should answer at once."""
PARENT = "parent"
_ERRORS: dict[int, type[RouterError]] = {400: InvalidRequest, 404: NotFound, 503: LedgerError}


class Front:
    """Made once, by the parent.

    Args:
        draining: Whether the router is about to end.
    """

    def __init__(self, config: Config, members: Sequence[Member], draining: Callable[[], bool]) -> None:
        self.config = config
        self.members = members
        self.draining = draining
        self.started = time.time()
        self._unready: dict[int, list[str]] = {}
        self._sum = MetricsSum()
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)

    # Asking ------------------------------------------------------------------------------------------------

    async def _all(
        self, method: str, target: str, body: Any = None, within: float = LOOK_TIMEOUT
    ) -> tuple[list[Any], list[str]]:
        """Answers of those that answered, in order, and what there is to say of the others. Raises what one refused."""
        answers = await asyncio.gather(
            *(member.ask(method, target, body, within) for member in self.members), return_exceptions=True
        )
        found, missing = [], []
        for answer in answers:
            if isinstance(answer, NoAnswer):
                missing.append(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.append(_value(*answer))
        if not found:
            raise LedgerError("; ".join(missing))
        return found, missing

    async def _one(self, method: str, target: str, body: Any = None) -> tuple[Any, Member]:
        """The answer of the first worker that gives one, and who it was."""
        missing = []
        for member in self.members:
            try:
                return _value(*await member.ask(method, target, body)), member
            except NoAnswer as error:
                if error.asked and method != "GET":
                    # It may have done it: nobody else is asked to do it again.
                    raise LedgerError(f"{error}; look before you repeat it") from None
                missing.append(str(error))
        raise LedgerError("; ".join(missing))

    async def _tell_others(self, done_by: Member, target: str, body: Any = None) -> None:
        """Those that do not hear it find it in the ledger."""
        await asyncio.gather(
            *(member.ask("POST", target, body, LOOK_TIMEOUT) for member in self.members if member is not done_by),
            return_exceptions=True,
        )

    # ports.Control -----------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Keep what ``ready`` says up to date; until cancelled."""
        while True:
            await asyncio.gather(*(self._look(member) for member in self.members))
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, member: Member) -> None:
        try:
            status, text = await member.ask("GET", "/readyz", within=LOOK_TIMEOUT)
        except NoAnswer as error:
            # What its state says already needs no second line.
            self._unready[member.index] = [str(error)] if member.state == "serving" else []
            member.answered(False)
            return
        member.answered(True)
        lines = text.decode("utf-8", "replace").splitlines()
        self._unready[member.index] = [] if status == 200 else [f"worker {member.index}: {line}" for line in lines]

    def ready(self) -> tuple[bool, Sequence[str]]:
        """While one worker serves, senders are served; but not before all have served once."""
        if self.draining():
            return False, ["shutting down"]
        reasons = [f"worker {member.index}: starting" for member in self.members if not member.served.is_set()]
        if reasons:
            return False, reasons
        served = False
        for member in self.members:
            if member.state != "serving":
                reasons.append(f"worker {member.index}: {member.state}")
                continue
            unready = self._unready.get(member.index, [])
            reasons += unready
            served = served or not unready
        return served, reasons

    async def status(self) -> Json:
        found, missing = await self._all("GET", "/api/v1/status")
        return {
            **merge.status(found),
            "state": "draining" if self.draining() else "running",
            "started": self.started,
            "workers": [
                {"worker": member.index, "pid": member.pid, "state": member.state, "restarts": member.restarts}
                for member in self.members
            ],
            "not_answering": missing,
        }

    async def queue(self, destination: str | None, limit: int) -> Json:
        target = _target("/api/v1/queue", destination=destination, limit=limit)
        found, missing = await self._all("GET", target)
        return {**found[0], "destinations": merge.destinations(found), "not_answering": missing}

    async def studies(self, query: str, limit: int) -> Json:
        return await self._read("/api/v1/studies", query=query, limit=limit)

    async def trace(self, selector: str) -> Json:
        return await self._read("/api/v1/trace", selector=selector)

    async def explain(self, selector: str) -> Json:
        return await self._read("/api/v1/explain", selector=selector)

    async def dead_letters(self, destination: str | None, limit: int) -> Json:
        return await self._read("/api/v1/dead-letters", destination=destination, limit=limit)

    async def _read(self, path: str, **query: object) -> Json:
        answer: Json = (await self._one("GET", _target(path, **query)))[0]
        return answer

    async def rules(self) -> Json:
        found, missing = await self._all("GET", "/api/v1/rules")
        merged = merge.rule_list(found)
        return {**merged, "problems": [*merged["problems"], *missing]}

    async def reload(self) -> Sequence[str]:
        answers = await asyncio.gather(
            *(member.ask("POST", "/-/reload") for member in self.members), return_exceptions=True
        )
        problems: list[list[str]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                problems.append([str(answer)])
            else:
                value = json.loads(answer[1])
                problems.append(value.get("problems", [value.get("error", "")]))
        return merge.union(problems)

    async def pause(self, destination: str, reason: str) -> None:
        reason = reason or "paused by an operator"
        _, member = await self._one("POST", _lane(destination, "pause"), {"reason": reason})
        await self._tell_others(member, told.PAUSED, {"destination": destination, "reason": reason})

    async def resume(self, destination: str) -> None:
        _, member = await self._one("POST", _lane(destination, "resume"), {})
        await self._tell_others(member, told.RESUMED, {"destination": destination})

    async def resend(self, selector: str, destination: str | None) -> Json:
        return await self._owe("/api/v1/resend", {"selector": selector, "destination": destination})

    async def release(self, selector: str | None, destinations: Sequence[str] | None) -> Json:
        body = {"selector": selector, "destinations": None if destinations is None else list(destinations)}
        return await self._owe("/api/v1/release", body)

    async def retry_dead(self, destination: str | None, deliveries: Sequence[int] | None) -> Json:
        body = {"destination": destination, "deliveries": None if deliveries is None else list(deliveries)}
        return await self._owe("/api/v1/dead-letters/retry", body)

    async def discard_dead(self, deliveries: Sequence[int]) -> Json:
        return await self._owe("/api/v1/dead-letters/discard", {"deliveries": list(deliveries)})

    async def _owe(self, path: str, body: dict[str, Any]) -> Json:
        answer, member = await self._one("POST", path, body)
        await self._tell_others(member, told.OWED)
        done: Json = answer
        return done

    # Metrics -----------------------------------------------------------------------------------------------

    async def exposition(self) -> bytes:
        """The metrics of all workers, and of the parent what is said of processes."""
        answers = await asyncio.gather(
            *(member.ask("GET", "/metrics", within=LOOK_TIMEOUT) for member in self.members), return_exceptions=True
        )
        found: dict[str, tuple[object, str]] = {}
        for member, answer in zip(self.members, answers, strict=True):
            if not isinstance(answer, BaseException) and answer[0] == 200:
                found[str(member.index)] = (member.restarts, answer[1].decode())
        up = {str(member.index): int(str(member.index) in found) for member in self.members}
        found[PARENT] = (0, generate_latest(self._own).decode())
        lines = ["# HELP dicom_router_worker_up 1 if the worker answers", "# TYPE dicom_router_worker_up gauge"]
        lines += [f'dicom_router_worker_up{{worker="{worker}"}} {value}.0' for worker, value in up.items()]
        lines += ["# HELP dicom_router_worker_restarts_total Times that a worker was started again"]
        lines += ["# TYPE dicom_router_worker_restarts_total counter"]
        lines += [
            f'dicom_router_worker_restarts_total{{worker="{member.index}"}} {member.restarts}.0'
            for member in self.members
        ]
        return (self._sum.text(found) + "\n".join(lines) + "\n").encode()


def _value(status: int, body: bytes) -> Any:
    """The JSON of an answer. Raises what its error says."""
    try:
        value = json.loads(body)
    except ValueError:
        raise RouterError("a worker gave an answer that is none") from None
    if status == 200:
        return value
    raise _ERRORS.get(status, RouterError)(str(value.get("error", "")))


def _target(path: str, **query: object) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _lane(name: str, what: str) -> str:
    return f"/api/v1/destinations/{quote(name, safe='')}/{what}"
