"""How many associations a destination may have now: carefully up on success, to none on failure (as Postfix's queue
manager does).

Starts at 1. After as many successes in a row as associations are allowed (a cohort), one more, up to the limit. A
failure of the
destination takes it to 0: the lane rests, and returns with 1.
"""

from __future__ import annotations

from router._lanes import Concurrency

__all__ = ["Concurrency"]
