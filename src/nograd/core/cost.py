"""CostCurve: predicted seconds of a run by rows or padded tokens, from measurements."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from nograd.errors import ConfigError

__all__ = ["CostCurve"]

KNEE = 0.99
"""A batch size is sufficient if it reaches this share of the best rate (../docs/design.md, batching)."""


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Run time by run size. The curve never decreases.

    Between measured sizes the curve is linear, below the smallest size it is constant. Sizes above the largest measured size
    raise an error, because they were not measured; `extended` extrapolates.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    unit: Literal["rows", "tokens"] = "rows"
    """Unit of `sizes`: rows, or padded tokens (rows x longest row)."""

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.seconds):
            raise ConfigError(
                f"a cost curve has {len(self.sizes)} sizes and {len(self.seconds)} times; it needs one time per size"
            )
        if self.sizes[0] < 1 or any(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ConfigError(f"sizes of a cost curve are {self.sizes}; they must be at least 1 and increase")
        if any(not 0 < s < float("inf") for s in self.seconds):
            raise ConfigError(f"times of a cost curve are {self.seconds}; they must be finite and above 0 s")
        if any(a > b for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ConfigError(f"times of a cost curve are {self.seconds}; they must not decrease (see CostCurve.fit)")

    @classmethod
    def fit(cls, samples: Mapping[int, Iterable[float]], *, unit: Literal["rows", "tokens"] = "rows") -> CostCurve:
        """Fit the closest non-decreasing curve to the medians of the samples.

        Isotonic least squares by pooling adjacent violators (Barlow et al., Statistical Inference under Order Restrictions,
        1972, ch. 1).

        Args:
            samples: for each size, one or more measured times in seconds.
            unit: unit of the sizes.

        Raises:
            ConfigError: there are no samples, or a time is not finite and above 0.
        """
        sizes = sorted(samples)
        blocks: list[tuple[float, int]] = []
        for size in sizes:
            blocks.append((_median(size, list(samples[size])), 1))
            while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
                (a, m), (b, n) = blocks[-2:]
                blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
        fitted = [seconds for seconds, count in blocks for _ in range(count)]
        return cls(tuple(sizes), tuple(fitted), unit)

    @property
    def max_size(self) -> int:
        """The largest measured size."""
        return self.sizes[-1]

    def __call__(self, size: int) -> float:
        """Return the predicted seconds of a run of `size`.

        Raises:
            ConfigError: `size` is below 1 or above the largest measured size.
        """
        if not 1 <= size <= self.max_size:
            raise ConfigError(f"size is {size} {self.unit}; the curve was measured from 1 to {self.max_size}")
        right = bisect_left(self.sizes, size)
        if right == 0 or self.sizes[right] == size:
            return self.seconds[right]
        low, high = self.sizes[right - 1], self.sizes[right]
        share = (size - low) / (high - low)
        return self.seconds[right - 1] + share * (self.seconds[right] - self.seconds[right - 1])

    def extended(self, size: int) -> float:
        """Return the predicted seconds of a run of any size. Above the largest measured size, the time per unit is constant."""
        return self(size) if size <= self.max_size else self.seconds[-1] * size / self.max_size

    def affine(self) -> tuple[float, float]:
        """Return a line fit: the fixed seconds of a run, and the seconds per unit. Minimises the squared relative error; both
        are 0 or more.
        """
        weights = [1 / (seconds * seconds) for seconds in self.seconds]
        total = sum(weights)
        mean_size = sum(w * size for w, size in zip(weights, self.sizes, strict=True)) / total
        mean_s = sum(w * seconds for w, seconds in zip(weights, self.seconds, strict=True)) / total
        spread = sum(w * (size - mean_size) ** 2 for w, size in zip(weights, self.sizes, strict=True))
        if not spread:
            return 0.0, self.seconds[0] / self.sizes[0]
        both = zip(weights, self.sizes, self.seconds, strict=True)
        slope = sum(w * (size - mean_size) * (seconds - mean_s) for w, size, seconds in both) / spread
        fixed = mean_s - slope * mean_size
        if fixed >= 0:
            return fixed, slope
        squares = sum(w * size * size for w, size in zip(weights, self.sizes, strict=True))
        return 0.0, sum(w * size * s for w, size, s in zip(weights, self.sizes, self.seconds, strict=True)) / squares

    def knee(self) -> int:
        """Return the smallest measured size that reaches 99 % of the best rate; on a CPU it may be 1."""
        best = max(size / seconds for size, seconds in zip(self.sizes, self.seconds, strict=True))
        return next(size for size, seconds in zip(self.sizes, self.seconds, strict=True) if size / seconds >= KNEE * best)

    def drain_s(self, size: int) -> float:
        """Return the predicted seconds to run `size` waiting units in batches of the knee size."""
        knee = self.knee()
        return -(-size // knee) * self(knee)


def _median(size: int, times_s: list[float]) -> float:
    if not times_s or any(not 0 < time_s < float("inf") for time_s in times_s):
        raise ConfigError(f"times of size {size} are {times_s}; they must be one or more, each finite and above 0 s")
    return median(times_s)
