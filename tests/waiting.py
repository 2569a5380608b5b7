"""How tests wait for another process."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 300.0
"""Seconds after which a wait has failed: the limit that ends a test that hangs, far above what a loaded machine needs."""

PAUSE_S = 0.05
"""Seconds between two checks of a condition: without them, a test takes half of the processor from the process it waits for."""


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when a condition of another process is true."""
    until = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(PAUSE_S)
