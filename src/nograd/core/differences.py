"""Largest differences between answers to the same row, for each output, relative to the magnitude of that output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nograd.core.independence import MAX_BOUND
from nograd.core.tensors import Array

__all__ = ["LargestDifference", "largest_value", "max_difference"]


@dataclass(slots=True)
class LargestDifference:
    """The largest difference of each output over several comparisons, with the label of that comparison."""

    differences: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    """Largest absolute value of each output's expected answers."""

    def note(self, expected: Mapping[str, Array], given: Mapping[str, Array], label: str = "") -> None:
        """Add one comparison of answers by output."""
        for name, array in expected.items():
            difference = max_difference(array, given[name])
            if difference > self.differences.get(name, -1.0):
                self.differences[name], self.labels[name] = difference, label
            self.scales[name] = max(self.scales.get(name, 0.0), largest_value(array))

    def relative(self) -> float:
        """Return the largest difference divided by the largest value of its output, limited to `MAX_BOUND`."""
        return max(self._by_output().values(), default=0.0)

    def label(self) -> str:
        """Return the label of the largest difference; empty if there is no difference."""
        relative = self._by_output()
        worst = max(relative, key=relative.__getitem__, default="")
        return self.labels[worst] if worst and relative[worst] else ""

    def _by_output(self) -> dict[str, float]:
        return {
            name: 0.0 if difference == 0 else min(MAX_BOUND, difference / (self.scales[name] or difference / MAX_BOUND))
            for name, difference in self.differences.items()
        }


def max_difference(expected: Array, given: Array) -> float:
    """Return the largest absolute difference. It is infinite if shapes differ, or if a value is finite on one side only."""
    if expected.shape != given.shape:
        return float("inf")
    if np.array_equal(expected, given):  # fast path: usually equal
        return 0.0
    if expected.dtype.kind not in "fc" and "float" not in expected.dtype.name:
        return max(1.0, largest_value(expected))
    a, b = expected.astype(_wide(expected)), given.astype(_wide(given))
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return float("inf") if np.isnan(difference).any() else float(difference.max(initial=0))


def largest_value(array: Array) -> float:
    """Return the largest finite absolute value; 1 for text."""
    if array.dtype.kind == "O":
        return 1.0
    values = np.abs(array) if array.dtype in (np.float32, np.float64) else np.abs(array.astype(_wide(array)))
    if values.size and np.isfinite(largest := values.max()):
        return float(largest)
    return float(values[np.isfinite(values)].max(initial=0))


def _wide(array: Array) -> type[np.complex128 | np.float64]:
    return np.complex128 if array.dtype.kind == "c" else np.float64
