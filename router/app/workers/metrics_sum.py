"""The metrics of several workers as those of one router.

Counters and histograms are summed up, and never fall when a worker is started again: what its earlier runs had counted,
as far as it was read, stays in the sum. Gauges are summed up too, but for those that mean the same in every worker.
What is said of a process is said of each, with a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HIGHEST = frozenset(
    (
        "dicom_router_queue_depth",
        "dicom_router_queue_bytes",
        "dicom_router_queue_oldest_seconds",
        "dicom_router_held_instances",
        "dicom_router_dead_letters",
        "dicom_router_destination_paused",
        "dicom_router_build_info",
    )
)
LOWEST = frozenset(
    (
        "dicom_router_destination_up",
        "dicom_router_spool_free_bytes",
        "dicom_router_certificate_expires_seconds",
        "dicom_router_config_last_reload_successful",
        "dicom_router_config_last_reload_timestamp_seconds",
    )
)
OF_PROCESSES = ("process_", "python_")


@dataclass(slots=True)
class Family:
    head: list[str]
    """Its HELP and TYPE."""
    kind: str
    values: dict[str, float] = field(default_factory=dict)
    """By series: name and labels, as they are written."""


@dataclass(slots=True)
class _Counted:
    """The counters of one worker."""

    run: object = None
    past: dict[str, float] = field(default_factory=dict)
    """Of earlier runs."""
    last: dict[str, float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """Families by name, as our own exposition has them: HELP and TYPE before the samples, no time stamps."""
    families: dict[str, Family] = {}
    current = Family([], "")
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = (*line.split(" ", 3), "")[:4]
            current = families.setdefault(name, Family([], ""))
            current.head.append(line)
            if word == "TYPE":
                current.kind = rest
        elif line:
            series, _, value = line.rpartition(" ")
            current.values[series] = float(value)
    return families


class MetricsSum:
    """Remembers what is needed for counters that never fall."""

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}

    def text(self, found: Mapping[str, tuple[object, str]]) -> str:
        """The metrics of all.

        Args:
            found: Worker to (its run, its exposition); those that do not answer are left out.
        """
        parsed = {worker: (run, parse(text)) for worker, (run, text) in found.items()}
        heads: dict[str, Family] = {}
        for _, families in parsed.values():
            for name, family in families.items():
                heads.setdefault(name, family)
        for worker, (run, families) in parsed.items():
            self._count(worker, run, families)
        lines: list[str] = []
        for name, family in heads.items():
            of_all = {worker: families[name].values for worker, (_, families) in parsed.items() if name in families}
            lines += family.head
            if name.startswith(OF_PROCESSES):
                values = {
                    f'{series}{{worker="{worker}"}}': v for worker, one in of_all.items() for series, v in one.items()
                }
            elif family.kind == "gauge":
                values = _gauges(name, of_all)
            else:
                values = self._sum(family.values)
            lines += [f"{series} {value!r}" for series, value in values.items()]
        return "\n".join(lines) + "\n"

    def _count(self, worker: str, run: object, families: Mapping[str, Family]) -> None:
        counted = self._counted.setdefault(worker, _Counted())
        if counted.run != run:
            for series, value in counted.last.items():
                counted.past[series] = counted.past.get(series, 0.0) + value
            counted.run = run
        counted.last = {
            series: value
            for family in families.values()
            if family.kind in ("counter", "histogram")
            for series, value in family.values.items()
        }

    def _sum(self, shown: Mapping[str, float]) -> dict[str, float]:
        """The series of one family, those that any worker ever had, in a stable order."""
        name = next(iter(shown), "").partition("{")[0]
        series = dict.fromkeys(shown)
        for counted in self._counted.values():
            for one in (*counted.past, *counted.last):
                if one.partition("{")[0] == name:
                    series.setdefault(one)
        return {
            one: sum(counted.past.get(one, 0.0) + counted.last.get(one, 0.0) for counted in self._counted.values())
            for one in series
        }


def _gauges(name: str, of_all: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for one in of_all.values():
        for series, value in one.items():
            values.setdefault(series, []).append(value)
    combine = max if name in HIGHEST else min if name in LOWEST else sum
    return {series: combine(several) for series, several in values.items()}
