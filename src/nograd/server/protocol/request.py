"""One inference request, and the parameters that every front reads alike: timeout and priority. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nograd.core.tensors import Batch
from nograd.errors import ProtocolError
from nograd.server.protocol.shapes import MAX_SIZE, shorten

__all__ = ["DEFAULT_PRIORITY", "PRIORITY_LEVELS", "InferRequest", "Parameters", "priority_of", "shorter", "timeout_of"]

Parameters = Mapping[str, str | int | float | bool | None]

PRIORITY_LEVELS = 5
"""`parameters.priority` goes from 1, the first, to this, the last."""

DEFAULT_PRIORITY = 3
"""Of a request that names none, or 0: some may go before it, and some behind it."""


class InferRequest(NamedTuple):
    """What a client asks for."""

    inputs: Batch
    outputs: tuple[str, ...] = ()
    """Names, in the order wanted; empty for all."""

    id: str | None = None
    timeout_s: float | None = None
    """From `parameters.timeout`, which is in microseconds."""

    is_binary: bool = False
    """Whether outputs come in binary where `binary_by_name` does not say."""

    binary_by_name: Mapping[str, bool] = {}
    priority: int = DEFAULT_PRIORITY - 1
    """Its class, as the batcher counts: 0 goes first. From `parameters.priority`, which counts from 1."""

    def binary_of(self, names: Iterable[str]) -> frozenset[str]:
        """Return which of these outputs are to come in binary."""
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
        raise ProtocolError(f"parameters.timeout is {shorten(timeout)}; it is a whole number of microseconds, 0 for none")
    return timeout / 1e6 or None


def shorter(a: float | None, b: float | None) -> float | None:
    """Return the shorter of two time-outs, either of which may be none."""
    return a if b is None else b if a is None else min(a, b)


def priority_of(priority: object) -> int:
    """Return the class, as the batcher counts them, of `parameters.priority`; 0 or None is the default.

    Raises:
        ProtocolError: there is no such class.
    """
    if priority is None:
        priority = 0
    if type(priority) is not int or not 0 <= priority <= PRIORITY_LEVELS:
        raise ProtocolError(
            f"parameters.priority is {shorten(priority)}; it goes from 1, the first, to {PRIORITY_LEVELS}, the last; "
            f"0 or none is {DEFAULT_PRIORITY}"
        )
    return (priority or DEFAULT_PRIORITY) - 1
