"""The queue between the event loop and a model's code threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["CodeJob", "CodeQueue"]

Deliver: TypeAlias = Callable[["CodeJob", Any, Exception | None], None]


def _unset(_job: CodeJob, _result: Any, _error: Exception | None) -> None:
    """Do nothing; the caller that queues a job sets its own function."""


@dataclass(slots=True, eq=False)
class CodeJob:
    """One call for a thread."""

    work: Callable[[], Any]
    what: str
    """Name of the work, such as `preprocess`."""

    items: int
    """Number of rows."""

    future: asyncio.Future[Any]
    """Result for the event loop; a thread only reads whether it is done."""

    deliver: Deliver = field(default=_unset)
    """Called in the thread with the result, or the error."""

    begun: float | None = None
    """Start time in a thread; None while the job waits."""

    seconds: float = 0.0
    """Duration of the call, once it has ended."""

    thread: int = 0
    """Identifier of the thread that runs it."""

    is_reported: bool = False
    """Whether it was logged as stuck."""


class CodeQueue:
    """Waiting and running jobs. Jobs that finish a request have precedence over those that begin one.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._finishing: deque[CodeJob] = deque()
        self._beginning: deque[CodeJob] = deque()
        self._running: set[CodeJob] = set()
        self._is_closed = False
        self._items = 0

    @property
    def items(self) -> int:
        """Total items of waiting jobs."""
        return self._items

    def put(self, job: CodeJob, *, first: bool) -> bool:
        """Add a job; return False if the queue is closed."""
        with self._changed:
            if self._is_closed:
                return False
            (self._finishing if first else self._beginning).append(job)
            self._items += job.items
            self._changed.notify()
            return True

    def discard(self, job: CodeJob) -> None:
        """Remove a job if it still waits."""
        if job.begun is not None:
            return
        with self._changed:
            for jobs in (self._finishing, self._beginning):
                with suppress(ValueError):
                    jobs.remove(job)
                    self._items -= job.items

    def get(self) -> CodeJob | None:
        """Wait for the next job and return it; None if the queue is closed."""
        with self._changed:
            while not (self._finishing or self._beginning or self._is_closed):
                self._changed.wait()
            if self._is_closed:
                return None
            job = (self._finishing or self._beginning).popleft()
            self._items -= job.items
            job.begun, job.thread = self._clock(), threading.get_ident()
            self._running.add(job)
            return job

    def finish(self, job: CodeJob) -> None:
        """Note that a job has ended."""
        with self._changed:
            job.seconds = self._clock() - (job.begun or 0.0)
            self._running.discard(job)

    def running(self) -> list[CodeJob]:
        """Return the running jobs."""
        with self._changed:
            return list(self._running)

    def close(self) -> list[CodeJob]:
        """End the threads after their running jobs; return the waiting jobs."""
        with self._changed:
            self._is_closed = True
            left = [*self._finishing, *self._beginning]
            self._finishing.clear()
            self._beginning.clear()
            self._items = 0
            self._changed.notify_all()
            return left
