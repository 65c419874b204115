"""PS3.8, sans-IO: PDUs, items, negotiation, state machine, association core."""
