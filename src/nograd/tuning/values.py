"""What tuning speaks of: a goal, a candidate, what was measured of it, the report. Values only; nothing here runs a model."""

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
"""`tied`: within 2 % of the best, and less simple than the winner. `dropped`: measured, and slower beyond doubt. `refused`: it
does not answer as the model does. `failed`: it could not be built or run. `not_tried`: see the row's reason."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a bundle shall be best at."""

    kind: GoalKind
    slo_s: float | None = None
    """For `slo`: seconds within which answers are wanted."""

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
            ConfigError: it is none of these.
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
    """Its name, such as `eager` or `onnx`."""

    precision: str = "float32"
    """`float32`, `bfloat16`, `float16`, `int8-dynamic`, `int8-static`."""

    lanes: int = 1
    """Runs side by side."""

    num_threads: int = 1
    """Threads that one run computes with."""

    @property
    def kind(self) -> Kind:
        """The kind of its backend.

        Raises:
            ConfigError: there is none of that name.
        """
        found = find_kind(self.backend)
        if found is None:
            raise ConfigError(why_unknown(self.backend))
        return found

    @property
    def variant(self) -> str:
        """Backend and precision: what has to be built."""
        return self.backend if self.precision == "float32" else f"{self.backend} {self.precision}"

    @property
    def layout(self) -> str:
        """Lanes and threads, such as `2x1`: two lanes with one thread each."""
        return f"{self.lanes}x{self.num_threads}"

    def __str__(self) -> str:
        return f"{self.variant} {self.layout}"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Seconds of one run of a size."""

    size: int
    seconds: Figure


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate, and what came of it."""

    candidate: Candidate
    status: Status
    reason: str = ""
    """Why it was refused, failed, dropped or not tried, in one sentence; empty where there is nothing to say."""

    build_s: float | None = None
    file_bytes: int | None = None
    rss_bytes: int | None = None
    """Resident memory of a process that has opened it and run its largest batch."""

    parity: Mapping[str, Any] | None = None
    """`ParityReport.to_json()`, against eager, over the user's own sample."""

    metric: float | None = None
    """What the user's own function gave; higher is better."""

    lone_s: Figure | None = None
    """Seconds of one row alone on an idle machine."""

    lone_p99_s: float | None = None
    rows_per_s: Figure | None = None
    """Rows a second with all lanes busy, at the best batch size of those that were tried."""

    batch_rows: int | None = None
    """Rows of a run at that rate."""

    ratio: Figure | None = None
    """How many times better than the reference (eager, default layout) for the goal, paired round by round."""

    rounds: int = 0
    """Rounds that it was measured in."""

    curve: tuple[CurvePoint, ...] = ()
    curve_unit: Literal["rows", "tokens"] = "rows"
    independence: Independence | None = None
    """How far the rows of a batch influence each other, over the user's own rows."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The winner behind the real batcher, under load."""

    offered_per_s: float
    """Rows a second, Poisson: 70 % of what the winner was measured to carry."""

    served_per_s: float
    p50_s: float
    p99_s: float
    predicted_p50_s: float
    predicted_p99_s: float
    """Of a simulated batcher on the measured curve, with the same arrivals."""

    cost_ratio: float
    """Seconds that the runs took, divided by those that the curve says."""

    confirmed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TuneReport:
    """All candidates, and why the winner won."""

    model: str
    goal: str
    tolerance: str
    data: str
    """What was measured on, in words: `200 rows of sample.jsonl, 5 to 120 tokens`."""

    rows: tuple[Row, ...]
    """The winner first, then by what they were good for."""

    reference: str
    """The candidate that all ratios are relative to."""

    machine: Mapping[str, Any] = field(default_factory=dict)
    """`processor`, `cores`, `memory_bytes`, `system`, `libraries` (name -> version), ..."""

    budget_s: float = 0.0
    spent_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: `probing`, `building`, `measuring`, `curves`, `confirming`."""

    rounds: int = 0
    discarded_rounds: int = 0
    """Rounds that were measured while something else kept the machine busy, and thrown away."""

    notes: tuple[str, ...] = ()
    """What a reader must know: `interrupted`, `noisy machine`, `the budget was spent before ...`; one sentence each."""

    confirmation: Confirmation | None = None
    reference_metric: float | None = None
    when: str = ""
    """UTC, `2026-11-25 19:30`."""

    nograd: str = ""
    """Version."""

    command: str = ""
    """What gives this report again."""

    @property
    def winner(self) -> Row | None:
        """The row that won; None where nothing could be measured."""
        return next((row for row in self.rows if row.status == "winner"), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        return asdict(self)
