"""Whether a cache pays: what it saves against what it costs, decided anew every few hundred lookups. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Worth"]

WINDOW = 512
"""Lookups between two decisions."""

REST, LONGEST_REST = 8192, 32 * 8192
"""Lookups that are left out before it is tried again: a cache that does not pay costs a sixteenth of what it would; each trial
that fails doubles them, up to the second number."""


@dataclass(slots=True)
class Worth:
    """Weighs lookups against the device's time they save.

    It pays where hits x seconds of the device for a row exceed the seconds that all lookups, and the keeping of what was
    missing, took.
    """

    is_on: bool = True
    """Whether lookups should be made."""

    _lookups: int = 0
    _hits: int = 0
    _spent_s: float = 0.0
    _rest: int = 0
    _next_rest: int = REST

    def note(self, lookups: int, hits: int, spent_s: float, row_s: float) -> None:
        """Add lookups that were made, and decide after enough of them.

        Args:
            lookups: rows looked up.
            hits: of them, those that were there.
            spent_s: seconds for keys, lookup and keeping.
            row_s: seconds of the device for one row, now; 0 where nothing is known yet, and nothing is decided.
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
        """Note rows that were not looked up; after enough of them it is on again, for a trial."""
        self._rest -= rows
        if self._rest <= 0:
            self.is_on = True
