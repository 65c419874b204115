"""What is owed to whom."""

from router.ledger.store import Receipt, ReceiptResult
from router.ledger.writer import SqliteLedger

__all__ = ["Receipt", "ReceiptResult", "SqliteLedger"]
