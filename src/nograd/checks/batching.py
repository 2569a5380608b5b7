"""Batching: check that rows can share a run, and the cost of runs."""

from __future__ import annotations

from functools import partial
from math import isfinite

from nograd.batching.collate import run_together
from nograd.checks.arrays import difference, longer, padded, resized, row, row_difference, tiled, varied
from nograd.checks.batch_neighbours import BatchPair, attempt, pairs, various_rows
from nograd.checks.subject import ModelSubject
from nograd.checks.timing import least_s
from nograd.core.cost import CostCurve
from nograd.core.tensors import Batch, num_rows
from nograd.errors import ModelError
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

__all__ = ["CHECKS"]

NOT_REPEATABLE = "the same input gave different answers, so answers cannot be compared: see batching.state and mode.random"

ODD_SIZES = (1, 2, 3, 7)
"""Numbers of rows at which exports and views with fixed sizes fail."""

CURVE_INFO, CURVE_WARNING = 1.25, 2.0
"""Limits of the factor between the cost curve and a new measurement. Two measurements of the same model on a shared 2-core
machine differed by up to 20 %. Above 2, the batcher accepts deadlines that it cannot meet.
"""


def check_rows(subject: ModelSubject) -> Verdict:
    """Compare rows among different other rows in batches of one size, and with the same rows alone."""
    if not subject.is_repeatable:
        return skipped(NOT_REPEATABLE)
    if attempt(subject, row(subject.rows, 0)) is None:
        return skipped("the model cannot run one row alone: see batching.sizes")
    found = pairs(subject)
    among = max((_moved(pair) for pair in found), default=0.0)
    if among > subject.tolerance:
        said = f"a row's answer changes by {among:.1%} of its largest value with the other rows of its batch"
        if subject.signature.batching == "alone":
            return warning(f"{said}; nograd therefore runs every request alone", difference=among)
        return error(f"{said}, but the signature declares that rows may be batched", difference=among)
    return _of_batch_size(subject, found, among)


def _moved(pair: BatchPair) -> float:
    return max(difference(row(pair.answer, place), row(pair.other, place)) for place in pair.places)


def _of_batch_size(subject: ModelSubject, found: list[BatchPair], among: float) -> Verdict:
    """Compare rows alone with the same rows in a batch; the other rows are known to have no effect."""
    batches = [(subject.rows, subject.answer, index) for index in sorted({0, num_rows(subject.rows) - 1})]
    batches += [(pair.first, pair.answer, pair.places[0]) for pair in found[:1]]
    moved: dict[int, float] = {}
    for rows, answer, place in batches:
        if (alone := attempt(subject, row(rows, place))) is not None:
            size = num_rows(rows)
            moved[size] = max(moved.get(size, 0.0), difference(row(answer, place), alone))
    size = max(moved, key=moved.__getitem__)
    figures = {"difference": max(among, moved[size]), "size_effect": moved[size]}
    if moved[size] <= subject.tolerance:
        return passed(
            f"answers alone and among other rows differ by {figures['difference']:.1e} of the largest value", **figures
        )
    said = (
        f"a row's answer differs by {moved[size]:.1%} of its largest value between batches of 1 and {size} rows, but only by "
        f"{among:.1e} between different other rows: the answer depends on the number of rows, not on their values"
    )
    remedy = "look for code that uses x.shape[0], or for a kernel of lower precision for larger batches"
    if subject.signature.batching == "alone":
        return warning(f"{said}; nograd therefore runs every request alone", **figures).with_remedy(remedy)
    return warning(said, **figures).with_remedy(remedy)


def check_order(subject: ModelSubject) -> Verdict:
    """Run the rows in reverse order."""
    if not subject.is_repeatable:
        return skipped(NOT_REPEATABLE)
    given = subject.run({name: array[::-1].copy() for name, array in subject.rows.items()})
    found = difference(subject.answer, {name: array[::-1] for name, array in given.items()})
    if found > subject.tolerance:
        return error(f"answers to the rows in reverse order differ by {found:.1%} of the largest value", difference=found)
    return passed(f"answers to the rows in reverse order differ by {found:.1e} of the largest value", difference=found)


def check_padding(subject: ModelSubject) -> Verdict:
    """Pad a row among longer ones, as the batcher would."""
    signature = subject.signature
    if not signature.lengths:
        return skipped("all inputs have one fixed shape, so rows are never padded")
    if not subject.is_repeatable or signature.batching == "alone":
        return skipped(NOT_REPEATABLE if not subject.is_repeatable else "every request runs alone, so rows are never padded")
    dim = signature.lengths[0]
    place = signature.places[dim]
    size = subject.rows[place[0]].shape[place[1]]
    target = longer(size, signature, dim)
    various, answers = various_rows(subject)
    if target > size:
        return _padded(subject, (dim, size, target), various, answers)
    for own in (max(1, size // 2), size - 1):
        short = resized(various, signature.inputs, dim, own)
        if own and (alone := attempt(subject, short)) is not None:
            return _padded(subject, (dim, own, target), short, alone)
    return skipped(f"the model runs no size of {dim} other than {size}")


def _padded(subject: ModelSubject, lengths: tuple[str, int, int], short: Batch, alone: Batch) -> Verdict:
    """Compare the answers to short rows with those to padded rows; `lengths` is (dimension, its size, the longer size)."""
    signature, (dim, size, target) = subject.signature, lengths
    said = f"a row of {size} {dim}, padded to {target}"
    if signature.batching == "pad":
        long = resized(row(short, 0), signature.inputs, dim, target)
        found = row_difference(alone, run_together([short, long], subject.run, signature)[0])
        if found > subject.tolerance:
            return error(f"{said} among longer ones, differs by {found:.1%} of the largest value", difference=found)
        return passed(f"{said} among longer ones, differs by {found:.1e} of the largest value", difference=found)
    return _equal_lengths_cost(subject, alone, padded(short, signature.inputs, dim, target), said)


def _equal_lengths_cost(subject: ModelSubject, alone: Batch, filled: Batch, said: str) -> Verdict:
    """Return the cost of batching at equal lengths: high for ids, whose rows mostly differ in length; none for images."""
    answer = attempt(subject, filled)
    found = row_difference(alone, answer) if answer is not None else float("inf")
    otherwise = (
        f"has another answer, by {found:.1%} of the largest value" if isfinite(found) else "has an answer of another shape"
    )
    holds_ids = any(spec.varying and "int" in spec.dtype for spec in subject.signature.inputs)
    severity = warning if holds_ids else info
    return severity(
        f"{said}, {otherwise}: {subject.signature.reason}; rows are batched at equal lengths only", difference=found
    )


def check_state(subject: ModelSubject) -> Verdict:
    """Run the same rows three times."""
    if subject.is_repeatable:
        return passed("three runs of the same rows gave the same answers")
    from nograd.checks.mode import random_difference
    from nograd.checks.subject import torch_subject

    inner = torch_subject(subject)
    if inner is not None and random_difference(inner) is not None:
        return skipped("the model draws random numbers: see mode.random")
    found = difference(subject.answer, subject.run(subject.rows))
    return error(
        f"answers to the same rows differ by {found:.1%} of the largest value: the model keeps state between calls, so "
        "requests influence the answers of other clients",
        difference=found,
    )


def check_sizes(subject: ModelSubject) -> Verdict:
    """Run 1, 2, 3, 7 and `max_batch_size` rows."""
    sizes = sorted({*(size for size in ODD_SIZES if size <= subject.max_batch_size), subject.max_batch_size})
    failed: dict[int, str] = {}
    for size in sizes:
        try:
            subject.run(tiled(subject.rows, size))
        except ModelError as failure:
            failed[size] = str(failure)
    tried = ", ".join(map(str, sizes))
    if not failed:
        return passed(f"batches of {tried} rows run", largest_rows=float(sizes[-1]))
    first = next(iter(failed))
    severity = error if first == 1 or subject.signature.batching != "alone" else warning
    return severity(
        f"of batches of {tried} rows, those of {', '.join(map(str, failed))} fail: {failed[first][:240]}",
        smallest_failing_rows=float(first), failing=float(len(failed)),
    )  # fmt: skip


def check_cap(subject: ModelSubject) -> Verdict:
    """Compare rows of a full batch with the same rows alone."""
    if not subject.is_repeatable:
        return skipped(NOT_REPEATABLE)
    if subject.signature.batching == "alone":
        return skipped("every request runs alone, so there is no full batch")
    cap = subject.max_batch_size
    full = tiled(varied(subject.rows, min(cap, 8)), cap)
    together = subject.run(full)
    checked = sorted({0, 1, cap // 2, cap - 1} & set(range(cap)))
    found = max(difference(row(together, index), subject.run(row(full, index))) for index in checked)
    figures = {"rows": float(cap), "difference": found}
    if found > subject.tolerance:
        return error(f"answers in a batch of {cap} rows differ by {found:.1%} of the largest value from those alone", **figures)
    return passed(f"answers in a batch of {cap} rows differ by {found:.1e} of the largest value from those alone", **figures)


def check_cost(subject: ModelSubject) -> Verdict:
    """Measure some sizes of the cost curve again, in interleaved runs."""
    curve = subject.curve
    if curve is None:
        return skipped("there is no cost curve to compare with; bundles contain one")
    batches = _sizes_of(subject, curve)
    if not batches:
        return skipped(f"no batch of the sample has between 1 and {curve.max_size} {curve.unit}")
    runs = {str(size): partial(subject.run, batch) for size, batch in batches.items()}
    found = least_s(runs, rounds=3, clock=subject.clock)
    ratios = {size: found[str(size)] / curve(size) for size in batches}
    worst = max(ratios, key=lambda size: max(ratios[size], 1 / ratios[size]))
    off = max(ratios[worst], 1 / ratios[worst])
    figures = {f"measured_s_at_{size}": found[str(size)] for size in batches}
    said = (
        f"{worst} {curve.unit} take {found[str(worst)] * 1000:.3g} ms, and the cost curve predicts {curve(worst) * 1000:.3g} ms"
    )
    if off > CURVE_WARNING:
        return warning(f"{said}: wrong by {off:.2g}x", off=off, **figures)
    if off > CURVE_INFO:
        return info(f"{said}: wrong by {off:.2g}x, because of another or a busy machine", off=off, **figures)
    return passed(f"{said}", off=off, **figures)


def _sizes_of(subject: ModelSubject, curve: CostCurve) -> dict[int, Batch]:
    """Return batches by their size in the curve's unit: one row, the knee, and the largest."""
    one = subject.one
    each = sum(subject.signature.sizes_of(one)) if curve.unit == "tokens" else 1
    rows = {1, max(1, curve.knee() // each), max(1, min(curve.max_size // each, subject.max_batch_size))}
    return {count * each: tiled(one, count) for count in sorted(rows) if 1 <= count * each <= curve.max_size}


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "batching.state", "Equal inputs have equal answers", "ran the same rows three times",
        check_state, "pass state as inputs and outputs of forward", "error",
    ),
    Check(
        "batching.rows", "Rows do not influence each other",
        "ran rows among different other rows (random, small and large values), and alone",
        check_rows, "normalise over the last dimensions only: x.mean(dim=-1), not x.mean()", "error",
    ),
    Check(
        "batching.order", "Answers do not depend on the order of rows", "ran the rows in reverse order",
        check_order, "remove code in forward that depends on a row's index", "error",
    ),
    Check(
        "batching.padding", "Padding does not change answers", "padded rows with several values to a greater length",
        check_padding, "forward(input_ids, attention_mask): exclude padding from every sum, mean and softmax", "error",
    ),
    Check(
        "batching.sizes", "The model runs every batch size", "ran 1, 2, 3, 7 and the maximum number of rows",
        check_sizes, "export with 2 rows or more and a dynamic dimension 0; view(x.shape[0], ...) instead of a number", "error",
    ),
    Check(
        "batching.cap", "Answers in a full batch equal answers alone", "compared rows in a full batch with the same rows alone",
        check_cap, "nograd serve MODEL --max-batch-size 1  # until the cause is fixed", "error",
    ),
    Check(
        "batching.cost", "The cost curve matches this machine", "measured sizes of the curve again, in interleaved runs",
        check_cost, "nograd tune MODEL  # on this machine, without other load", "warning",
    ),
)  # fmt: skip
