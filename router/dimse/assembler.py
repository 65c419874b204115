"""Fragments to messages (PS3.7 §6.3.1, PS3.8 Annex E): a command set, then its data set if it announces one.

Command sets are gathered (they are small and limited); data set fragments are handed on as they come. What peers get
wrong but means something clear is taken: odd and empty fragments, two messages in one PDU. What would mix up two
messages is refused. Knows nothing of what a command asks for.
"""

from __future__ import annotations

from router._fastdimse import CommandReceived, DataReceived, MessageAssembler

__all__ = ["CommandReceived", "DataReceived", "MessageAssembler"]
