"""How throughput and latency change with associations and destinations: ``python -m benchmarks.scale``.

Against ``limit``, in turns, medians, with the tools of ``benchmarks.flow``:

* 1 to 256 associations, 16 KiB, one destination: throughput should not fall
* 1 to 16 destinations, 512 KiB, four associations: what a further destination costs in processor time, beside what ``limit``
  pays for it
* one association sending 16 KiB objects one by one: the time to each answer
* an association for each object, as some modalities do: 16 KiB, four at a time
* an idle router: 512 KiB objects with a pause in between, from the last byte in to the arrival
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flow import KIB, SYSTEMS, Figures, Work, build_tools, faults, faults_in_words, machine, median, run

NAMES = ("limit", "router")


@dataclass(frozen=True)
class Point:
    what: str
    size: int
    objects: int
    associations: int
    destinations: int
    pause_ms: int = 0
    per_association: int = 0
    """Objects; 0: all there are."""


def points(scale: float, associations: Sequence[int], destinations: Sequence[int]) -> list[Point]:
    def some(objects: int, at_least: int) -> int:
        return max(at_least, int(objects * scale))

    return [
        *(Point("associations", 16 * KIB, some(8000, 2 * number), number, 1) for number in associations),
        *(Point("destinations", 512 * KIB, some(800, 8), 4, number) for number in destinations),
        Point("one by one", 16 * KIB, some(2000, 20), 1, 1),
        Point("one each", 16 * KIB, some(2000, 20), 4, 1, per_association=1),
        Point("idle", 512 * KIB, some(100, 5), 1, 1, pause_ms=50),
    ]


def measure(point: Point, rounds: int, folder: Path, tools: Path, first: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in NAMES}
    for turn in range(rounds):
        for index, name in enumerate(NAMES):
            number = first + turn * len(NAMES) + index
            work = Work(
                folder=folder / f"run{number}", tools=tools, size=point.size, objects=point.objects,
                associations=point.associations, destinations=point.destinations, per_association=point.per_association,
                first=number * 1_000_000, pause_ms=point.pause_ms,
            )  # fmt: skip
            found[name].append(run(SYSTEMS[name], work))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="Associations, destinations, latency."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of objects")
    parser.add_argument("--associations", default="1,4,16,64,256")
    parser.add_argument("--destinations", default="1,2,4,8,16")
    parser.add_argument("--folder", type=Path, help="where spools lie; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(argv)
    rows: list[dict[str, object]] = []
    print(
        "what          size   assoc dest system    objects/s  CPU ms each  response p50, p99 ms  delivery p50, p99 ms"
        "  n x rounds  failed lost damaged dup"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        tools = build_tools(Path(temporary) / "tools")
        wanted = points(
            options.scale,
            [int(text) for text in options.associations.split(",")],
            [int(text) for text in options.destinations.split(",")],
        )
        for place, point in enumerate(wanted):
            found = measure(point, options.rounds, Path(temporary), tools, 1 + place * options.rounds * len(NAMES))
            for name, rounds in found.items():
                figures = [f for f in rounds if f.whole]
                row: dict[str, object] = {
                    "what": point.what, "size": point.size, "associations": point.associations,
                    "destinations": point.destinations, "system": name, "objects": point.objects,
                    "rate": median([f.rate for f in figures]),
                    "cpu_ms": median([f.cpu_seconds / f.objects * 1e3 for f in figures]),
                    "p50_ms": median([f.p50 * 1e3 for f in figures]), "p99_ms": median([f.p99 * 1e3 for f in figures]),
                    "delivery_p50_ms": median([f.delivery_p50 * 1e3 for f in figures]),
                    "delivery_p99_ms": median([f.delivery_p99 * 1e3 for f in figures]),
                    **faults(rounds),
                }  # fmt: skip
                rows.append(row)
                print(
                    f"{point.what:13} {point.size >> 10:4}K {point.associations:5} {point.destinations:4} {name:8}"
                    f" {row['rate']:10.0f} {row['cpu_ms']:11.3f} {row['p50_ms']:11.2f} {row['p99_ms']:9.2f}"
                    f" {row['delivery_p50_ms']:12.2f} {row['delivery_p99_ms']:9.2f}   {faults_in_words(row)}",
                    flush=True,
                )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 1 if any(row["whole"] != row["rounds"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
