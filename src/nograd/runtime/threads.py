"""A thread for one-time work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_own_thread"]

Result = TypeVar("Result")


def in_own_thread(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a thread that ends with it.

    Probing, loading and warm-up use this for the benefit of later runs. On a CPU, OpenMP (libgomp) keeps a pool of workers for
    each living thread that ever ran a parallel operation. Once the pools contain more threads than there are processors, no
    pool spins between operations any more. A MiniLM sentence on 2 cores then takes 20-23 ms instead of 16 ms (measured
    2026-11-23). The serving thread should therefore be the only living thread that has run the model (docs/adr/0004).
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except StopIteration as error:  # a future cannot pass it on to a coroutine, which would wait forever
            stopped = RuntimeError(f"StopIteration: {error}")
            stopped.__cause__ = error
            future.set_exception(stopped)
        except BaseException as error:  # noqa: BLE001  passed on through the future
            future.set_exception(error)

    threading.Thread(target=run, name="nograd-once", daemon=True).start()
    return future
