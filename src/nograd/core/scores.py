"""Class scores from model outputs. Pure functions of arrays and tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from nograd.core.inputs import is_tensor
from nograd.core.tensors import Array
from nograd.errors import ConfigError, SignatureError, UnsupportedError

__all__ = ["PROBLEM_TYPES", "ProblemType", "choose_output", "classes_of", "join_scores", "probabilities_of"]

ProblemType: TypeAlias = Literal["", "regression", "single_label_classification", "multi_label_classification"]
"""Meaning of a model's outputs, as in transformers' configuration; empty: one of several classes."""

PROBLEM_TYPES: Final = ("", "regression", "single_label_classification", "multi_label_classification")

MULTI_LABEL: Final = "multi_label_classification"

SUM_TOLERANCE: Final = 1e-4
"""Maximum deviation from 1 of the sum of a float32 distribution; rounding adds 6e-8 per class."""

HALF_SUM_TOLERANCE: Final = 1e-2
"""Maximum deviation in float16 (11 significant bits) and bfloat16 (8 bits)."""


def choose_output(outputs: Mapping[str, Any], name: str | None, problem: str) -> Any:
    """Return the output that contains scores: `[rows, classes]`, or `[rows, labels]` for a multi-label model.

    Args:
        outputs: the model's outputs by name.
        name: output to read; None: the only one, or the one named `logits`.
        problem: the model's problem type.

    Raises:
        ConfigError: there is no output of this name.
        SignatureError: the model has several outputs and none was chosen, or the output is not floating `[rows, classes]`.
        UnsupportedError: the model is a regression model.
    """
    if problem == "regression":
        raise UnsupportedError(
            "the model's problem_type is 'regression'; its output is a number, not class scores: use predict"
        )
    if name is not None and name not in outputs:
        raise ConfigError(f"output is {name!r}; the model has the outputs {', '.join(map(repr, outputs))}")
    chosen = name or ("logits" if "logits" in outputs else next(iter(outputs)))
    if name is None and len(outputs) > 1 and chosen != "logits":
        given = ", ".join(map(repr, outputs))
        raise SignatureError(f"the model has the outputs {given}; choose the one with class scores: output={chosen!r}")
    found = outputs[chosen]
    if found.ndim != 2 or "float" not in str(found.dtype):
        dtype = str(found.dtype).removeprefix("torch.")
        raise SignatureError(f"the model's output is {dtype} {list(found.shape)}; class scores are floating [rows, classes]")
    return found


def join_scores(parts: Sequence[Array]) -> Array:
    """Join the scores of several runs into one array, `[rows, classes]`.

    Raises:
        SignatureError: the runs differ in the number of classes.
    """
    if len({scores.shape[1] for scores in parts}) > 1:
        raise SignatureError("the items' outputs differ in length; class scores are floating [rows, classes]")
    return np.concatenate(parts)


def probabilities_of(scores: Any, problem: str, temperature: float) -> Any:
    """Convert scores to probabilities, float32 `[rows, classes]`; a tensor for a tensor.

    Args:
        scores: floating, `[rows, classes]`: logits, or rows that already sum to 1.
        problem: problem type; `multi_label_classification` applies a sigmoid to each label's logit.
        temperature: divides the logits; values above 1 flatten. No unit.
    """
    if problem == MULTI_LABEL:
        return _sigmoid(scores, temperature)
    if _is_distribution(scores):
        warnings.warn(
            "the model's output is already a distribution (rows of probabilities that sum to 1): it is used unchanged, "
            "without softmax",
            stacklevel=3,
        )
        if temperature == 1:
            return scores.float() if is_tensor(scores) else scores.astype(np.float32)
        scores = _log(scores)
    return _softmax(_two_columns(scores), temperature)


def classes_of(scores: Any, problem: str) -> Any:
    """Return the most probable class per row, int64 `[rows]`; 0 or 1 per label for a multi-label model, int64 `[rows,
    labels]`.
    """
    if problem == MULTI_LABEL:
        chosen = scores > 0  # equals sigmoid(scores) > 1/2
        return chosen.long() if is_tensor(scores) else chosen.astype(np.int64)
    return _two_columns(scores).argmax(-1)


def _two_columns(scores: Any) -> Any:
    """Return two logits per row: a single logit is the log-odds of class 1."""
    if scores.shape[1] != 1:
        return scores
    if is_tensor(scores):
        import torch

        return torch.hstack([torch.zeros_like(scores), scores])
    return np.hstack([np.zeros_like(scores), scores])


def _is_distribution(scores: Any) -> bool:
    if scores.shape[0] == 0 or scores.shape[1] < 2:
        return False
    if scores.min().item() < 0:  # true for most logits, and cheaper than the full check
        return False
    tolerance = HALF_SUM_TOLERANCE if "16" in str(scores.dtype) else SUM_TOLERANCE
    wide = scores.detach().double() if is_tensor(scores) else scores.astype(np.float64)
    return bool((wide >= 0).all()) and bool((abs(wide.sum(-1) - 1) <= tolerance).all())


def _softmax(logits: Any, temperature: float) -> Any:
    """Softmax (Goodfellow et al., Deep Learning, 2016, eq. 4.1), shifted by the row maximum to avoid overflow."""
    if is_tensor(logits):
        if temperature == 1 and str(logits.dtype) == "torch.float32":
            return logits.softmax(-1)  # it also shifts; row sums are accurate to 1e-7
        logits = logits.double()
        return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).float()
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # tiny temperatures overflow to -inf for all but the largest logit, which is correct
        exponentials = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def _sigmoid(logits: Any, temperature: float) -> Any:
    if is_tensor(logits):
        return (logits.double() / temperature).sigmoid().float()
    with np.errstate(over="ignore"):  # exp overflows for very negative logits; the result 0 is correct
        return (1 / (1 + np.exp(-logits.astype(np.float64) / temperature))).astype(np.float32)


def _log(scores: Any) -> Any:
    if is_tensor(scores):
        return scores.double().log()
    with np.errstate(divide="ignore"):
        return np.log(scores.astype(np.float64))
