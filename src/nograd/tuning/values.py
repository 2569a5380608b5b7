"""Values of tuning: goal, candidate, measurements, report. This module runs no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from nograd.backends.registry import find_kind, why_unknown
from nograd.core.independence import Independence
from nograd.errors import ConfigError
from nograd.report.figures import Figure

if TYPE_CHECKING:
    from nograd.backends.kinds import Kind

__all__ = ["Candidate", "Confirmation", "CurvePoint", "Goal", "Row", "TuneReport"]

GoalKind = Literal["latency", "throughput", "slo", "memory"]

Status = Literal["winner", "tied", "measured", "dropped", "refused", "failed", "not_tried"]
"""`tied`: within 2 % of the best, and less simple than the winner. `dropped`: measured, and clearly slower. `refused`: its
answers differ from the model's. `failed`: it could not be built or run. `not_tried`: see the row's reason.
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """The quantity that a bundle is optimized for."""

    kind: GoalKind
    slo_s: float | None = None
    """For `slo`: maximum seconds to an answer."""

    def __post_init__(self) -> None:
        if self.kind not in ("latency", "throughput", "slo", "memory"):
            raise ConfigError(
                f"the goal is {self.kind!r}; it must be latency, throughput, memory, or slo=TIME such as slo=20ms"
            )
        if (self.kind == "slo") != (self.slo_s is not None):
            raise ConfigError("the goal 'slo' needs a time, and no other goal has one: slo=20ms")
        if self.slo_s is not None and not (isfinite(self.slo_s) and self.slo_s > 0):
            raise ConfigError(f"the time of goal slo is {self.slo_s} s; it must be above 0, finite")

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Return the goal that a user wrote: `latency`, `throughput`, `memory`, or `slo=20ms` (also `slo=0.02s`).

        Raises:
            ConfigError: the text has none of these forms.
        """
        kind, _, time = text.partition("=")
        if kind != "slo":
            return cls(text)  # type: ignore[arg-type]  # it checks the kind
        found = re.fullmatch(r"(\d+(?:\.\d*)?)(ms|s)", time)
        if found is None:
            raise ConfigError(f"the goal is {text!r}; slo needs a time with its unit, such as slo=20ms or slo=0.5s")
        return cls("slo", float(found[1]) * (0.001 if found[2] == "ms" else 1.0))

    def __str__(self) -> str:
        return self.kind if self.slo_s is None else f"slo={self.slo_s * 1000:g}ms"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the model: a backend at a precision, in a layout of lanes and threads."""

    backend: str
    """Name of the backend, such as `eager` or `onnx`."""

    precision: str = "float32"
    """`float32`, `bfloat16`, `float16`, `int8-dynamic` or `int8-static`."""

    lanes: int = 1
    """Number of runs at the same time."""

    num_threads: int = 1
    """Threads of one run."""

    @property
    def kind(self) -> Kind:
        """The kind of its backend.

        Raises:
            ConfigError: no backend has this name.
        """
        found = find_kind(self.backend)
        if found is None:
            raise ConfigError(why_unknown(self.backend))
        return found

    @property
    def variant(self) -> str:
        """Backend and precision: the unit of building."""
        return self.backend if self.precision == "float32" else f"{self.backend} {self.precision}"

    @property
    def layout(self) -> str:
        """Lanes and threads, such as `2x1`: two lanes with one thread each."""
        return f"{self.lanes}x{self.num_threads}"

    def __str__(self) -> str:
        return f"{self.variant} {self.layout}"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Seconds of one run of a size, in rows or tokens."""

    size: int
    seconds: Figure


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate and its results."""

    candidate: Candidate
    status: Status
    reason: str = ""
    """Reason for the status, in one sentence; empty if none is needed."""

    build_s: float | None = None
    file_bytes: int | None = None
    rss_bytes: int | None = None
    """Resident memory of a process that has opened it and run its largest batch, in bytes."""

    parity: Mapping[str, Any] | None = None
    """`ParityReport.to_json()`, against eager, over the user's own sample."""

    metric: float | None = None
    """Result of the user's metric; higher is better."""

    lone_s: Figure | None = None
    """Seconds of one row alone on an idle machine."""

    lone_p99_s: float | None = None
    rows_per_s: Figure | None = None
    """Rows per second with all lanes busy, at the best of the tested batch sizes."""

    batch_rows: int | None = None
    """Rows of a run at that rate."""

    ratio: Figure | None = None
    """Factor by which the candidate beats the reference (eager, default layout) for the goal, paired by round."""

    rounds: int = 0
    """Number of rounds with this candidate."""

    curve: tuple[CurvePoint, ...] = ()
    curve_unit: Literal["rows", "tokens"] = "rows"
    independence: Independence | None = None
    """Influence of the rows of a batch on each other, measured over the user's own rows."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The winner under load, through the real batcher."""

    offered_per_s: float
    """Rows per second, Poisson: 70 % of the winner's measured rate."""

    served_per_s: float
    p50_s: float
    p99_s: float
    predicted_p50_s: float
    predicted_p99_s: float
    """Prediction by a simulated batcher on the measured curve, with the same arrivals."""

    cost_ratio: float
    """Measured seconds of the runs, divided by the curve's prediction."""

    confirmed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TuneReport:
    """All candidates, and the reasons for the choice."""

    model: str
    goal: str
    tolerance: str
    data: str
    """The sample in words: `200 rows of sample.jsonl, 5 to 120 tokens`."""

    rows: tuple[Row, ...]
    """The winner first, then by status and by ratio."""

    reference: str
    """The candidate that all ratios are relative to."""

    machine: Mapping[str, Any] = field(default_factory=dict)
    """`processor`, `cores`, `memory_bytes`, `system`, `libraries` (name -> version) and so on."""

    budget_s: float = 0.0
    spent_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: `probing`, `building`, `measuring`, `curves`, `confirming`."""

    rounds: int = 0
    discarded_rounds: int = 0
    """Number of measured rounds that were discarded because of other load on the machine."""

    notes: tuple[str, ...] = ()
    """Notes for the reader, one sentence each, such as an interruption, a noisy machine or a spent budget."""

    confirmation: Confirmation | None = None
    reference_metric: float | None = None
    when: str = ""
    """UTC, `2026-11-25 19:30`."""

    nograd: str = ""
    """Version of nograd."""

    command: str = ""
    """Command line that reproduces the report."""

    @property
    def winner(self) -> Row | None:
        """The row that won; None without a winner."""
        return next((row for row in self.rows if row.status == "winner"), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        return asdict(self)
