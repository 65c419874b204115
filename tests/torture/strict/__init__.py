"""A disk that keeps nothing unless it was synced, and fails when it is told to."""
