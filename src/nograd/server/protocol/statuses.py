"""The HTTP status of each kind of error."""

from __future__ import annotations

from nograd.errors import (
    DeadlineError,
    ForbiddenError,
    InputSizeError,
    MethodError,
    ModelError,
    ModelNotFoundError,
    NogradError,
    OverloadedError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["status_of"]

_STATUS: tuple[tuple[type[NogradError], int], ...] = (
    (InputSizeError, 400),
    (UnauthorizedError, 401),
    (ForbiddenError, 403),
    (ModelNotFoundError, 404),
    (MethodError, 405),
    (TooLargeError, 413),
    (UnsupportedError, 501),
    (OverloadedError, 503),
    (UnavailableError, 503),
    (DeadlineError, 504),
    (ModelError, 500),
)
"""HTTP statuses of errors; any other NogradError is a client error: 400."""


def status_of(error: Exception) -> int:
    """Return the HTTP status for an error: 400 if the caller can correct it, 500 if it is unexpected."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 400 if isinstance(error, NogradError) else 500
