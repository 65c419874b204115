"""A program of ours that is told what to do, a line at a time; it ends when nobody can tell it any more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Self


class Told:
    """``python -m`` a module, running; leave the ``with`` block and it has ended."""

    def __init__(self, module: str, *arguments: object, pass_fds: Sequence[int] = ()) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )

    def ready(self) -> int:
        """The port that it says first: ``ready PORT``."""
        word, port = self._line().split()
        assert word == "ready"
        return int(port)

    def tell(self, what: str) -> None:
        """In force when this returns."""
        assert self.ask(what) == "ok"

    def ask(self, what: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._line().rstrip("\n")

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._module} has ended"
        return line

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
