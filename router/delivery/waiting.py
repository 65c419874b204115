"""What waits in a lane: what has just come and what is late, of each priority.

Both are in order by themselves and take turns: a backlog that drains keeps nothing new from leaving, and what is new
does not keep the backlog from draining. Knows nothing of associations, memory or time.
"""

from __future__ import annotations

from router._lanes import Waiting

__all__ = ["Waiting"]
