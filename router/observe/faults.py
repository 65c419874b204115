"""Faults that nobody caught: one line in the log, where Python would print a traceback with the exception's own text.

That text can quote what the code failed on, and asyncio adds what a callback was given: both can be a patient's.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from router.observe.logs import get_logger
from router.observe.redaction import without_arguments


def log_uncaught() -> None:
    """From here on, in this process: exceptions that end it or one of its threads, that are raised where nobody could
    catch them, and Python's warnings are lines of the log. The exit codes stay Python's."""
    sys.excepthook = _ends_the_process
    threading.excepthook = _ends_a_thread
    sys.unraisablehook = _raised_in_vain
    warnings.showwarning = _warning


def log_of_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler. Of the context no more than what happened: the rest shows arguments."""
    said = without_arguments(str(context.get("message", "")))
    get_logger().error(
        "fault in a callback or task that nobody waits for", said=said, exc_info=context.get("exception")
    )


def _ends_the_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    get_logger().error("the process ends by a fault of ours", exc_info=error.with_traceback(trace))


def _ends_a_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit:
        return
    name = arguments.thread.name if arguments.thread is not None else ""
    get_logger().error("a thread ends by a fault of ours", thread=name, exc_info=arguments.exc_value)


def _raised_in_vain(unraisable: sys.UnraisableHookArgs) -> None:
    get_logger().error("fault where it cannot be handled", exc_info=unraisable.exc_value)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    get_logger().warning("a warning of Python", kind=category.__name__, at=f"{Path(filename).name}:{lineno}")
