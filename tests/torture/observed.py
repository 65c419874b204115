"""The router's program, watched, and where it is asked for with faults or leaks planted in it.

    python -m tests.torture.observed FOLDER NAME,NAME... run -c router.toml

``FOLDER/names`` gets every path that Python opens, makes, renames or removes, also those that exist for a moment only,
and ``FOLDER/planted`` a line for each planted thing when it happened. NAMEs are of ``FAULTS`` or ``LEAKS``; "-" is
none.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.marked import mark

FAULTS = {
    "a fragment": "router.app.reception:StoreReception._count",
    "the end of an object": "router.app.reception:StoreReception.finish",
    "the rules": "router.routing.rules:RuleSet._decide",
    "the answer of a group": "router.app.intake:StoreIntake.synced",
    "what the ledger committed": "router.app.intake:StoreIntake.recorded",
    "a PDU": "router.net.connection:Connection._handle",
    "a destination's answer": "router.delivery.lane:Lane.answered",
    "a held object": "router.app.held:HeldInstances._decide",
    "a page": "router.app.control:RouterControl.status",
    "a transaction": "router.ledger.writer:SqliteLedger._apply",
    "the ledger's thread": "router.ledger.writer:SqliteLedger._run",
    "the start": "router.app.router:Router._open_storage",
}
"""What the fault happens with, and the function that raises at its first call with a mark in the exception's text."""

LEAKS = ("log", "standard error", "metrics", "status", "error comment", "file name", "file")
"""Sinks to which ``leak`` lets a mark go."""


def main() -> None:
    folder, planted = Path(sys.argv[1]), sys.argv[2].split(",")
    _watch(folder / "names")
    for name in planted:
        if name in FAULTS:
            _replace(FAULTS[name], functools.partial(_failing, name, folder / "planted"))
        elif name in LEAKS:
            leak(name, folder)
    sys.argv = ["dicom-router", *sys.argv[3:]]
    from router.app.cli import main as program

    program()


def _watch(names: Path) -> None:
    output = os.open(names, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    seen: set[object] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" and not event.startswith(("os.", "shutil.", "tempfile.", "subprocess.")):
            return
        for argument in arguments:
            if isinstance(argument, str | bytes | os.PathLike) and argument not in seen:
                seen.add(argument)
                os.write(output, os.fsencode(argument) + b"\n")

    sys.addaudithook(hook)


def _replace(place: str, make: Callable[[Any], Any]) -> None:
    module, path = place.split(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for one in owners:
        owner = getattr(owner, one)
    setattr(owner, name, make(getattr(owner, name)))


def _failing(name: str, planted: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    done = False

    @functools.wraps(function)
    def fail_once(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        if done:
            return function(*arguments, **named)
        done = True
        patient = mark(0, "XX")
        with planted.open("a") as file:
            file.write(f"{name}\n")
        raise ValueError(f"cannot do this for {patient}")

    return fail_once


def leak(sink: str, folder: Path) -> None:
    """What must not be: with each object that is refused or stored, something of it goes to ``sink``."""
    from router.app.reception import StoreReception
    from router.errors import DatasetError
    from router.observe.metrics import ListenerCounters

    if sink == "status":
        _replace("router.app.control:RouterControl.status", _with_a_patient)
    elif sink == "metrics":

        def received(self: ListenerCounters, peer: str, size: int) -> None:
            self.by_peer.setdefault(mark(0, "AE"), [0, 0])

        ListenerCounters.received = received  # type: ignore[method-assign]
    elif sink == "error comment":

        def check(self: StoreReception, attributes: object, sop_class: str, sop_instance: str) -> None:
            raise DatasetError(0xA900, f"not {sop_instance}")

        StoreReception._check_uids = check  # type: ignore[method-assign]
    else:
        finish = StoreReception.finish

        def finish_and_tell(self: StoreReception, done: Callable[[int, str], None]) -> None:
            patient = mark(0, "PN")
            if sink == "log":
                self._intake.log.info("stored", who=patient)
            elif sink == "standard error":
                print(patient, file=sys.stderr)
            elif sink == "file name":
                with tempfile.NamedTemporaryFile(prefix=patient, dir=folder):
                    pass
            else:
                (folder / "note").write_text(patient)
            finish(self, done)

        StoreReception.finish = finish_and_tell  # type: ignore[method-assign]


def _with_a_patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def status(*arguments: Any) -> Any:
        return await ask(*arguments) | {"last": mark(0, "PN")}

    return status


if __name__ == "__main__":
    main()
