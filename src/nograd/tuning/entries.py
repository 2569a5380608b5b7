"""Measurements of one candidate during tuning, and the report's row that is made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nograd.core.independence import Independence
from nograd.report.figures import Figure
from nograd.tuning.sign_test import median_figure
from nograd.tuning.values import Candidate, CurvePoint, Goal, Row, Status
from nograd.tuning.worker import Worker

__all__ = ["CandidateEntry", "work_of"]


@dataclass(slots=True, eq=False)
class CandidateEntry:
    """One candidate with its measurements so far."""

    candidate: Candidate
    path: Path | None = None
    worker: Worker | None = None
    status: Status = "measured"
    reason: str = ""
    build_s: float | None = None
    file_bytes: int | None = None
    rss_bytes: int | None = None
    notes: tuple[str, ...] = ()
    parity: dict[str, Any] | None = None
    independence: Independence | None = None
    metric: float | None = None
    lone_s: list[float] = field(default_factory=list)
    """Samples: seconds of a run with a single row."""

    lone_runs_s: list[float] = field(default_factory=list)
    by_rows: dict[int, list[float]] = field(default_factory=dict)
    """Samples: seconds per row, by the rows of a batch."""

    ratio: Figure | None = None
    rounds: int = 0
    curve: tuple[CurvePoint, ...] = ()
    curve_unit: str = "rows"

    @property
    def is_in(self) -> bool:
        """True while the candidate may win."""
        return self.status == "measured" and self.worker is not None

    def end(self, status: Status, reason: str) -> None:
        """Remove the candidate from the race, with the reason, and end its process."""
        self.status, self.reason = status, reason
        self.close()

    def close(self) -> None:
        """End the candidate's process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def best_rows(self) -> int:
        """Return the batch size with the highest rate; among sizes within 1 % of it, the smallest."""
        rates = {rows: 1 / median(samples) for rows, samples in self.by_rows.items()}
        return min(rows for rows, rate in rates.items() if rate >= 0.99 * max(rates.values()))

    def rows_within(self, slo_s: float) -> int | None:
        """Return the batch size that carries the most load if every answer is due within `slo_s`.

        The result is None if not even a single row meets the deadline. Fluid bound: a row waits for the run before its own,
        so of B rows in T(B) seconds, the share min(1, (slo - T) / T) meets the deadline.
        """
        if not self.lone_s or median(self.lone_s) > slo_s:
            return None
        best, most = 1, 0.0
        for rows, samples in self.by_rows.items():
            run_s = rows * median(samples) * self.candidate.lanes
            carried = min(1.0, max(0.0, (slo_s - run_s) / run_s)) / median(samples)
            if carried > most:
                best, most = rows, carried
        return best

    def row(self) -> Row:
        """Return the report's row."""
        rows = self.best_rows() if self.by_rows else None
        rates = [1 / sample for sample in self.by_rows[rows]] if rows is not None else []
        return Row(
            self.candidate, self.status, self.reason, build_s=self.build_s, file_bytes=self.file_bytes,
            rss_bytes=self.rss_bytes, parity=self.parity, metric=self.metric, lone_s=_figure(self.lone_s),
            lone_p99_s=float(np.quantile(self.lone_runs_s, 0.99)) if len(self.lone_runs_s) >= 20 else None,
            rows_per_s=_figure(rates), batch_rows=rows, ratio=self.ratio, rounds=self.rounds, curve=self.curve,
            curve_unit="tokens" if self.curve_unit == "tokens" else "rows", independence=self.independence,
        )  # fmt: skip


def work_of(entry: CandidateEntry, goal: Goal) -> tuple[str, dict[str, Any]]:
    """Return the command that measures a candidate for a goal, and the options of that command."""
    if goal.kind == "throughput":
        return "bulk", {"rows": entry.best_rows()}
    rows = entry.rows_within(goal.slo_s) if goal.slo_s is not None else None
    return ("single", {}) if rows is None else ("bulk", {"rows": rows})


def _figure(samples: Sequence[float]) -> Figure | None:
    return median_figure(samples) if samples else None
