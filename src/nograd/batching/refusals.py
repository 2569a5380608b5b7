"""Errors for rejected requests."""

from __future__ import annotations

from copy import copy
from typing import Any

from nograd.batching.queue import DeadlineQueue
from nograd.errors import (
    ConfigError,
    DeadlineError,
    DeviceLostError,
    NogradError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)

__all__ = ["check_request", "copy_error", "full", "late", "not_open", "too_large", "too_late"]


def check_request(timeout_s: Any, priority: Any) -> None:
    """Check the options of a request.

    Raises:
        ConfigError: an option is out of its range.
    """
    if timeout_s is not None and not (isinstance(timeout_s, int | float) and timeout_s > 0):
        raise ConfigError(f"timeout_s is {timeout_s!r}; it must be a number of seconds above 0, or None for any")
    if type(priority) is not int or priority < 0:
        raise ConfigError(f"priority is {priority!r}; it must be a whole number: 0 goes first, 1 after it, and so on")


def copy_error(error: NogradError) -> NogradError:
    """Return a copy of an error for each caller, because raising adds the caller's traceback to the error."""
    other = copy(error)
    other.__cause__ = error.__cause__
    return other


def not_open(state: str) -> NogradError:
    """Return the error of a batcher that is not open."""
    if state == "new":
        return UnavailableError("the batcher is not open; call `open` in the event loop first")
    if state == "lost":
        return DeviceLostError("the device is lost; this server must be restarted")
    return UnavailableError(f"the server is {state}")


def too_large(rows: int, max_rows: int, nbytes: int, max_bytes: int) -> TooLargeError | None:
    """Return the error of a request that exceeds the queue's limits, or None."""
    if rows > max_rows:
        return TooLargeError(f"the request has {rows} rows; the queue takes at most {max_rows}: send fewer at a time")
    if nbytes > max_bytes:
        return TooLargeError(f"the request has {nbytes} bytes of inputs; the queue takes at most {max_bytes}: send fewer")
    return None


def full(queue: DeadlineQueue, max_rows: int, max_bytes: int, wait_s: float, *, of_rows: bool) -> OverloadedError:
    """Return the error of a full queue."""
    holds = f"{queue.rows} of at most {max_rows} rows" if of_rows else f"{queue.nbytes} of at most {max_bytes} bytes"
    return OverloadedError(f"the queue has {holds}; try again in {wait_s:.1f} s", retry_after_s=wait_s)


def late(slack_s: float) -> DeadlineError:
    """Return the error of an expired request."""
    return DeadlineError(f"no answer within {slack_s:g} s; give more time, or send less at once")


def too_late(wait_s: float, slack_s: float) -> NogradError:
    """Return the error of a request that would miss its deadline: OverloadedError if it must wait, else DeadlineError."""
    if wait_s == 0:
        return late(slack_s)
    return OverloadedError(
        f"the answer would be late: its turn should come in {wait_s:.3f} s, and it may take {slack_s:g} s in all; "
        "try again later, or give more time",
        retry_after_s=wait_s,
    )
