"""Detection of a hanging device. Pure functions of the running batches and their durations.

Any response proves that the event loop works, but not that device threads work. If a thread hangs in a run, requests are
accepted and time out, and only a restart helps. The liveness probe then fails, so that the orchestrator restarts the server.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Sequence

from nograd.batching import RunningBatch

__all__ = ["TIMES", "device_stacks", "stack_of", "stuck", "stuck_after"]

PREFIXES = ("nograd-device", "nograd-code")
"""Prefixes of the names of threads that can hang."""

TIMES = 20.0
"""A run counts as stuck after this multiple of the predicted seconds: predictions follow a slower device up to this factor
(`batching.tracking.SCALE_RANGE`)."""

FIRST_TIMES = 10.0
"""Factor for the first batch, which may compile, load kernels or page in weights."""


def stuck_after(predicted_s: float, least_s: float, *, is_first: bool) -> float:
    """Return the seconds after which a run counts as stuck.

    Args:
        predicted_s: predicted seconds of this run.
        least_s: minimum seconds for any prediction.
        is_first: whether no batch has ended yet.
    """
    limit = max(least_s, TIMES * predicted_s)
    return limit * FIRST_TIMES if is_first else limit


def stuck(running: Sequence[RunningBatch], least_s: float, *, is_first: bool) -> str:
    """Return a description of a stuck batch, in one sentence; empty if there is none.

    Args:
        running: all batches on the device.
        least_s: as for `stuck_after`.
        is_first: as for `stuck_after`.
    """
    for batch in running:
        limit_s = stuck_after(batch.predicted_s, least_s, is_first=is_first)
        if batch.running_s > limit_s:
            known = f", predicted {batch.predicted_s:.3g} s" if batch.predicted_s else ""
            return f"a batch has run for {batch.running_s:.0f} s{known}; it counts as stuck after {limit_s:.0f} s"
    return ""


def device_stacks() -> str:
    """Return the stacks of this process's device threads and code threads, for the log."""
    threads = [each for each in threading.enumerate() if each.name.startswith(PREFIXES)]
    stacks = [f"{each.name}:\n{stack}" for each in threads if (stack := stack_of(each.ident or 0))]
    return "\n".join(stacks).rstrip()


def stack_of(thread: int) -> str:
    """Return the stack of a thread, given its identifier; empty if it has ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  there is no other way to another thread's stack
    return "" if frame is None else "".join(traceback.format_stack(frame))
