"""A server of several worker processes that share a port, and a supervisor that restarts them (docs/adr/0013)."""
