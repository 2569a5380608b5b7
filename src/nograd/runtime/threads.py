"""A thread for work that is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_own_thread"]

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
