"""Predicted run time of a batch: a measured curve, multiplied by a scale that follows the device's current speed.

A curve that is learned while serving never tries sizes that it believes to be bad. Its shape is therefore measured once, and
only the scale is tracked. Predictions are pessimistic, because predictions that are too short cost far more answers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from math import inf

from nograd.core.cost import KNEE, CostCurve

__all__ = ["RowCost", "Scale", "TokenCost"]

MARGIN = (0.05, 0.30)
"""Minimum and maximum safety margin of predictions, as a share of the scaled curve."""

RESIDUAL = 0.04
"""Initial mean relative error of predictions."""

SCALE_RANGE = 20.0
"""Limit of the scale as a factor of the curve, in both directions."""


class Scale:
    """Ratio of current run times to the curve: a geometric moving mean that limits the effect of outliers."""

    __slots__ = ("_count", "factor", "residual", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self.residual = RESIDUAL
        self._count = 0
        self._update()

    def observe(self, ratio: float) -> None:
        """Update the scale with one batch.

        Args:
            ratio: its run time divided by the curve's.
        """
        found = min(1.5, max(0.5, ratio / self.value))
        self._count += 1
        weight = 0.5 if self._count == 1 else max(0.05, 1 / self._count)
        self.value = min(SCALE_RANGE, max(1 / SCALE_RANGE, self.value * found**weight))
        self.residual += 0.05 * (abs(found - 1) - self.residual)
        self._update()

    def _update(self) -> None:
        """Update the pessimistic factor; twice the mean error is about the 90th percentile."""
        self.factor = self.value * (1 + min(MARGIN[1], max(MARGIN[0], 2 * self.residual)))


class RowCost:
    """Run time by rows, for models whose rows have equal length. Without a curve, all predictions are 0.

    Args:
        curve: seconds by rows.
        max_rows: largest batch. Sizes above the curve's last size have the same time per row.
    """

    def __init__(self, curve: CostCurve | None, max_rows: int) -> None:
        self.known = curve is not None
        self._seconds = [0.0, *(curve.extended(rows) if curve is not None else 0.0 for rows in range(1, max_rows + 1))]
        rates = [0.0, *(rows / seconds if seconds else inf for rows, seconds in enumerate(self._seconds[1:], 1))]
        self._best_rates = list(accumulate(rates[1:], max, initial=0.0))
        self._best_sizes = [0]
        for rows in range(1, max_rows + 1):
            best = self._best_sizes[-1]
            self._best_sizes.append(rows if rates[rows] >= rates[best] else best)
        self.knee = bisect_left(self._best_rates, KNEE * self._best_rates[-1]) if self.known else max_rows
        """Smallest batch that reaches 99 % of the best rate; on a CPU it may be 1."""
        self.scale = Scale()
        self.knee_curve_s = self._seconds[self.knee]
        """Unscaled seconds of that batch, cached because each arrival needs it."""

    def seconds(self, rows: int) -> float:
        """Return the predicted seconds of a batch, pessimistic."""
        return self._seconds[rows] * self.scale.factor

    def expected(self, rows: int) -> float:
        """Return the predicted seconds of a batch, unbiased."""
        return self._seconds[rows] * self.scale.value

    def largest(self, budget_s: float, rows: int) -> int:
        """Return the largest batch of at most `rows` rows that finishes within `budget_s`; 0 if there is none."""
        return bisect_right(self._seconds, budget_s / self.scale.factor, 1, rows + 1) - 1

    def carrying(self, rate: float) -> int:
        """Return the smallest batch size that sustains `rate` rows/s; the knee if none does."""
        return min(self.knee, bisect_left(self._best_rates, rate * self.scale.value))

    def rate(self, rows: int) -> float:
        """Return the rows per second of batches of this size."""
        return rows / self.expected(rows)

    def fastest(self, rows: int) -> int:
        """Return the batch size of at most `rows` rows with the most rows per second: whole tiles, if the device works in
        tiles.
        """
        return self._best_sizes[rows]

    def limit(self, max_rows: int) -> None:
        """Drop larger batch sizes."""
        del self._seconds[max_rows + 1 :], self._best_rates[max_rows + 1 :], self._best_sizes[max_rows + 1 :]
        self.knee = min(self.knee, max_rows)
        self.knee_curve_s = self._seconds[self.knee]

    def observe(self, rows: int, seconds: float) -> None:
        """Update the scale with one batch."""
        if self.known and rows < len(self._seconds):
            self.scale.observe(seconds / self._seconds[rows])


class TokenCost:
    """Run time by padded elements, for models whose rows differ in length: `overhead + per_token * rows * longest`.

    Without a curve, predictions are 0, and the fixed cost of a run for grouping is that of 48 elements (measured for MiniLM,
    eager, 2 threads on 2 AVX2 cores: 8 ms + 0.16 ms per token; 16 to 64 differ by less than 5 %).
    """

    DEFAULT_OVERHEAD = 48.0

    def __init__(self, curve: CostCurve | None) -> None:
        self.known = curve is not None
        fixed_s, self._per_token = curve.affine() if curve is not None else (0.0, 0.0)
        self._fixed = fixed_s
        self.overhead = fixed_s / self._per_token if self._per_token else self.DEFAULT_OVERHEAD
        """Fixed cost of a run, in padded elements."""
        self.scale = Scale()

    def seconds(self, tokens: int) -> float:
        """Return the predicted seconds of a batch by padded elements, pessimistic."""
        return (self._fixed + self._per_token * tokens) * self.scale.factor

    def expected(self, tokens: int) -> float:
        """Return the predicted seconds of a batch, unbiased."""
        return (self._fixed + self._per_token * tokens) * self.scale.value

    def observe(self, tokens: int, seconds: float) -> None:
        """Update the scale with one batch."""
        if self.known:
            self.scale.observe(seconds / (self._fixed + self._per_token * tokens))
