"""The durable segments."""

from router.spool.record import FoundRecord
from router.spool.spool import Spool, SpoolUsage
from router.spool.stream import SpoolStream

__all__ = ["FoundRecord", "Spool", "SpoolStream", "SpoolUsage"]
