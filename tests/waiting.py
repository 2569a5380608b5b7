"""How long tests wait for what must happen."""

HANG_S = 300.0
"""Seconds after which a wait has failed: the limit that ends a test that hangs, far above what a loaded machine needs."""
