"""Check: definition of a check; Verdict: the result of its function; `run_checks`: run checks and survive their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from nograd.report.finding import Figures, Finding, Severity

__all__ = ["Check", "Verdict", "error", "info", "passed", "run_checks", "skipped", "warning"]

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a check's function."""

    severity: Severity
    evidence: str
    figures: Figures = field(default_factory=dict)
    remedy: str = ""
    """Remedy for this result, instead of the check's own."""

    def with_remedy(self, remedy: str) -> Verdict:
        """Return the verdict with its own remedy."""
        return replace(self, remedy=remedy)


def error(evidence: str, **figures: float | str) -> Verdict:
    """Return a verdict for a wrong answer or an outage."""
    return Verdict("error", evidence, figures)


def warning(evidence: str, **figures: float | str) -> Verdict:
    """Return a verdict for a cost or a risk."""
    return Verdict("warning", evidence, figures)


def info(evidence: str, **figures: float | str) -> Verdict:
    """Return a verdict for a useful fact."""
    return Verdict("info", evidence, figures)


def passed(evidence: str, **figures: float | str) -> Verdict:
    """Return a verdict without a fault."""
    return Verdict("passed", evidence, figures)


def skipped(reason: str) -> Verdict:
    """Return a verdict for a check that could not run, with the reason."""
    return Verdict("skipped", reason)


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One item of the deployment checklist."""

    id: str
    """Family, dot, name."""

    title: str
    """The statement that is true if the check passes."""

    done: str
    """The steps of the check."""

    run: Callable[[Subject], Verdict]
    remedy: str
    """A line of code or a flag against its usual findings."""

    worst: Severity
    """The worst possible severity."""

    is_deep: bool = False
    """True if the check is slow and runs only on request."""

    rule: str = ""
    """The sentence of an external specification that demands it."""

    @property
    def family(self) -> str:
        """The subject of the check."""
        return self.id.partition(".")[0]


def run_checks(
    checks: Iterable[Check[Subject]], subject: Subject | None, *, deep: bool, why_not: str = ""
) -> Iterator[Finding]:
    """Yield a finding for each check, also for those that cannot run.

    Args:
        checks: the checks, in the order in which they run.
        subject: the subject of the checks; None if it does not exist, for the reason `why_not`.
        deep: run slow checks as well.
        why_not: reason for the missing subject, in one sentence.
    """
    for check in checks:
        if subject is None:
            yield _finding(check, skipped(why_not))
        elif check.is_deep and not deep:
            yield _finding(check, skipped("a slow check: --deep (deep=True) runs it"))
        else:
            yield _finding(check, _outcome(check, subject))


def _outcome(check: Check[Subject], subject: Subject) -> Verdict:
    try:
        return check.run(subject)
    except Exception as failure:  # noqa: BLE001  any error of a model or server: the report contains it, and the other checks run
        said = " ".join(str(failure).split())[:400]
        return warning(
            f"the check could not be completed: {type(failure).__name__}: {said}",
        ).with_remedy("run the model on this input yourself; if its answer is correct, report a bug of this check")


def _finding(check: Check[Subject], verdict: Verdict) -> Finding:
    is_fault = verdict.severity in ("error", "warning", "info")
    remedy = (verdict.remedy or check.remedy) if is_fault else ""
    return Finding(
        check.id,
        verdict.severity,
        check.title,
        check.done,
        verdict.evidence,
        verdict.figures,
        remedy,
        check.rule if is_fault else "",
    )
