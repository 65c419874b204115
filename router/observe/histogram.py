"""A histogram that costs next to nothing to fill: counts per bucket, summed up when asked.

Filled on the event loop only; read from anywhere.
"""

from __future__ import annotations

from router._histogram import Histogram

__all__ = ["Histogram"]
