"""What one lane holds: what waits, what is in flight, and the bytes of both that are in memory.

Bytes in memory belong to what waits, and can then be let go and read again from the spool, what will leave last first;
or to what is in flight. Of the latter there are no more than the lane's part of the budget, but for one object of each
association. Knows nothing of associations, destinations, ledger or time.
"""

from __future__ import annotations

from router._lanes import Stock

__all__ = ["Stock"]
