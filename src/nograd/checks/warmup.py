"""Warm-up: check for costs that only the first requests have."""

from __future__ import annotations

import sys
from statistics import median

from nograd.checks.optimisation import traffic
from nograd.checks.subject import ModelSubject
from nograd.core.tensors import Batch
from nograd.errors import ModelError
from nograd.report.verdict import Check, Verdict, info, passed, warning

__all__ = ["CHECKS"]

RUNS = 7

NOTICED_S, LONG_S = 0.1, 1.0
"""Limits of the extra seconds of a first call: users notice more than 0.1 s, and more than 1 s leads to timeouts."""

RATIO = 3.0
"""Minimum ratio of the first call to the slowest later one, because a busy machine slows any call down."""


def check_first_call(subject: ModelSubject) -> Verdict:
    """Compare the first call with seven later ones."""
    times = [_run_s(subject, subject.one) for _ in range(RUNS)]
    return _penalty(subject.first_s, times)


def _run_s(subject: ModelSubject, batch: Batch) -> float:
    begun = subject.clock()
    subject.run(batch)
    return subject.clock() - begun


def _penalty(first_s: float, later_s: list[float]) -> Verdict:
    """Decide whether a first call took longer than the machine's noise explains."""
    usual = median(later_s)
    ratio = first_s / usual if usual else 1.0
    figures = {"first_s": first_s, "later_s": usual, "ratio": ratio}
    said = f"the first call took {first_s * 1000:.3g} ms, later ones {usual * 1000:.3g} ms"
    if first_s - usual <= NOTICED_S or first_s <= RATIO * max(later_s):
        return passed(said, **figures)
    severity = warning if first_s - usual > LONG_S else info
    return severity(f"{said}: {ratio:.0f} times as long", **figures)


def check_compilations(subject: ModelSubject) -> Verdict:
    """Run the sizes that a server warms up with, then other sizes, and count torch's compilations for the latter."""
    if "torch._dynamo" not in sys.modules:
        return passed("the model does not use torch's compiler")
    start = _compiled()
    warm, others = traffic(subject)
    for batch in warm:
        _attempt(subject, batch)
    ready = _compiled()
    for batch in others:
        _attempt(subject, batch)
    late = _compiled() - ready
    figures = {"warm_compilations": float(ready - start), "late_compilations": float(late)}
    if late:
        return warning(
            f"{late} graphs were compiled for {len(others)} shapes after the warm-up: requests wait for the compiler",
            **figures,
        )
    return passed(f"{len(others)} shapes after the warm-up needed no compilation", **figures)


def _attempt(subject: ModelSubject, batch: Batch) -> None:
    try:
        subject.run(batch)
    except ModelError:  # another check covers sizes that the model does not take
        return


def _compiled() -> int:
    """Return the number of graphs that torch has compiled in this process so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "warmup.first_call", "The first call is as fast as later ones", "compared the first call with seven later ones",
        check_first_call, "predictor.warm_up()  # before readiness, like nograd serve", "warning",
    ),
    Check(
        "warmup.compilations", "Nothing is compiled after the warm-up",
        "ran warm-up shapes, then other shapes, and counted graphs",
        check_compilations, "nograd.optimize_model_compile(model, sample)  # it warms up the shapes that are served", "warning",
    ),
)  # fmt: skip
