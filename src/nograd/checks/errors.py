"""Errors: check the effect of invalid inputs on the request, on the other rows, and on the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nograd.checks.arrays import describe, difference, resized
from nograd.checks.subject import ModelSubject
from nograd.core.tensors import TEXT, Batch, TensorSpec
from nograd.errors import ItemError, ModelError, NogradError, SignatureError
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

__all__ = ["CHECKS"]

FAR_ID = 10**9
"""An id that no embedding has."""

LONGEST = 64
"""The largest allowed size is run only up to this multiple of the sample's size."""

ODD_TEXTS = ("", " ", "a", "\u00e9\U0001f642", "\x00", "word " * 4000)


def check_refusals(subject: ModelSubject) -> Verdict:
    """Pass inputs that do not match the signature, and check that they are refused before the model runs."""
    let_through = [what for what, batch in _misfits(subject) if not _is_refused(subject, batch)]
    count = sum(1 for _ in _misfits(subject))
    if let_through:
        return warning(f"{', '.join(let_through)} is not rejected before the model runs: clients get 500 instead of 400",
                       let_through=float(len(let_through)), tried=float(count))  # fmt: skip
    return passed(f"{count} kinds of invalid input were rejected with a sentence before the model ran", tried=float(count))


def _misfits(subject: ModelSubject) -> Iterator[tuple[str, Batch]]:
    good, spec = dict(subject.rows), subject.signature.inputs[0]
    array = good[spec.name]
    yield "an unknown input", {**good, "no_such_input": array}
    yield "a missing input", {name: each for name, each in good.items() if name != spec.name} or {"no_such_input": array}
    yield "an input without rows", {**good, spec.name: array[:0]}
    yield "an input with a dimension too many", {**good, spec.name: array[..., None]}
    yield "an input of another kind", {**good, spec.name: np.full(array.shape, "text", dtype=object) if spec.dtype != TEXT
                                       else np.zeros(array.shape)}  # fmt: skip
    if array.ndim > 1 and spec.shape:
        wide = np.concatenate([array, array[:, :1]], axis=1)
        sharing = [each for each in subject.signature.inputs if spec.shape[0] in each.shape]
        if isinstance(spec.shape[0], int) or len(sharing) > 1:
            yield "an input of another size", {**good, spec.name: wide}
        elif not subject.signature.outputs:
            yield "an input of any size", {**good, spec.name: wide}


def _is_refused(subject: ModelSubject, batch: Batch) -> bool:
    try:
        subject.signature.check(batch)
    except SignatureError:
        return True
    return False


def check_ids(subject: ModelSubject) -> Verdict:
    """Pass ids that are out of range. They may be refused by the signature, raise in the model, or be accepted."""
    if subject.predictor.backend.device != "cpu":
        return skipped(f"the model runs on {subject.predictor.backend.device}, where an invalid id could end the process")
    specs = [spec for spec in subject.signature.inputs if _is_ids(spec, subject.rows)]
    if not specs:
        return skipped("no input contains ids")
    failures: dict[str, str] = {}
    for spec in specs:
        for value in _edges(spec):
            if fault := _fault(subject, spec, value):
                failures[f"{spec.name} = {value}"] = fault
    if failures:
        what, fault = next(iter(failures.items()))
        return warning(f"{', '.join(failures)} is not rejected, and the model raises (on a GPU the process is lost): "
                       f"{what}: {fault}", values=float(len(failures)))  # fmt: skip
    limits = ", ".join(f"{spec.name} {spec.limits}" for spec in specs if spec.limits)
    return passed(f"ids out of range are rejected: {limits}" if limits else "the model accepts any integer")


def _is_ids(spec: TensorSpec, rows: Batch) -> bool:
    """Return True for integers that are not a mask: by their name or limits, or because some are above 1."""
    array = rows[spec.name]
    return array.dtype.kind in "iu" and "mask" not in spec.name and (spec.limits is not None or bool((array > 1).any()))


def _edges(spec: TensorSpec) -> tuple[int, ...]:
    """Return the ids to try: at the limits and just outside; without limits, a very large and a negative id."""
    if spec.limits is not None:
        return spec.limits[1], spec.limits[1] + 1, spec.limits[0] - 1
    most = int(np.iinfo(spec.dtype).max)
    return (min(FAR_ID, most), -1) if np.dtype(spec.dtype).kind == "i" else (min(FAR_ID, most),)


def _fault(subject: ModelSubject, spec: TensorSpec, value: int) -> str:
    """Return the model's error on a value that was not refused; empty without an error."""
    one = dict(subject.one)
    one[spec.name] = one[spec.name].copy()
    try:
        one[spec.name].flat[0] = value
        subject.run(subject.signature.check(one))
    except (SignatureError, OverflowError):
        return ""
    except ModelError as failure:
        return " ".join(str(failure).split())[:160]
    return ""


def check_nan(subject: ModelSubject) -> Verdict:
    """Set one row to NaN, and compare the answers of the other rows."""
    floating = [name for name, array in subject.rows.items() if "float" in array.dtype.name]
    if not floating or not subject.is_repeatable or subject.signature.batching == "alone":
        return skipped("no input is floating" if not floating else "rows never share a batch, or answers are not repeatable")
    poisoned = {name: array.copy() for name, array in subject.rows.items()}
    for name in floating:
        poisoned[name][0] = np.nan
    try:
        found = difference(_rest(subject.answer), _rest(subject.run(poisoned)))
    except ModelError as failure:
        return passed(f"the model rejects NaN: {' '.join(str(failure).split())[:160]}")
    if found > subject.tolerance:
        return error("NaN in one row changes the answers to other rows: one client's invalid input affects other clients",
                     difference=found)  # fmt: skip
    return passed("NaN in one row does not change the answers to other rows")


def _rest(batch: Batch) -> Batch:
    return {name: array[1:] for name, array in batch.items()}


def check_lengths(subject: ModelSubject) -> Verdict:
    """Run lengths that the signature allows: the two shortest, the sample's plus and minus one, and the longest."""
    signature = subject.signature
    if not signature.lengths:
        return skipped("all inputs have one fixed shape")
    failed: dict[str, str] = {}
    tried: list[str] = []
    shortest = True
    for dim in signature.lengths:
        name, axis = signature.places[dim]
        own = subject.rows[name].shape[axis]
        for size in _lengths(own, *signature.size_range(dim)):
            tried.append(f"{size} {dim}")
            try:
                subject.run(resized(subject.one, signature.inputs, dim, size))
            except ModelError as failure:
                failed[tried[-1]] = " ".join(str(failure).split())[:160]
                shortest = shortest and size < own
    if not failed:
        known = signature.describe_limits() or "no limit is known"
        return passed(f"the model runs lengths of {', '.join(tried)}; limits: {known}", tried=float(len(tried)))
    what, fault = next(iter(failed.items()))
    severity = info if shortest else warning
    return severity(f"the signature allows {', '.join(failed)}, but the model raises, so clients get 500: "
                    f"{what}: {fault}", failing=float(len(failed)), tried=float(len(tried)))  # fmt: skip


def _lengths(own: int, least: int, most: int | None) -> list[int]:
    sizes = {least, least + 1, own - 1, own + 1, most if most is not None and most <= LONGEST * own else own}
    return sorted(size for size in sizes if least <= size <= (most or size))


def check_items(subject: ModelSubject) -> Verdict:
    """Pass odd texts to a model that takes text: empty, one letter, symbols, a very long text."""
    predictor = subject.predictor
    if not predictor.has_preprocess:
        return skipped("the model has no preprocess, so there are no text items")
    if not isinstance(predictor.example, str):
        return skipped(f"its items are {type(predictor.example).__name__}; this check only tries texts")
    failed = {_shorten(text): fault for text in ODD_TEXTS if (fault := _item_fault(predictor, text))}
    if failed:
        what, fault = next(iter(failed.items()))
        return warning(
            f"preprocess accepts {', '.join(failed)}, but the model raises, so clients get 500: "
            f"{what}: {fault}",
            failing=float(len(failed)), tried=float(len(ODD_TEXTS)),
        )  # fmt: skip
    return passed(f"{len(ODD_TEXTS)} unusual texts were answered, or rejected as client errors", tried=float(len(ODD_TEXTS)))


def _shorten(text: str) -> str:
    return repr(text) if len(text) < 12 else f"{len(text)} letters"


def _item_fault(predictor: Any, text: str) -> str:
    try:
        predictor.run(predictor.prepare_item(text, 0))
    except (ItemError, SignatureError):
        return ""
    except ModelError as failure:
        return " ".join(str(failure).split())[:160]
    return ""


def check_recovers(subject: ModelSubject) -> Verdict:
    """Make the model raise on unchecked inputs, and run the sample again."""
    if subject.predictor.backend.device != "cpu" or not subject.is_repeatable:
        return skipped("an invalid input could break the device" if subject.is_repeatable else "answers are not repeatable")
    raised = ""
    for batch in _bad_batches(subject):
        if raised and subject.predictor.backend.name == "onnx":
            break  # its sessions keep no state between runs, and it logs each error
        try:
            subject.run(batch)
        except NogradError:
            raised = raised or describe(batch)
    if not raised:
        return skipped("the check found no input on which the model raises")
    try:
        found = difference(subject.answer, subject.run(subject.rows))
    except NogradError as failure:
        return error(f"after an error on {raised} the model can no longer run its sample: {failure}")
    if found > subject.tolerance:
        return error(f"after an error on {raised} answers differ by {found:.1%} of the largest value", difference=found)
    return passed(f"after an error on {raised} the model's answers are unchanged", difference=found)


def _bad_batches(subject: ModelSubject) -> Iterator[Batch]:
    """Yield inputs that most models raise on: another rank, another size, an id out of range."""
    for spec in subject.signature.inputs:
        array = subject.rows[spec.name]
        if array.dtype.kind == "O":
            continue
        yield {**subject.rows, spec.name: array.reshape(len(array), -1)[..., None, None, None]}
        if array.ndim > 1:
            yield {**subject.rows, spec.name: np.repeat(array, 2, axis=-1)[..., :-1]}
        if array.dtype.kind == "i":
            yield {**subject.rows, spec.name: np.full_like(array, min(FAR_ID, np.iinfo(array.dtype).max))}


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "errors.refusals", "Invalid inputs are rejected before the model runs",
        "passed unknown, missing, empty and misshapen inputs",
        check_refusals, "nograd.Predictor(model, sample=...)  # inputs are then checked against its signature", "warning",
    ),
    Check(
        "errors.ids", "Ids out of range are rejected", "passed ids at the limits of the range and beyond",
        check_ids, "look ids up in the embedding directly, without arithmetic before it; or check them with "
                   "torch._assert", "warning",
    ),
    Check(
        "errors.nan", "NaN in one row does not affect other rows", "set one row to NaN, and compared the answers to other rows",
        check_nan, "no sum, mean or product over dimension 0 in forward", "error",
    ),
    Check(
        "errors.lengths", "The model runs every allowed length", "ran the shortest, the longest and other lengths",
        check_lengths, "pad short rows in preprocess, or raise ValueError there", "warning",
    ),
    Check(
        "errors.items", "Unusual texts are not server errors",
        "passed an empty text, one letter, symbols, and a very long text",
        check_items, "truncate in preprocess, and raise ValueError for empty input", "warning",
    ),
    Check(
        "errors.recovers", "The model recovers from errors", "made the model raise, and ran the sample again",
        check_recovers, "set no attribute in forward, or set it in try/finally", "error",
    ),
)  # fmt: skip
