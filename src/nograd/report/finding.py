"""Finding and Report: what a check found, and what that means for who asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, TypeAlias

__all__ = ["SEVERITIES", "Figures", "Finding", "Report", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "info", "skipped", "passed"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "skipped", "passed")
"""Worst first. An error is a wrong answer or an outage, a warning a cost or a risk, an info something worth knowing."""

Figures: TypeAlias = Mapping[str, float | str]
"""What was measured, by name; a name ends in its unit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    """The check's id: its family, a dot, its name."""

    severity: Severity
    title: str
    """What is so where the check passes."""

    done: str
    """What was done to find out."""

    evidence: str
    """What was seen, with its figures; of a skipped check, why it could not be run."""

    figures: Figures = field(default_factory=dict)
    remedy: str = ""
    """A line of code or a flag; empty where there is nothing to mend."""

    rule: str = ""
    """The sentence that asks for it, where somebody else's specification does."""

    @property
    def family(self) -> str:
        """The subject that the check belongs to, such as `batching`."""
        return self.check.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain strings and numbers; NaN and infinities, which JSON lacks, as strings."""
        names = ("check", "family", "severity", "title", "done", "evidence", "remedy", "rule")
        return {**{name: getattr(self, name) for name in names}, "figures": {k: _plain(v) for k, v in self.figures.items()}}


def _plain(value: float | str) -> float | str:
    return str(value) if isinstance(value, float) and not isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Report:
    """All findings on one model or server."""

    target: str
    findings: tuple[Finding, ...]
    spent_s: float = 0.0
    tool: str = "check"
    """The command that made it."""

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings by severity, worst first; severities that did not occur are 0."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    @property
    def worst(self) -> Severity:
        """The worst severity that occurred; `passed` where nothing was checked."""
        return next((severity for severity, count in self.counts.items() if count), "passed")

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 where there is an error, with `strict` also for a warning; else 0."""
        return int(self.counts["error"] > 0 or (strict and self.counts["warning"] > 0))

    def of(self, *severities: Severity) -> tuple[Finding, ...]:
        """Return the findings of some severities, in the order in which they were found."""
        return tuple(finding for finding in self.findings if finding.severity in severities)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        listed = [finding.to_json() for finding in self.findings]
        return {"target": self.target, "worst": self.worst, "counts": self.counts, "spent_s": self.spent_s, "findings": listed}

    def __str__(self) -> str:
        from nograd.report.finding_formats import to_text

        return to_text(self)
