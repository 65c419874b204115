"""asyncio and sockets: connection, listener, dialer, flow control."""
