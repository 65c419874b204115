"""The durable segments."""
