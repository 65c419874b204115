"""Configuration, wiring, supervisor, command line."""
