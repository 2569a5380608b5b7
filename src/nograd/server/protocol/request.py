"""One inference request, and the parameters that all fronts share: timeout and priority. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nograd.core.tensors import Batch
from nograd.errors import ProtocolError
from nograd.server.protocol.shapes import MAX_SIZE, shorten

__all__ = ["DEFAULT_PRIORITY", "PRIORITY_LEVELS", "InferRequest", "Parameters", "priority_of", "shorter", "timeout_of"]

Parameters = Mapping[str, str | int | float | bool | None]

PRIORITY_LEVELS = 5
"""`parameters.priority` goes from 1 (highest) to this (lowest)."""

DEFAULT_PRIORITY = 3
"""Priority of requests without one, or with 0: in the middle, so that both higher and lower ones are possible."""


class InferRequest(NamedTuple):
    """A decoded inference request."""

    inputs: Batch
    outputs: tuple[str, ...] = ()
    """Names of the requested outputs, in order; empty: all."""

    id: str | None = None
    timeout_s: float | None = None
    """Timeout from `parameters.timeout`, which is in microseconds."""

    is_binary: bool = False
    """Whether outputs without an entry in `binary_by_name` are binary."""

    binary_by_name: Mapping[str, bool] = {}
    priority: int = DEFAULT_PRIORITY - 1
    """The batcher's priority; 0 is the highest. From `parameters.priority`, which starts at 1."""

    def binary_of(self, names: Iterable[str]) -> frozenset[str]:
        """Return the outputs that must be binary."""
        if not self.is_binary and not self.binary_by_name:
            return frozenset()
        return frozenset(name for name in names if self.binary_by_name.get(name, self.is_binary))


def timeout_of(timeout: object) -> float | None:
    """Return the seconds of `parameters.timeout`; None if it is 0 or not set.

    Raises:
        ProtocolError: it is not a whole number of microseconds, below 2^63.
    """
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout <= MAX_SIZE:
        raise ProtocolError(f"parameters.timeout is {shorten(timeout)}; it must be a whole number of microseconds, 0 for none")
    return timeout / 1e6 or None


def shorter(a: float | None, b: float | None) -> float | None:
    """Return the shorter of two timeouts, either of which may be None."""
    return a if b is None else b if a is None else min(a, b)


def priority_of(priority: object) -> int:
    """Return the batcher's priority for `parameters.priority`; 0 or None is the default.

    Raises:
        ProtocolError: the priority is out of range.
    """
    if priority is None:
        priority = 0
    if type(priority) is not int or not 0 <= priority <= PRIORITY_LEVELS:
        raise ProtocolError(
            f"parameters.priority is {shorten(priority)}; it must be from 1 (highest) to {PRIORITY_LEVELS} (lowest); "
            f"0 or none means {DEFAULT_PRIORITY}"
        )
    return (priority or DEFAULT_PRIORITY) - 1
