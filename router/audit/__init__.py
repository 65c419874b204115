"""The audit trail (PS3.15 §A.5): what the ledger says happened, as messages, brought to a collector or a file."""
