"""Measurement of whether a cache pays off, every few hundred lookups. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheGovernor"]

WINDOW = 512
"""Lookups between two decisions."""

REST, LONGEST_REST = 8192, 32 * 8192
"""Skipped lookups before the next trial, which limits the overhead of a useless cache to a sixteenth. Each failed trial
doubles the number, up to the second value.
"""


@dataclass(slots=True)
class CacheGovernor:
    """Compares the time of lookups with the device time that they save.

    The cache pays off if hits x device seconds per row exceed the seconds of all lookups and of storing missing values.
    """

    is_on: bool = True
    """Whether lookups should be made."""

    _lookups: int = 0
    _hits: int = 0
    _spent_s: float = 0.0
    _rest: int = 0
    _next_rest: int = REST

    def note(self, lookups: int, hits: int, spent_s: float, row_s: float) -> None:
        """Record lookups, and decide after enough of them.

        Args:
            lookups: number of rows looked up.
            hits: number of hits.
            spent_s: seconds for keys, lookup and storing.
            row_s: current device seconds per row; 0 if unknown, which defers the decision.
        """
        self._lookups += lookups
        self._hits += hits
        self._spent_s += spent_s
        if self._lookups >= WINDOW and row_s > 0:
            self.is_on = self._hits * row_s >= self._spent_s
            self._lookups = self._hits = 0
            self._spent_s = 0.0
            self._rest = 0 if self.is_on else self._next_rest
            self._next_rest = REST if self.is_on else min(2 * self._next_rest, LONGEST_REST)

    def skip(self, rows: int) -> None:
        """Record rows without a lookup; after enough of them, lookups resume for a trial."""
        self._rest -= rows
        if self._rest <= 0:
            self.is_on = True
