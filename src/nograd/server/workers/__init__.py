"""One server of several processes: they share its port, and a supervisor starts them again (docs/adr/0013)."""
