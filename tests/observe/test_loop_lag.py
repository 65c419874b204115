"""A loop that is kept busy shows."""

from __future__ import annotations

import asyncio
import time

from router.observe.loop_lag import LoopLag


async def test_a_busy_loop_comes_back_late() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    task = asyncio.create_task(LoopLag(seen.put_nowait, interval=0.001).run())
    await seen.get()
    time.sleep(0.05)
    latest = [await seen.get(), await seen.get()]
    task.cancel()
    assert max(latest) > 0.03
    assert min(latest) >= 0
