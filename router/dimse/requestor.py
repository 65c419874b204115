"""Requests of ours that await their response: message ids, the operations window, which response belongs to what.

A response that does not match is never counted as success (PS3.7 §9.1, D.3.3.3): the association is of no more use
then. Knows nothing of time: how long to wait is the caller's business.
"""

from __future__ import annotations

from router._fastdimse import Outstanding, Reply

__all__ = ["Outstanding", "Reply"]
