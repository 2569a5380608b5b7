"""A thread for work that is done once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_own_thread", "processors"]

Result = TypeVar("Result")


def in_own_thread(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a thread that ends with it.

    Probing, loading and warming up go through here for the sake of what runs later. On a CPU, OpenMP (libgomp) keeps a
    pool of workers for every thread that ever ran a parallel operation, as long as that thread lives; once the pools hold
    more threads than there are processors, no pool spins any more between operations. A MiniLM sentence on 2 cores then
    takes 20-23 ms instead of 16 (measured 2026-11-23). So the thread that serves should be the only one left that has run
    the model (docs/adr/0004).
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except StopIteration as error:  # a future that is awaited cannot hold it: who waits would wait for ever
            stopped = RuntimeError(f"StopIteration: {error}")
            stopped.__cause__ = error
            future.set_exception(stopped)
        except BaseException as error:  # noqa: BLE001  handed to whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="nograd-once", daemon=True).start()
    return future


def processors(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors a model may compute with here: those that this process has, and no more than OMP_NUM_THREADS.

    torch heeds that variable itself. Where several processes share a machine (actors of a cluster), it is how each is told its
    share, and the other backends heed it, too.

    >>> processors({"OMP_NUM_THREADS": "1"})
    1
    """
    there = len(os.sched_getaffinity(0))
    told = environment.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(there, int(told)) if told.isdecimal() and int(told) else there
