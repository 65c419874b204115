"""Where the router's processor time goes: ``python -m benchmarks.where``.

One run of ``benchmarks.flow``'s router, with its tools, as often as asked; medians:

* milliseconds of a processor per object, of each thread, in our own code and in the kernel
* with ``--calls``, from a run of its own under ``strace -f -c``: system calls per object (their times mean nothing there)
* with ``--profile``, from a run of its own under ``perf record``: of the loop's time, the part of each library
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.flow import SIZES, SYSTEMS, Work, build_tools, faults, run, study

LEAST_CALLS = 0.02
"""Per object; what is rarer is left out."""
TICKS = os.sysconf("SC_CLK_TCK")

Watch = Callable[[int], contextlib.AbstractContextManager[None]]
"""Around the run, given the router's process id."""


def threads_of(pid: int) -> dict[int, tuple[str, float, float]]:
    """Thread id to (name, milliseconds in our own code, in the kernel)."""
    found = {}
    for entry in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            text = (entry / "stat").read_text()
            fields = text.rsplit(")", 1)[1].split()
            name = "loop" if int(entry.name) == pid else text[text.index("(") + 1 : text.rindex(")")]
            found[int(entry.name)] = name, int(fields[11]) * 1e3 / TICKS, int(fields[12]) * 1e3 / TICKS
    return found


@contextlib.contextmanager
def watching_threads(spent: dict[str, list[float]], pid: int) -> Iterator[None]:
    """Adds to ``spent``: thread to milliseconds in our own code and in the kernel."""
    before = threads_of(pid)
    yield
    for thread, (name, user, system) in threads_of(pid).items():
        _, user_before, system_before = before.get(thread, (name, 0.0, 0.0))
        kind = name if name in ("loop", "ledger", "disk") else "others"
        total = spent.setdefault(kind, [0.0, 0.0])
        total[0] += user - user_before
        total[1] += system - system_before


@contextlib.contextmanager
def beside(command: list[str]) -> Iterator[None]:
    """A program that watches until it is interrupted."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        time.sleep(1.0)  # it has no way to say that it has begun
        try:
            if child.poll() is not None:
                said = child.stderr.read().decode(errors="replace") if child.stderr is not None else ""
                raise RuntimeError(f"{command[0]} cannot watch: {said.strip()}")
            yield
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)


def calls_in(report: str) -> Counter[str]:
    """What ``strace -c`` wrote: system call to its number."""
    calls: Counter[str] = Counter()
    for line in report.splitlines():
        words = line.split()
        if len(words) >= 5 and words[0].replace(".", "").isdigit() and words[3].isdigit() and words[-1] != "total":
            calls[words[-1]] += int(words[3])
    return calls


def shares_in(script: str, thread: int) -> dict[str, float]:
    """From what ``perf script -F tid,ip,sym,dso`` wrote: the library's name to its part of the thread's samples."""
    samples: Counter[str] = Counter()
    for line in script.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == str(thread):
            name = Path(words[-1].strip("()")).name
            samples["kernel" if name.startswith("[kernel") else name.split(".cpython-")[0]] += 1
    total = sum(samples.values()) or 1
    return {name: count / total for name, count in samples.most_common()}


class Runs:
    """Runs of one kind of work."""

    def __init__(
        self, folder: Path, tools: Path, size: int, objects: int, associations: int, destinations: int
    ) -> None:
        self._folder, self._tools = folder, tools
        self._size, self._associations, self._destinations = size, associations, destinations
        self._number = 0
        self.objects = objects
        self.pid = 0

    def run(self, watch: Watch) -> float:
        """Objects per second of one run. Raises RuntimeError if it was not whole."""
        self._number += 1

        @contextlib.contextmanager
        def watched(work: Work) -> Iterator[tuple[int, str, list[int]]]:
            with SYSTEMS["router-recycled"](work) as (port, called, pids):
                self.pid = pids[0]
                with watch(pids[0]):
                    yield port, called, pids

        figures = run(
            watched,
            Work(
                folder=self._folder / f"run{self._number}", tools=self._tools, size=self._size, objects=self.objects,
                associations=self._associations, destinations=self._destinations,
                per_association=study(self.objects, self._associations), first=self._number * 1_000_000,
            ),
        )  # fmt: skip
        if not figures.whole:
            raise RuntimeError(f"not everything was answered and arrived once, as it was: {faults([figures])}")
        return figures.rate


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.where", description="Where the router's processor time goes."
    )
    parser.add_argument("--size", choices=SIZES, default="16KiB")
    parser.add_argument("--objects", type=int, default=4000)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--destinations", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", action="store_true", help="count system calls, with strace")
    parser.add_argument("--profile", action="store_true", help="sample the loop, with perf")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tools = build_tools(folder / "tools")
        size, _ = SIZES[options.size]
        runs = Runs(folder, tools, size, options.objects, options.associations, options.destinations)
        rounds: list[dict[str, list[float]]] = []
        rates = []
        for _ in range(options.rounds):
            rounds.append({})
            rates.append(runs.run(partial(watching_threads, rounds[-1])))
        print(f"{options.size}, {options.associations} associations, {options.destinations} destinations:"
              f" {statistics.median(rates):.0f} objects/s, medians of {options.rounds} x {runs.objects}")  # fmt: skip
        print("thread    ms per object: own code, kernel")
        for name in ("loop", "ledger", "disk", "others"):
            own, kernel = (
                statistics.median(one.get(name, [0.0, 0.0])[part] for one in rounds) / runs.objects for part in (0, 1)
            )
            print(f"{name:8} {own:22.3f} {kernel:8.3f}")
        if options.calls:
            _calls(runs, folder / "strace")
        if options.profile:
            _profile(runs, folder / "perf")
    return 0


def _calls(runs: Runs, report: Path) -> None:
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed")
    runs.run(lambda pid: beside(["strace", "-f", "-c", "-o", str(report), "-p", str(pid)]))
    print("system call        per object")
    for name, count in calls_in(report.read_text()).most_common():
        if count >= LEAST_CALLS * runs.objects:
            print(f"{name:18} {count / runs.objects:10.2f}")


def _profile(runs: Runs, data: Path) -> None:
    if shutil.which("perf") is None:
        raise SystemExit("perf is not installed")
    runs.run(lambda pid: beside(["perf", "record", "-F", "2000", "-o", str(data), "-p", str(pid)]))
    script = subprocess.run(
        ["perf", "script", "-i", str(data), "-F", "tid,ip,sym,dso"], capture_output=True, text=True, timeout=120
    ).stdout
    print("of the loop's time")
    for name, part in shares_in(script, runs.pid).items():
        if part >= 0.005:
            print(f"{name:18} {part:10.3f}")


if __name__ == "__main__":
    sys.exit(main())
