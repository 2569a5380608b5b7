"""Check: what is known of a check before it is run; Verdict: what its function returns; and running them, whatever they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from nograd.report.finding import Figures, Finding, Severity

__all__ = ["Check", "Verdict", "error", "info", "passed", "run_checks", "skipped", "warning"]

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check's function says of its subject."""

    severity: Severity
    evidence: str
    figures: Figures = field(default_factory=dict)
    remedy: str = ""
    """Instead of the check's own, where it depends on what was found."""

    def with_remedy(self, remedy: str) -> Verdict:
        """Return the verdict with a remedy of its own."""
        return replace(self, remedy=remedy)


def error(evidence: str, **figures: float | str) -> Verdict:
    """A wrong answer, or an outage."""
    return Verdict("error", evidence, figures)


def warning(evidence: str, **figures: float | str) -> Verdict:
    """A cost, or a risk."""
    return Verdict("warning", evidence, figures)


def info(evidence: str, **figures: float | str) -> Verdict:
    """Worth knowing."""
    return Verdict("info", evidence, figures)


def passed(evidence: str, **figures: float | str) -> Verdict:
    """All is well."""
    return Verdict("passed", evidence, figures)


def skipped(reason: str) -> Verdict:
    """It could not be run, and why."""
    return Verdict("skipped", reason)


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One line of the deployment checklist."""

    id: str
    """Family, dot, name."""

    title: str
    """What is so where it passes."""

    done: str
    """What is done to find out."""

    run: Callable[[Subject], Verdict]
    remedy: str
    """A line of code or a flag, for what it usually finds."""

    worst: Severity
    """The worst that it can find."""

    is_deep: bool = False
    """Whether it takes so long that it is run only when asked for."""

    rule: str = ""
    """The sentence of somebody else's specification that asks for it."""

    @property
    def family(self) -> str:
        """The subject that it belongs to."""
        return self.id.partition(".")[0]


def run_checks(
    checks: Iterable[Check[Subject]], subject: Subject | None, *, deep: bool, why_not: str = ""
) -> Iterator[Finding]:
    """Yield a finding for each check, also for those that cannot be run.

    Args:
        checks: to be run in this order.
        subject: what they are run on; None: nothing of that kind is there, `why_not` says so.
        deep: whether to run those that take long.
        why_not: why there is no subject, in one sentence.
    """
    for check in checks:
        if subject is None:
            yield _finding(check, skipped(why_not))
        elif check.is_deep and not deep:
            yield _finding(check, skipped("it takes long: --deep (deep=True) runs it"))
        else:
            yield _finding(check, _outcome(check, subject))


def _outcome(check: Check[Subject], subject: Subject) -> Verdict:
    try:
        return check.run(subject)
    except Exception as failure:  # noqa: BLE001  models and servers do anything: the report says it, and the other checks go on
        said = " ".join(str(failure).split())[:400]
        return warning(
            f"the check itself could not be finished: {type(failure).__name__}: {said}",
        ).with_remedy("run the model on this input by hand; if it is right, report the check")


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
