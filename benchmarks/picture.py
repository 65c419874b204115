"""The figures of a run as bars: ``python -m benchmarks.picture results/flow.json docs/performance.svg``."""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP, TITLE = 760, 150, 18, 6, 34
COLOURS = {"limit": "#b8b8b8", "router": "#1769aa"}
OTHERS = "#d08a3e"
NAMES = {
    "limit": "limit of the machine",
    "router": "dicom-router",
    "storescp": "storescp + dcmsend",
    "orthanc": "Orthanc, per instance",
    "orthanc-tuned": "Orthanc, per series",
}


def groups(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of one comparison together, the fastest first."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if not row["rate"]:
            continue  # no round of it was whole
        found.setdefault((row["size"], row["destinations"]), []).append(row)
    titles = {0: "received", 1: "delivered to 1 destination"}
    return [
        (
            f"{size}, {titles.get(count, f'delivered to {count} destinations')}",
            sorted(members, key=lambda r: -r["rate"]),
        )
        for (size, count), members in found.items()
    ]


def draw(result: dict[str, Any]) -> str:
    parts: list[str] = []
    y = 8
    for title, members in groups(result["rows"]):
        y += TITLE
        parts.append(f'<text x="8" y="{y - 12}" font-weight="bold">{escape(title)}</text>')
        longest = members[0]["rate"]
        for row in members:
            name = row["system"]
            size = max(1.0, (WIDTH - LEFT - 190) * row["rate"] / longest)
            unit = f"{row['mb_s']:,.0f} MB/s" if row["size"].startswith("100") else f"{row['rate']:,.0f} objects/s"
            parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(NAMES.get(name, name))}</text>')
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{size:.0f}" height="{BAR}" fill="{COLOURS.get(name, OTHERS)}"/>'
            )
            label = f"{unit}, {row['cpu_s_per_gb']:.1f} CPU s/GB"
            parts.append(f'<text x="{LEFT + size + 6:.0f}" y="{y + 13}">{escape(label)}</text>')
            y += BAR + GAP
    machine = result["machine"]
    note = f"{machine['cpus']} CPUs, {machine['date']}; dicom-router and the limit sync every object before its answer"
    parts.append(f'<text x="8" y="{y + 22}" fill="#666">{escape(note)}</text>')
    height = y + 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    Path(sys.argv[2]).write_text(draw(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
