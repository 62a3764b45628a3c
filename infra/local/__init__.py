"""The embedded stack: real engines on loopback, and the supervisor that owns them."""
