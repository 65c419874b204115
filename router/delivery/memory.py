"""Bytes of data sets kept in memory for sending: one limit for all destinations together, and a part of it for each.

The spool has everything, so what is kept here can be let go at any time and read again. That is what makes it fair: a
lane may keep more than its part while nobody else wants the room, and lets it go, what it will send last first, as soon
as a lane that keeps less than its part does. A destination that takes nothing costs the others none of theirs.
"""

from __future__ import annotations

from router._lanes import Budget, Share

__all__ = ["Budget", "Share"]
