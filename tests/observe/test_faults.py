"""What Python itself would say of a fault, with values in it, is a line of the log instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from router.observe.redaction import without_arguments

CANARY = "CANARY^PATIENT"

SET_UP = """
import asyncio, gc, sys, threading, warnings
from router.observe.faults import log_of_loop, log_uncaught
from router.observe.logs import configure_logging
configure_logging("json")
log_uncaught()
class Instance:
    def __repr__(self): return canary
    def __del__(self): fail(canary)
def fail(value): int(value)
"""

WAYS = {
    "it ends the process": ("fail(canary)", 1, "the process ends by a fault of ours"),
    "it ends a thread": (
        "thread = threading.Thread(target=fail, args=(canary,), name='ledger'); thread.start(); thread.join()",
        0,
        "a thread ends by a fault of ours",
    ),
    "it is raised in a finalizer": ("item = Instance(); del item", 0, "fault where it cannot be handled"),
    "it is a warning": ("warnings.simplefilter('always'); warnings.warn(canary)", 0, "a warning of Python"),
    "it is raised in a callback": (
        "async def main():\n"
        "    loop = asyncio.get_running_loop(); loop.set_exception_handler(log_of_loop)\n"
        "    loop.call_soon(fail, canary); await asyncio.sleep(0)\n"
        "asyncio.run(main())",
        0,
        "fault in a callback or task that nobody waits for",
    ),
    "it is raised in a task that nobody waits for": (
        "async def work(value): fail(value)\n"
        "async def main():\n"
        "    asyncio.get_running_loop().set_exception_handler(log_of_loop)\n"
        "    task = asyncio.create_task(work(canary), name=canary); await asyncio.sleep(0); del task; gc.collect()\n"
        "asyncio.run(main())",
        0,
        "fault in a callback or task that nobody waits for",
    ),
    "it is raised in a callback of a loop that nobody prepared": (
        "async def main():\n    asyncio.get_running_loop().call_soon(fail, canary); await asyncio.sleep(0)\n"
        "asyncio.run(main())",
        0,
        "Exception in callback fail",
    ),
}


@pytest.mark.parametrize(("fault", "code", "event"), WAYS.values(), ids=WAYS)
def test_a_fault_that_nobody_caught_says_where_but_not_on_what(
    tmp_path: Path, fault: str, code: int, event: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"canary = sys.argv[1]\n{fault}\n".replace("canary = ", f"{SET_UP}canary = ", 1))
    ended = subprocess.run(
        [sys.executable, str(program), CANARY], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code
    assert CANARY not in ended.stdout + ended.stderr
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert event in [line["event"] for line in said]
    if event != "a warning of Python":
        assert any("ValueError" in line["exception"] and "fail" in line["exception"] for line in said)


def test_what_asyncio_says_is_kept_up_to_what_it_had_in_hand() -> None:
    assert without_arguments("Task was destroyed but it is pending!") == "Task was destroyed but it is pending!"
    assert without_arguments(f"Exception in callback store('{CANARY}')") == "Exception in callback store"
    assert without_arguments(f"Exception in callback <bound method of {CANARY}>") == "Exception in callback"
    assert without_arguments(f"Fatal error\n{CANARY}") == "Fatal error"


def test_an_interrupt_says_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"{SET_UP}\nraise KeyboardInterrupt"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stderr == ""
