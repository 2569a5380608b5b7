"""Convert a row of the model's outputs to columns of the output file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nograd.core.inputs import to_host
from nograd.core.tensors import Batch
from nograd.datasets.columns import Columns, RowFaultError
from nograd.datasets.outputs import OutputRow
from nograd.datasets.records import Record
from nograd.errors import ItemError, ModelError
from nograd.predictors.postprocessed import ANSWER, AnswerFields
from nograd.predictors.predictor import Predictor

__all__ = ["ANSWER", "fields_of", "predictions_of", "row_of"]

INT64 = range(-(2**63), 2**63)


def predictions_of(predictor: Predictor, outputs: Batch, fields: AnswerFields | None = None) -> dict[str, Any]:
    """Return one row's predictions by name: the model's outputs, or the answer of `postprocess`.

    Args:
        predictor: the predictor that made the outputs.
        outputs: outputs of one row, `[1, ...]`.
        fields: required fields of `postprocess`'s answer; None: any.

    Raises:
        RowFaultError: `postprocess` raised, returned a value that no file can hold, or returned other fields than before.
    """
    if not predictor.has_postprocess:
        return {name: _plain(array[0]) for name, array in outputs.items()}
    try:
        answer = to_host(next(predictor.answers(outputs)))
    except ModelError as error:  # it raised SystemExit or the like
        raise RowFaultError(str(error)) from error
    except Exception as error:  # the user's code; its error is reported with the row
        raise RowFaultError(f"postprocess raised {type(error).__name__}: {error}") from error
    found = {str(key): _plain(value) for key, value in (answer if isinstance(answer, Mapping) else {ANSWER: answer}).items()}
    if fields is None:
        return found
    try:
        checked = fields.check(answer)
    except ModelError as error:
        raise RowFaultError(str(error)) from error
    return {name: _in_type_of(checked[name], value) for name, value in found.items()}


def row_of(
    record: Record, outputs: Batch | ItemError, predictor: Predictor, columns: Columns, fields: AnswerFields | None = None
) -> OutputRow | str:
    """Return a row of the output, or the reason why there is none.

    Args:
        record: the record of the input.
        outputs: the model's outputs for one row, or the error of that row.
        predictor: the predictor that made the outputs.
        columns: selects the record's columns that the output carries through.
        fields: fields of the first answer of `postprocess`, which this one must have too.
    """
    if isinstance(outputs, ItemError):
        return str(outputs).removeprefix(f"item {outputs.index}: ")
    try:
        predictions = predictions_of(predictor, outputs, fields)
    except RowFaultError as fault:
        return str(fault)
    kept = columns.carried_names(record)
    for name in kept:
        if name in predictions:
            return f"its column {name!r} has the name of a prediction; leave it out with --drop {name}"
    return OutputRow(record.columns, kept, predictions)


def fields_of(predictor: Predictor, outputs: Batch) -> AnswerFields | None:
    """Return the fields of one row's answer; None without `postprocess`, or if it has none that nograd can write."""
    if not predictor.has_postprocess:
        return None
    try:
        return AnswerFields.of(to_host(next(predictor.answers(outputs))))
    except Exception:  # noqa: BLE001  the user's code; its error is reported with the row
        return None


def _in_type_of(checked: Any, value: Any) -> Any:
    """Return an integer in a field of floats as a float, and any other value as it is."""
    is_float = isinstance(checked, np.ndarray | np.generic) and checked.dtype.kind == "f"
    return float(value) if is_float and isinstance(value, int | np.integer) else value


def _plain(value: Any) -> Any:
    """Return a value as numbers, text, arrays of numbers, lists and dicts."""
    value = to_host(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise RowFaultError("the answer contains bytes that are not UTF-8; encode them, for example as base64") from None
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fiub":
            return value
        return _plain(value.astype(np.float32) if "float" in value.dtype.name else value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, int) and value not in INT64:
        raise RowFaultError(f"the answer contains {value}; files support integers of 64 bits")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise RowFaultError(f"the answer contains a {type(value).__name__}; files support numbers, text, arrays, lists and dicts")
