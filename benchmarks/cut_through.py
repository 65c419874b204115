"""How long a large object is on its way after its sender has sent it, with cut-through and without.

    python -m benchmarks.cut_through --size 1GiB
    python -m benchmarks.cut_through --size 32MiB --rounds 1     # does it still run?

One object, one destination, all on this machine; the sender is as fast as a network of 1 Gbit/s unless ``--rate`` says
otherwise (0: as fast as it can). Both ways take turns within a round. The times, medians over all rounds:

* ``in``: from the first byte that the sender gives to its socket to the last
* ``answer``: from the last byte to 0x0000 (synced, decided, in the ledger)
* ``behind``: from the last byte in to the last byte out at the destination, whose hash of the whole must agree
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flow import MIB, Sink, Work, build_tools, peak_rss_of, router

WAYS = {"on": "cut_through = true\n", "off": "cut_through = false\n"}
UNITS = {"GiB": 1024 * MIB, "MiB": MIB}


@dataclass(frozen=True)
class Times:
    """Seconds, and bytes."""

    arriving: float
    answer: float
    behind: float
    peak_rss: int


def run(folder: Path, tools: Path, size: int, rate: int, destination: str, number: int) -> Times:
    """One object through a router of its own. Raises RuntimeError, TimeoutError unless it arrives as it was sent."""
    folder.mkdir(parents=True)
    sink = Sink(tools, 1, folder / "sink.log")
    work = Work(
        folder=folder, tools=tools, size=size, objects=1, associations=1, destinations=1, per_association=0,
        first=number, sinks=[sink],
    )  # fmt: skip
    log = folder / "load.log"
    with router(work, destination=destination) as (port, called, pids):
        command = [str(tools / "load"), "127.0.0.1", str(port), called, "BENCH", "1", "1", str(size), "0", str(number)]
        subprocess.run([*command, str(log), "0", str(rate)], check=True, capture_output=True, timeout=600)
        sink.wait()
        rss = sum(map(peak_rss_of, pids))
    uid, digest, status, took, sent, began = log.read_text().split()
    found = sink.close()
    shutil.rmtree(folder)
    if status != "0" or [got for got, _ in found.get(uid, [])] != [digest]:
        raise RuntimeError("the object did not arrive as it was sent")
    started, last_in = float(began), float(sent)
    return Times(last_in - started, started + float(took) - last_in, found[uid][0][1] - last_in, rss)


def bytes_of(text: str) -> int:
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cut_through", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=bytes_of, default=bytes_of("1GiB"), help="of the object, such as 1GiB or 32MiB")
    parser.add_argument("--rate", type=bytes_of, default=118_000_000, help="bytes a second; 0: as fast as it can")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the spools lie")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        tools = build_tools(folder / "tools")
        found: dict[str, list[Times]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way, destination in WAYS.items():
                found[way].append(run(folder / way, tools, options.size, options.rate, destination, number))
    pace = f"{options.rate / 1e6:.0f} MB/s" if options.rate else "as fast as it can"
    print(f"{options.size / MIB:.0f} MiB, {pace}, medians of {options.rounds}")
    print("cut-through   in, s  MB/s in  answer, ms  behind, ms  behind / in   peak RSS, MB")
    for way, times in found.items():
        arriving = statistics.median(item.arriving for item in times)
        behind = statistics.median(item.behind for item in times)
        print(
            f"{way:11} {arriving:8.3f} {options.size / arriving / 1e6:8.0f}"
            f" {statistics.median(item.answer for item in times) * 1e3:11.1f} {behind * 1e3:11.1f}"
            f" {statistics.median(item.behind / item.arriving for item in times):12.3f}"
            f" {max(item.peak_rss for item in times) / 1e6:14.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
