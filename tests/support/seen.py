"""What the cases of a parametrized test have shown, for one figure of all of them."""

from __future__ import annotations

import pytest


class Seen:
    """Cases call ``add`` as their last word; the figure is reported behind them, by ``all_of``."""

    def __init__(self) -> None:
        self.cases: list[str] = []

    def add(self, case: str) -> None:
        self.cases.append(case)

    def all_of(self, expected: set[str]) -> int:
        """How many there were; skips where some were left out, or failed."""
        missing = expected - set(self.cases)
        if missing:
            pytest.skip(f"no figure without all cases: {len(missing)} were not seen")
        return len(self.cases)
