"""Objects per second through the router, its peers and the machine's own limit, in one interleaved run.

    python -m benchmarks.flow                 # every size and system, medians of several rounds
    python -m benchmarks.flow --quick         # small counts, one round: does it still run?
    python -m benchmarks.flow --systems router --workers 1,2

The systems:

* ``limit``: a C program that syncs and forwards without looking at what it carries (``native/limit.c``): what this
  machine allows
* ``router``: ours, durable, with rules and ledger; ``router-recycled``: into segments that were written before, as a
  router has them whose deliveries have begun to expire
* ``storescp``: ``storescp --fork`` and ``dcmsend`` per study, as DCMTK's good users build it; not durable
* ``orthanc``: auto-routing as its book shows it; ``orthanc-tuned``: by series, with its threads and jobs turned up
* ``pynetdicom``: a handler that saves and sends, as its examples show it

What is measured, from the first byte sent to the last object verified at its far end:

* 0 destinations: the sender has its answers (router, limit: durable; storescp: written, not synced)
* 1, 3 destinations: every sink has every object
* response: from the first byte of an object to its answer; delivery: from its last byte to its arrival at a sink

The load generator and the sinks are compiled (``native/``), so they are not what is measured; every object has its own UID, and the
content of each is compared by hash at every sink. Machines are shared and noisy: systems take turns within a round, and the
table shows medians and ratios of one run.

A round in which anything was not answered 0x0000, lost, damaged or sent twice enters no median, whoever it was; what is
left of the rounds is shown, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.model import SpoolSettings
from router.spool.segment import path_of
from tests.support.ports import free_port

NATIVE = Path(__file__).parent / "native"
KIB = 1024
MIB = 1024 * KIB
PATIENCE = 300.0
"""Seconds from the last answer until what has not arrived counts as lost."""


@dataclass
class Figures:
    """One run of one system."""

    seconds: float
    objects: int
    size: int
    failures: int
    """Not answered 0x0000, or never sent."""
    lost: int
    damaged: int
    duplicates: int
    cpu_seconds: float
    peak_rss: int
    p50: float
    """Seconds to the response."""
    p99: float
    delivery_p50: float
    """Seconds from the last byte in to the arrival at a sink; 0 without sinks."""
    delivery_p99: float

    @property
    def whole(self) -> bool:
        """It did all that it was asked for; else its times mean nothing."""
        return not (self.failures or self.lost or self.damaged or self.duplicates)

    @property
    def rate(self) -> float:
        return self.objects / self.seconds

    @property
    def megabytes(self) -> float:
        return self.objects * self.size / self.seconds / 1e6


@dataclass
class Work:
    """What every system of one comparison has to do."""

    folder: Path
    tools: Path
    size: int
    objects: int
    associations: int
    destinations: int
    per_association: int
    first: int
    pause_ms: int = 0
    """Between two objects of an association."""

    sinks: list[Sink] = field(default_factory=list)


class Sink:
    """A running ``sink`` process."""

    def __init__(self, tools: Path, expect: int, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [str(tools / "sink"), "0", str(expect), str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._line().split()[1])

    def _line(self) -> str:
        output = self.process.stdout
        if output is None:
            raise RuntimeError("sink has no output")
        line = output.readline()
        if not line:
            raise RuntimeError("sink ended")
        return line

    def wait(self, seconds: float = PATIENCE) -> float:
        """The monotonic time at which the last expected object arrived. Raises TimeoutError if it does not."""
        if not select.select([self.process.stdout], [], [], max(0.0, seconds))[0]:
            raise TimeoutError(f"not everything arrived within {seconds:.0f} s")
        return float(self._line().split()[1])

    def close(self) -> dict[str, list[tuple[str, float]]]:
        """End it; gives (hash, time of arrival) by UID."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        found: dict[str, list[tuple[str, float]]] = {}
        for line in self.log.read_text().splitlines():
            uid, digest, arrived = line.split()
            found.setdefault(uid, []).append((digest, float(arrived)))
        return found


def build_tools(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("load", "sink", "limit"):
        subprocess.run(
            ["cc", "-O3", "-march=native", "-pthread", "-o", str(folder / name), str(NATIVE / f"{name}.c")], check=True
        )
    return folder


def wait_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        time.sleep(0.05)
    raise TimeoutError(f"port {port} does not answer")


def wait_ready(admin: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Until the router says that it serves, with all its workers."""
    wait_port(admin, process, seconds)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5):
            return
        time.sleep(0.05)
    raise TimeoutError("the router is not ready")


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def peak_rss_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def process(arguments: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        child = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)


# The systems: each is a context that gives (port to send to, called AE title, its process). -----------------------------


@contextlib.contextmanager
def router(
    work: Work, workers: int = 1, destination: str = "", recycled: int = 0
) -> Iterator[tuple[int, str, list[int]]]:
    """``recycled``: segments that there are already, with all their blocks written."""
    port, admin = free_port(), free_port()
    folder = work.folder
    if recycled:
        write_segments(folder / "data" / "spool", recycled)
    names = [f"d{index}" for index in range(len(work.sinks))]
    (folder / "rules").mkdir()
    rule = f'[[rule]]\nname = "all"\nto = {json.dumps(names)}\n' if names else ""
    (folder / "rules" / "all.toml").write_text(rule)
    destinations = "".join(
        f'[destinations.{name}]\nurl = "dicom://SINK@127.0.0.1:{sink.port}"\n{destination}'
        for name, sink in zip(names, work.sinks, strict=True)
    )
    (folder / "router.toml").write_text(
        f'[node]\nname = "bench"\nworkers = {workers}\ndata_dir = "{folder / "data"}"\n'
        f'[[listen]]\nbind = "127.0.0.1:{port}"\nae_titles = ["ROUTER"]\naccept = "any"\ntls = "off"\n'
        f'[rules]\npath = "{folder / "rules"}"\non_no_match = "hold"\n'
        f'[admin]\nbind = "127.0.0.1:{admin}"\n'
        f'[spool]\nspare_segments = {max(4, recycled)}\nreserve_associations = "0B"\nreserve_objects = "0B"\n'
        f"[limits]\nassociations = 400\nassociations_per_peer = 400\nhandshakes_per_address = 400\n{destinations}"
    )
    command = [sys.executable, "-m", "router.app.cli", "run", "-c", str(folder / "router.toml")]
    with process(command, folder / "router.log") as child:
        wait_ready(admin, child)
        yield port, "ROUTER", [child.pid, *children_of(child.pid)]


def write_segments(folder: Path, count: int) -> None:
    """Empty segments, every block of them written and synced, and none in the page cache, as the router leaves them."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        path = path_of(folder, number)
        with path.open("wb") as file:
            for _ in range(SEGMENT_SIZE // MIB):
                file.write(bytes(MIB))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def router_recycled(work: Work) -> contextlib.AbstractContextManager[tuple[int, str, list[int]]]:
    return router(work, recycled=work.objects * (work.size + 4096) // SEGMENT_SIZE + 2)


@contextlib.contextmanager
def storescp(work: Work) -> Iterator[tuple[int, str, list[int]]]:
    """Writes files and does not sync them; ``--fork`` for several associations, as its good users run it."""
    port = free_port()
    store = work.folder / "store"
    store.mkdir()
    nodelay = {"TCP_NODELAY": "1"}
    arguments = ["storescp", "--fork", "+xa", "-pdu", "131072", "-aet", "STORESCP", "-od", str(store)]
    arguments += ["-su", "S"] if work.sinks else ["+B"]
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(process([*arguments, str(port)], work.folder / "storescp.log", nodelay))
        wait_port(port, child)
        pids = [child.pid]
        if work.sinks:
            command = [
                sys.executable,
                "-m",
                "benchmarks.dcmtk_pipeline",
                str(store),
                str(work.per_association),
                str(work.size),
            ]
            command += [str(work.sinks[0].port), str(work.folder / "ended")]
            pids.append(stack.enter_context(process(command, work.folder / "pipeline.log", nodelay)).pid)
        yield port, "STORESCP", pids


AUTO_ROUTING = "function OnStoredInstance(instanceId, tags, metadata)\n  SendToModality(instanceId, 'sink')\nend\n"


@contextlib.contextmanager
def orthanc(work: Work, script: str = AUTO_ROUTING, **more: object) -> Iterator[tuple[int, str, list[int]]]:
    """Auto-routing as its book shows it: a script that sends every stored instance."""
    port, http = free_port(), free_port()
    folder = work.folder
    (folder / "route.lua").write_text(script)
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "HttpPort": http,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "DicomAlwaysAllowStore": True,
        "LuaScripts": [str(folder / "route.lua")] if work.sinks else [],
        "DicomModalities": {"sink": ["SINK", "127.0.0.1", work.sinks[0].port]} if work.sinks else {},
        "ConcurrentJobs": 4,
        "DicomThreadsCount": 4,
        "StorageCompression": False,
        **more,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    program = shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin") or "Orthanc"
    with process([program, str(folder / "orthanc.json")], folder / "orthanc.log", {"TCP_NODELAY": "1"}) as child:
        wait_port(port, child)
        yield port, "ORTHANC", [child.pid]


def orthanc_tuned(work: Work) -> contextlib.AbstractContextManager[tuple[int, str, list[int]]]:
    """A study is a series here, sent in one job when it is complete."""
    return orthanc(
        work,
        script="function OnStableSeries(seriesId, tags, metadata)\n"
        "  RestApiPost('/modalities/sink/store', '{\"Resources\": [\"' .. seriesId .. '\"], \"Synchronous\": false}')\nend\n",
        StableAge=1,
        MaximumPduLength=131072,
    )


@contextlib.contextmanager
def pynetdicom(work: Work) -> Iterator[tuple[int, str, list[int]]]:
    port = free_port()
    folder = work.folder / "store"
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.pynetdicom_router", str(port), str(folder)]
    command += [str(sink.port) for sink in work.sinks]
    with process(command, work.folder / "pynetdicom.log") as child:
        wait_port(port, child)
        yield port, "PYNETDICOM", [child.pid]


@contextlib.contextmanager
def limit(work: Work) -> Iterator[tuple[int, str, list[int]]]:
    """Into blocks that were written before, as in a recycled segment."""
    spool = min(LIMIT_SPOOL, max(LIMIT_SPOOL // 16, 2 * work.objects * work.size))
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(
            subprocess.Popen(
                [str(work.tools / "limit"), "0", str(work.folder / "limit.spool"), str(spool), "0"]
                + [str(sink.port) for sink in work.sinks],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        if child.stdout is None or child.stdin is None:
            raise RuntimeError("limit has no pipes")
        stack.callback(child.stdin.close)
        yield int(child.stdout.readline().split()[1]), "LIMIT", [child.pid]


System = Callable[[Work], contextlib.AbstractContextManager[tuple[int, str, list[int]]]]
SYSTEMS: dict[str, System] = {
    "limit": limit,
    "router": router,
    "router-recycled": router_recycled,
    "storescp": storescp,
    "orthanc-tuned": orthanc_tuned,
    "orthanc": orthanc,
    "pynetdicom": pynetdicom,
}
SIZES = {"16KiB": (16 * KIB, 4000), "512KiB": (512 * KIB, 1200), "100MiB": (100 * MIB, 12)}
"""Bytes of an object, and how many of them are a run."""
SLOW = {"orthanc": 0.2, "pynetdicom": 0.2}
"""They get this share of the objects: their rate does not depend on the number, and nobody wants to wait."""
SEVERAL = "router x"
"""Before the number of workers: the router with several."""
FAN_OUT = {"limit", "router", "router-recycled"}
RECEIVE = {"limit", "router", "router-recycled", "storescp"}
LIMIT_SPOOL = 1 << 30
"""Bytes at most; to write them beforehand takes longer than a short run."""
SEGMENT_SIZE = SpoolSettings().segment_size


def study(objects: int, associations: int) -> int:
    """Objects that are sent on one association before it is released: a study of 50, or of fewer, so that each sender has two."""
    return max(1, min(50, objects // associations // 2))


def run(system: System, work: Work) -> Figures:
    work.folder.mkdir(parents=True)
    work.sinks = [
        Sink(work.tools, work.objects, work.folder / f"sink{index}.log") for index in range(work.destinations)
    ]
    log = work.folder / "load.log"
    with system(work) as (port, called, pids):
        before = sum(map(cpu_of, pids))
        started = time.monotonic()
        load = subprocess.run(
            [
                str(work.tools / "load"), "127.0.0.1", str(port), called, "BENCH", str(work.associations), str(work.objects),
                str(work.size), str(work.per_association), str(work.first), str(log), str(work.pause_ms),
            ],
            check=True, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        sent = json.loads(load.stdout)
        (work.folder / "ended").touch()
        seconds = sent["seconds"]
        if work.sinks and not sent["failures"]:
            deadline = time.monotonic() + PATIENCE
            try:
                seconds = max(sink.wait(deadline - time.monotonic()) for sink in work.sinks) - started
            except TimeoutError:
                seconds = time.monotonic() - started
        cpu = sum(map(cpu_of, pids)) - before
        rss = sum(map(peak_rss_of, pids))
    answered: dict[str, str] = {}
    sent_at: dict[str, float] = {}
    times = []
    for line in log.read_text().splitlines():
        uid, digest, status, took, sent_last, _ = line.split()
        times.append(float(took))
        sent_at[uid] = float(sent_last)
        if status == "0":
            answered[uid] = digest
    delays = []
    lost = damaged = duplicates = 0
    for sink in work.sinks:
        found = sink.close()
        lost += sum(uid not in found for uid in answered)
        damaged += sum(digest != answered.get(uid, digest) for uid, got in found.items() for digest, _ in got)
        duplicates += sum(len(got) - 1 for got in found.values())
        delays += [got[0][1] - sent_at[uid] for uid, got in found.items() if uid in sent_at]
    shutil.rmtree(work.folder)
    return Figures(
        seconds=seconds, objects=work.objects, size=work.size, failures=work.objects - len(answered), lost=lost, damaged=damaged,
        duplicates=duplicates, cpu_seconds=cpu, peak_rss=rss, p50=share(times, 0.5), p99=share(times, 0.99),
        delivery_p50=share(delays, 0.5), delivery_p99=share(delays, 0.99),
    )  # fmt: skip


def share(values: list[float], part: float) -> float:
    """The value below which ``part`` of them lie; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def faults(rounds: Sequence[Figures]) -> dict[str, object]:
    """How many rounds there were and how many of them count, and what went wrong in the others."""
    return {
        "rounds": len(rounds), "whole": sum(f.whole for f in rounds), "failures": sum(f.failures for f in rounds),
        "lost": sum(f.lost for f in rounds), "damaged": sum(f.damaged for f in rounds),
        "duplicates": sum(f.duplicates for f in rounds),
    }  # fmt: skip


def faults_in_words(row: dict[str, object]) -> str:
    counted = f"{row['whole']}" if row["whole"] == row["rounds"] else f"{row['whole']} of {row['rounds']}"
    return f"{row['objects']} x {counted}   {row['failures']} {row['lost']} {row['damaged']} {row['duplicates']}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flow", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="small counts, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="16KiB,512KiB,100MiB")
    parser.add_argument("--destinations", default="0,1,3")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--workers", default="1", help="of the router; several numbers take turns, as in 1,2")
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of objects")
    parser.add_argument("--folder", type=Path, help="where spools and stores lie; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(argv)
    rounds = 1 if options.quick else options.rounds
    rows = []
    systems = dict(SYSTEMS)
    names = []
    for name in options.systems.split(","):
        if name != "router":
            names.append(name)
            continue
        for workers in map(int, options.workers.split(",")):
            names.append(f"{SEVERAL}{workers}" if workers > 1 else name)
            systems[names[-1]] = functools.partial(router, workers=workers)
    number = 1
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        tools = build_tools(Path(temporary) / "tools")
        for label in options.sizes.split(","):
            size, objects = SIZES[label]
            objects = max(options.associations, int(objects * options.scale / (20 if options.quick else 1)))
            for destinations in [int(text) for text in options.destinations.split(",")]:
                results: dict[str, list[Figures]] = {}
                for _ in range(rounds):
                    for name in names:
                        kind = "router" if name.startswith(SEVERAL) else name
                        if (destinations > 1 and kind not in FAN_OUT) or (destinations == 0 and kind not in RECEIVE):
                            continue  # the others send to one place; their receiving alone is not compared
                        count = max(options.associations, int(objects * SLOW.get(name, 1)))
                        work = Work(
                            folder=Path(temporary) / f"run{number}", tools=tools, size=size, objects=count,
                            associations=options.associations, destinations=destinations,
                            per_association=study(count, options.associations), first=number * 1_000_000,
                        )  # fmt: skip
                        number += 1
                        results.setdefault(name, []).append(run(systems[name], work))
                for name, rounds_of_it in results.items():
                    figures = [f for f in rounds_of_it if f.whole]
                    rows.append(
                        {
                            "size": label, "destinations": destinations, "system": name, "objects": rounds_of_it[0].objects,
                            "associations": options.associations,
                            "rate": median([f.rate for f in figures]), "mb_s": median([f.megabytes for f in figures]),
                            "cpu_s_per_gb": median([f.cpu_seconds / (f.objects * f.size / 1e9) for f in figures]),
                            "rss_mb": median([f.peak_rss / 1e6 for f in figures]), "p50_ms": median([f.p50 * 1e3 for f in figures]),
                            "p99_ms": median([f.p99 * 1e3 for f in figures]),
                            "delivery_p50_ms": median([f.delivery_p50 * 1e3 for f in figures]),
                            "delivery_p99_ms": median([f.delivery_p99 * 1e3 for f in figures]), **faults(rounds_of_it),
                        }
                    )  # fmt: skip
                    print_row(rows[-1], rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 1 if any(row["whole"] != row["rounds"] for row in rows) else 0


def machine() -> dict[str, object]:
    """Where and with what it was measured."""

    def first_line(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except OSError:
            return ""
        return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "")

    models = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": first_line("git", "rev-parse", "--short", "HEAD"),
        "dcmtk": first_line("storescp", "--version"),
        "orthanc": first_line("Orthanc", "--version"),
    }


def print_row(row: dict[str, object], rows: list[dict[str, object]]) -> None:
    if len(rows) == 1:
        print(
            "size     dest system         objects/s     MB/s  CPU s/GB  RSS MB  response p50, p99 ms  delivery p50, p99 ms"
            "  n x rounds   failed lost damaged dup"
        )
    print(
        f"{row['size']:8} {row['destinations']:4} {row['system']:13} {row['rate']:10.0f} {row['mb_s']:8.0f}"
        f" {row['cpu_s_per_gb']:9.2f} {row['rss_mb']:7.0f} {row['p50_ms']:10.2f} {row['p99_ms']:10.2f}"
        f" {row['delivery_p50_ms']:10.2f} {row['delivery_p99_ms']:10.2f}  {faults_in_words(row)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
