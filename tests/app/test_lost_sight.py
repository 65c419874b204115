"""A fault of ours on the way of a delivery costs time, and not the object: what no lane has is made ready again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from router.app import housekeeping
from router.app.config import load_config
from router.app.router import Router
from router.delivery.lane import Lane
from router.net.dialer import associate
from router.observe.logs import get_logger
from router.services.storage_scu import StorageScu, propose
from tests.app.test_storage_failure import CT, EXPLICIT, configuration, store
from tests.support.router_process import NO_FLOORS

OBJECTS = 12


@pytest.mark.parametrize("step", ["offer", "answered", "take"])
async def test_a_delivery_that_no_lane_has_is_ready_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(housekeeping, "GAUGES_EVERY", 0.02)
    monkeypatch.setattr(housekeeping, "RECLAIM_EVERY", 0.1)
    real, calls = getattr(Lane, step), 0

    def faulty(lane: Lane, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        # ``take`` may have nothing to give, so it comes first; the others are lost before they do anything.
        found = real(lane, *arguments, **more) if step == "take" else lane
        calls += found is not None
        if found is not None and calls in (2, 5):
            raise KeyError("a fault of ours")
        return found if step == "take" else real(lane, *arguments, **more)

    monkeypatch.setattr(Lane, step, faulty)
    folder = tmp_path / "out"
    extra = f'[destinations.folder]\nurl = "file:{folder}"\n'
    path = configuration(tmp_path, extra)
    (tmp_path / "rules" / "rules.toml").write_text('[[rule]]\nname = "all"\nto = ["folder"]\n')
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the planted fault
    router = await Router.start(load_config(path, NO_FLOORS))
    try:
        connection = await associate(
            "127.0.0.1",
            router.listeners[0].port,
            propose([(CT, EXPLICIT)], called_ae="ROUTER", calling_ae="CT1"),
            connect_timeout=5,
            log=get_logger(),
        )
        scu = StorageScu(connection, log=get_logger())
        for number in range(OBJECTS):
            assert await store(scu, f"2.25.{number + 1}") == 0x0000
        async with asyncio.timeout(20):
            await router.ledger.flush()  # what is counted is what is committed
            while (await router.ledger.counted()).open.get("folder", (0, 0))[0] or calls < OBJECTS:
                await asyncio.sleep(0.02)
        assert "lost sight of" in capsys.readouterr().out, "and a person is told"
        assert len(list(folder.rglob("*.dcm"))) == OBJECTS
        lane = router.lanes["folder"]
        assert (lane.window, len(lane.holds())) == (0, 0) or step == "offer"
        scu.abort()
    finally:
        await router.close(grace=1)
