"""The winner of a tuning run as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nograd.backends.coupling import with_independence, without_independence
from nograd.bundle import BundleSettings, Curve, ExportedFile, ModelFactory, ModelFolder, Pipeline, write_bundle
from nograd.tuning.html import to_html
from nograd.tuning.measure import MAX_BATCH_ROWS
from nograd.tuning.report import dumps

if TYPE_CHECKING:
    from nograd.core.tensors import Signature
    from nograd.predictors.predictor import Predictor
    from nograd.tuning.entries import CandidateEntry
    from nograd.tuning.tuner import TuningOutcome

__all__ = ["write_winner"]


def write_winner(
    target: Path, outcome: TuningOutcome, predictor: Predictor, source: ModelFactory | ModelFolder | None
) -> Path | None:
    """Write the winner as a bundle; write nothing without a winner."""
    winner, report = outcome.winner, outcome.report
    model = ExportedFile(winner.path) if winner is not None and winner.path is not None else source
    if winner is None or model is None:
        return None
    candidate, confirmation = winner.candidate, report.confirmation
    settings = BundleSettings(
        name=report.model, backend=candidate.backend, precision=candidate.precision, lanes=candidate.lanes,
        num_threads=candidate.num_threads, max_batch_size=MAX_BATCH_ROWS, goal=report.goal, curve=_curve(outcome),
        parity=winner.parity, metric=winner.metric, confirmed=None if confirmation is None else confirmation.confirmed,
        fingerprint=predictor.fingerprint().text, when=report.when,
    )  # fmt: skip
    reports = {"report.json": dumps(report), "report.html": to_html(report).encode()}
    return write_bundle(
        target, model=model, signature=_signature_of(predictor, winner), settings=settings, front=Pipeline.of(predictor),
        reports=reports,
    )  # fmt: skip


def _signature_of(predictor: Predictor, winner: CandidateEntry) -> Signature:
    """Return the model's signature with the independence of the winner's backend, not eager's."""
    signature = without_independence(predictor.signature)
    return signature if winner.independence is None else with_independence(signature, winner.independence)


def _curve(outcome: TuningOutcome) -> Curve | None:
    points = outcome.winner.curve if outcome.winner is not None else ()
    if not points or outcome.winner is None:
        return None
    return Curve(
        tuple(point.size for point in points),
        tuple(point.seconds.median for point in points),
        tuple(point.seconds.low for point in points),
        tuple(point.seconds.high for point in points),
        "tokens" if outcome.winner.curve_unit == "tokens" else "rows",
    )
