"""Wording of a report: names, statuses, and the verdict in one sentence. Pure functions of values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite, nan
from typing import Any

import msgspec

from nograd.core.parity import ParityReport
from nograd.report.figures import count, interval, number, ratio, size, times
from nograd.runtime.terminal import clean
from nograd.tuning.values import Candidate, Confirmation, Row, Status, TuneReport

__all__ = [
    "STATUSES", "confirmation_line", "facts", "full_name", "goal_phrase", "groups", "is_reference", "joined", "margin",
    "outcome", "parity_of", "standing", "verdict",
]  # fmt: skip


STATUSES: dict[Status, tuple[str, str]] = {
    "winner": ("winner", "the best for the goal; the simplest of those that tie"),
    "tied": ("tied", "within 2 % of the best, and less simple than the winner"),
    "measured": ("measured", "slower than the winner"),
    "dropped": ("dropped", "slower beyond doubt, and not measured to the end"),
    "refused": ("refused", "its answers differ from the model's"),
    "failed": ("failed", "could not be built or run"),
    "not_tried": ("not tried", "left out of this run"),
}
"""Every status in the order of the report: its name and its meaning."""

GOAL_PHRASES = {
    "latency": "for one row alone",
    "throughput": "in rows a second",
    "memory": "in memory",
}

NOT_CONFIRMED = (
    "What was measured did not hold while it was served. Mostly something else kept the machine busy: tune again when it is "
    "quiet. The answers are right all the same."
)


def joined(words: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *head, last = list(words) or [""]
    return f"{', '.join(head)} and {last}" if head else last


def full_name(candidate: Candidate) -> str:
    """Return `onnx float32, 1 lane x 2 threads`."""
    layout = f"{count(candidate.lanes, 'lane')} x {count(candidate.num_threads, 'thread')}"
    return clean(f"{candidate.backend} {candidate.precision}, {layout}")


def goal_phrase(goal: str) -> str:
    """Return the phrase for a goal's ratio: `for one row alone`."""
    kind, _, limit = goal.partition("=")
    limit = re.sub(r"(?<=\d)(?=m?s$)", " ", clean(limit))  # slo=20ms
    return f"in rows a second within {limit}" if kind == "slo" else GOAL_PHRASES.get(kind, clean(f"for {goal}"))


def parity_of(row: Row) -> ParityReport | None:
    """Return a row's parity; None if it has none, or if another version wrote it and it cannot be read."""
    if row.parity is None:
        return None
    try:
        return msgspec.convert(dict(row.parity), ParityReport, strict=False)
    except msgspec.ValidationError:
        return None


def is_reference(row: Row, report: TuneReport) -> bool:
    """Return True if the ratios of the report are relative to this row."""
    return str(row.candidate) == report.reference


def verdict(report: TuneReport) -> str:
    """Return the verdict as a sentence.

    Example: `onnx float32, 1 lane x 2 threads: 2.32x eager [2.21 .. 2.41] for one row alone; confirmed under load`.
    """
    winner = report.winner
    if winner is None:
        return _no_winner(report)
    return f"{full_name(winner.candidate)}: {standing(report)}"


def standing(report: TuneReport) -> str:
    """Return the part of the verdict after the winner's name."""
    winner = report.winner
    if winner is None:
        return ""
    if report.goal == "memory" and winner.rss_bytes:
        said = f"{size(winner.rss_bytes)}, the least of those that are not slower than eager by more than a tenth"
    elif is_reference(winner, report):
        said = _against_none(report)
    elif winner.ratio is None or not isfinite(winner.ratio.median):
        said = f"the best {goal_phrase(report.goal)}"
    else:
        against = clean(report.reference).partition(" ")[0] or "the reference"
        said = " ".join(
            filter(None, [times(winner.ratio), against, interval(winner.ratio, say=ratio), goal_phrase(report.goal)])
        )
    return f"{said}; {_confirmed(report)}"


def _against_none(report: TuneReport) -> str:
    if sum(row.lone_s is not None or row.rows_per_s is not None for row in report.rows) < 2:
        return "the only one that could be measured"
    return f"what the others are compared with, and none was more than 2 % better {goal_phrase(report.goal)}"


def outcome(found: Confirmation) -> str:
    """Return the result of the test under load: `confirmed`, `a light load`, or `not confirmed`."""
    if not found.confirmed:
        return "not confirmed"
    return "a light load" if found.reason else "confirmed"


def _confirmed(report: TuneReport) -> str:
    found = report.confirmation
    if found is None:
        return "not tried under load"
    said = outcome(found)
    return f"tried under {said}" if said == "a light load" else f"{said} under load"


def _no_winner(report: TuneReport) -> str:
    if not report.rows:
        return "no winner: there was no candidate"
    tally = [f"{len(rows)} {STATUSES[status][0]}" for status, rows in groups(report)]
    return f"no winner among {count(len(report.rows), 'candidate')}: {joined(tally)}"


def margin(report: TuneReport) -> str:
    """Return the distance of the next candidate, and the ties; empty if no other candidate was measured."""
    winner = report.winner
    if winner is None or report.goal == "memory":
        return ""
    tied = [str(row.candidate) for row in report.rows if row.status == "tied"]
    rest = [row for row in report.rows if row.status in ("measured", "dropped") and _ratio(row) > 0]
    said = []
    if tied:
        verb = "is" if len(tied) == 1 else "are"
        shown = joined(tied) if len(tied) <= 4 else f"{count(len(tied), 'other')}"
        said.append(f"{clean(shown)} {verb} as good within 2 %, and less simple.")
    if rest and _ratio(winner) > 0:
        best = max(rest, key=_ratio)
        said.append(f"Next is {clean(best.candidate)} at {times(best.ratio)}: {_gap(_ratio(winner) / _ratio(best))}.")
    return " ".join(said)


def _gap(quotient: float) -> str:
    if quotient >= 1.995:
        return f"the winner is {number(quotient)} times as good"
    percent = round((quotient - 1) * 100)
    return f"the winner is {percent} % ahead" if percent >= 1 else "less than 1 % apart"


def _ratio(row: Row) -> float:
    return row.ratio.median if row.ratio is not None and isfinite(row.ratio.median) else nan


def groups(report: TuneReport) -> list[tuple[Status, list[Row]]]:
    """Return the rows by status, in the order of `STATUSES`, each status once and none empty."""
    found = [(status, [row for row in report.rows if row.status == status]) for status in STATUSES]
    return [(status, rows) for status, rows in found if rows]


def confirmation_line(report: TuneReport) -> str:
    """Return the offered load, also as a share of the measured rate if that is known, and the served load."""
    found, winner = report.confirmation, report.winner
    if found is None:
        return ""
    rate = (winner.rows_per_s.median if winner is not None and winner.rows_per_s is not None else nan) or nan
    part = f", {found.offered_per_s / rate * 100:.0f} % of the measured rate" if isfinite(found.offered_per_s / rate) else ""
    return f"{number(found.offered_per_s)} rows/s offered (Poisson{part}), {number(found.served_per_s)} rows/s served"


def facts(value: Any) -> str:
    """Return a value of `TuneReport.machine` as text; lists and mappings become comma-separated."""
    if isinstance(value, dict):
        return ", ".join(f"{clean(key)} {facts(child)}" for key, child in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(facts, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else clean(value)
