"""Lanes, windows, back-off, pools, senders."""
