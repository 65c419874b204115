"""A real router as a subprocess, on ports of its own, as an operator would run it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.peers import accepts
from tests.support.ports import free_port

EVERYTHING = '[[rule]]\nname = "everything"\nto = {names}\n'
NO_FLOORS = {"DICOM_ROUTER__SPOOL__RESERVE_ASSOCIATIONS": "0B", "DICOM_ROUTER__SPOOL__RESERVE_OBJECTS": "0B"}
"""For the environment: a router that takes objects to the last byte of its disk."""


ROOMY = "handshakes_per_address = 256\nassociations_per_peer = 200\n"
"""Limits beyond the product's 8 and 20: all peers of a test have one address."""


class RouterProcess:
    """Configuration in ``folder``, started and stopped at will; ports stay the same over restarts.

    Args:
        defaults: No limits but those of the product and of ``limits``.
    """

    def __init__(
        self,
        folder: Path,
        destinations: Mapping[str, str],
        *,
        rules: str | None = None,
        extra: str = "",
        limits: str = "",
        node: str = "",
        on_no_match: str = "hold",
        workers: int = 1,
        defaults: bool = False,
        program: Sequence[str] = (sys.executable, "-m", "router.app.cli"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.program = list(program)
        self.environment = dict(environment or {})
        self.port = free_port()
        self.admin = free_port()
        self.config = folder / "router.toml"
        self.log = folder / "router.log"
        (folder / "rules").mkdir(exist_ok=True)
        if rules is None:
            rules = EVERYTHING.format(names=json.dumps(list(destinations))) if destinations else ""
        self.write_rules(rules)
        lines = [
            f'[node]\nname = "test"\nworkers = {workers}\ndata_dir = "{folder / "data"}"\n{node}',
            f'[[listen]]\nbind = "127.0.0.1:{self.port}"\nae_titles = ["ROUTER"]\naccept = "any"\ntls = "off"',
            f'[rules]\npath = "{folder / "rules"}"\non_no_match = "{on_no_match}"',
            f'[admin]\nbind = "127.0.0.1:{self.admin}"',
            '[log]\nformat = "json"',
            f"[limits]\n{'' if defaults else ROOMY}{limits}",
        ]
        lines += [f'[destinations.{name}]\nurl = "{url}"' for name, url in destinations.items()]
        if "reserve_" not in extra:  # a disk that others have filled is no matter of most tests
            self.environment = {**NO_FLOORS, **self.environment}
        self.config.write_text("\n".join([*lines, extra]) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def set_workers(self, count: int) -> None:
        """From the next start on."""
        self.config.write_text(re.sub(r"workers = \d+", f"workers = {count}", self.config.read_text()))

    def write_rules(self, text: str) -> None:
        """As an editor saves them: whoever looks meanwhile sees the old ones or the new ones."""
        whole = self.folder / "rules.new"
        whole.write_text(text)
        whole.rename(self.folder / "rules" / "10-test.toml")

    def launch(self) -> None:
        """Without waiting for anything."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.program, "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            )

    def start(self, seconds: float = 30) -> None:
        self.launch()
        if self.process is None:
            return
        deadline = time.monotonic() + seconds
        while not (accepts(self.port) and self.ready()):
            if self.process.poll() is not None:
                raise RuntimeError(f"router ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"router not ready:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def ready(self) -> bool:
        try:
            self.get("/readyz")
        except (OSError, http.client.HTTPException):  # it may end in the middle of its answer
            return False
        return True

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=10) as answer:
            body: str = answer.read().decode()
            return body

    def post(self, path: str, body: object = None) -> str:
        data = json.dumps(body).encode() if body is not None else b""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin}{path}",
            data=data,
            method="POST",
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0.0 when there is none."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            if line.startswith("#") or not line.startswith(name):
                continue
            series, value = line.rsplit(" ", 1)
            if series.split("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "router.app.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM; gives the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
            raise
        self.process = None
        return code

    def __enter__(self) -> RouterProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
