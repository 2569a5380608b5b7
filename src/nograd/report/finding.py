"""Finding and Report: the results of checks, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, TypeAlias

__all__ = ["SEVERITIES", "Figures", "Finding", "Report", "Severity"]

Severity: TypeAlias = Literal["error", "warning", "info", "skipped", "passed"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "skipped", "passed")
"""Worst first. An error is a wrong answer or an outage, a warning a cost or a risk, an info a useful fact."""

Figures: TypeAlias = Mapping[str, float | str]
"""Measurements by name; a name ends in its unit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    check: str
    """The check's id: its family, a dot, its name."""

    severity: Severity
    title: str
    """The statement that is true if the check passes."""

    done: str
    """The steps of the check."""

    evidence: str
    """The observation with its figures; for a skipped check, the reason."""

    figures: Figures = field(default_factory=dict)
    remedy: str = ""
    """A line of code or a flag; empty if no fix is needed."""

    rule: str = ""
    """The sentence of an external specification that demands it, if there is one."""

    @property
    def family(self) -> str:
        """The subject of the check, such as `batching`."""
        return self.check.partition(".")[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain strings and numbers; NaN and infinities, which JSON lacks, become strings."""
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
    """The command that made the report."""

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings by severity, worst first; other severities are 0."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    @property
    def worst(self) -> Severity:
        """The worst severity of all findings; `passed` without findings."""
        return next((severity for severity, count in self.counts.items() if count), "passed")

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 if there is an error, with `strict` also for a warning; else 0."""
        return int(self.counts["error"] > 0 or (strict and self.counts["warning"] > 0))

    def of(self, *severities: Severity) -> tuple[Finding, ...]:
        """Return the findings with some severities, in their original order."""
        return tuple(finding for finding in self.findings if finding.severity in severities)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        listed = [finding.to_json() for finding in self.findings]
        return {"target": self.target, "worst": self.worst, "counts": self.counts, "spent_s": self.spent_s, "findings": listed}

    def __str__(self) -> str:
        from nograd.report.finding_formats import to_text

        return to_text(self)
