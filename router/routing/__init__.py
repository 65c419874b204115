"""Rule files to decisions; pure."""
