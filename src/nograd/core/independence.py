"""Independence: the measured influence of a batch's rows on each other, with a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

__all__ = [
    "HALF_PRECISIONS",
    "MAX_BOUND",
    "MAX_HALF_SIZE_EFFECT",
    "MAX_SIZE_EFFECT",
    "TOLERANCES",
    "Independence",
    "tolerance_for",
]

HALF_PRECISIONS = ("float16", "bfloat16")

TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-3}
"""Precision -> largest bound at which rows count as independent. Measured (MiniLM, 2 cores): ONNX Runtime float32 7.5e-8,
OpenVINO bfloat16 6.9e-4, dynamic 8-bit integers 4e-2.
"""

MAX_SIZE_EFFECT = 1e-3
"""Largest effect of the batch size that counts as rounding in float32: other kernels add in another order."""

MAX_HALF_SIZE_EFFECT = 2e-2
"""Largest effect of the batch size that counts as rounding in float16 (10 bits of mantissa) and bfloat16 (7 bits)."""

MAX_BOUND = 1e6
"""Upper limit of bounds, used also for answers that are finite in one batch only."""


def tolerance_for(precision: str) -> float:
    """Return the default tolerance of a precision; precisions without their own, such as `int8-dynamic`, use that of
    float32.
    """
    return TOLERANCES.get(precision, TOLERANCES["float32"])


@dataclass(frozen=True, slots=True)
class Independence:
    """The measured influence of a batch on the answers to its rows.

    All figures are differences divided by the output's largest absolute value over the measured rows. They have no unit.
    """

    bound: float
    """Largest difference of a row's answer between two batches that differ only in the other rows: number of rows, lengths and
    the row's position are equal.
    """

    tolerance: float = TOLERANCES["float32"]
    """Rows with a larger bound count as coupled."""

    size_effect: float = 0.0
    """Largest difference between a row alone and the same row among copies of itself, padded if rows may be padded. This is
    rounding, unless it exceeds `max_size_effect`.
    """

    max_size_effect: float = MAX_SIZE_EFFECT
    """Rows with a larger size effect count as coupled: another order of additions does not explain it."""

    num_batches: int = 0
    """Number of compared batches."""

    max_rows: int = 1
    """Rows of the largest compared batch."""

    companions: str = ""
    """Description of the other rows at the bound, such as `rows 100 times as large`."""

    backend: str = ""
    """Name of the measured backend; other backends may differ."""

    precision: str = "float32"
    """Precision of the measurement."""

    batching_if_accepted: Literal["", "pad", "equal_lengths"] = ""
    """How to batch coupled rows if the user accepts the coupling; empty: rows are not coupled, or cannot be batched."""

    is_accepted: bool = False
    """True if the user accepted the coupling (`accept_coupled_rows`)."""

    @property
    def is_coupled(self) -> bool:
        """True if rows influence each other by more than the tolerance, or the batch size by more than rounding."""
        return not (self.bound <= self.tolerance and self.size_effect <= self.max_size_effect)

    @property
    def verdict(self) -> Literal["independent", "coupled", "coupled, accepted"]:
        """The result in one or two words."""
        return "independent" if not self.is_coupled else "coupled, accepted" if self.is_accepted else "coupled"

    def measured_on(self, backend: str, precision: str) -> Self:
        """Return the figures for a backend and a precision, with the tolerances of that precision."""
        is_half = precision in HALF_PRECISIONS
        return replace(
            self, backend=backend, precision=precision, tolerance=tolerance_for(precision),
            max_size_effect=MAX_HALF_SIZE_EFFECT if is_half else MAX_SIZE_EFFECT,
        )  # fmt: skip

    def fault(self) -> str:
        """Return why rows count as coupled, in one sentence; empty if they are independent."""
        if not self.bound <= self.tolerance:
            near = f" next to {self.companions}" if self.companions else ""
            return (
                f"a row's answer depends on the other rows of its batch: it moves by {_figure(self.bound)} of the output's "
                f"largest value{near}; {_figure(self.tolerance)} is allowed"
            )
        if not self.size_effect <= self.max_size_effect:
            return (
                f"a row's answer depends on the number of rows in its batch: it moves by {_figure(self.size_effect)} of the "
                f"output's largest value; rounding explains up to {_figure(self.max_size_effect)}"
            )
        return ""

    def __str__(self) -> str:
        measured = f"{self.num_batches} batches of up to {self.max_rows} rows"
        return (
            f"{self.verdict}: other rows move a row by at most {_figure(self.bound)} of the output's largest value "
            f"({_figure(self.tolerance)} is allowed), the batch size by {_figure(self.size_effect)} (rounding); {measured}"
            if self.size_effect <= self.max_size_effect
            else f"{self.verdict}: {self.fault()}; {measured}"
        )

    def to_json(self) -> dict[str, object]:
        """Return figures and verdict as plain JSON values."""
        return {
            "verdict": self.verdict,
            "bound": self.bound,
            "tolerance": self.tolerance,
            "size_effect": self.size_effect,
            "max_size_effect": self.max_size_effect,
            "num_batches": self.num_batches,
            "max_rows": self.max_rows,
            "companions": self.companions,
            "backend": self.backend,
            "precision": self.precision,
        }


def _figure(value: float) -> str:
    if value >= MAX_BOUND:
        return f"{MAX_BOUND:.0e} or more"
    return "0" if value == 0 else f"{value:.1e}"
