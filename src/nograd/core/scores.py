"""Scores: a model's output read as scores of classes. Pure functions of arrays and tensors."""

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
"""What the outputs of a model say, in the words of a transformers configuration; empty: one class of several."""

PROBLEM_TYPES: Final = ("", "regression", "single_label_classification", "multi_label_classification")

MULTI_LABEL: Final = "multi_label_classification"

SUM_TOLERANCE: Final = 1e-4
"""How far from 1 the sum of a float32 distribution may be: rounding adds 6e-8 for each class."""

HALF_SUM_TOLERANCE: Final = 1e-2
"""The same in float16 (11 significant bits) and bfloat16 (8)."""


def choose_output(outputs: Mapping[str, Any], name: str | None, problem: str) -> Any:
    """Return the output to read as scores, `[rows, classes]`, or `[rows, labels]` of a multi-label model.

    Args:
        outputs: of the model, by name.
        name: the output to read; None: the only one, or the one named `logits`.
        problem: the model's problem type.

    Raises:
        ConfigError: there is no output of this name.
        SignatureError: the model has several outputs and none was chosen, or the output is not floating `[rows, classes]`.
        UnsupportedError: the model is a regression.
    """
    if problem == "regression":
        raise UnsupportedError(
            "the model's problem_type is 'regression'; its output is a number, not class scores: use predict"
        )
    given = ", ".join(map(repr, outputs))
    if name is not None and name not in outputs:
        raise ConfigError(f"output is {name!r}; the model has the outputs {given}")
    chosen = name or ("logits" if "logits" in outputs else next(iter(outputs)))
    if name is None and len(outputs) > 1 and chosen != "logits":
        raise SignatureError(f"the model has the outputs {given}; choose the one that holds class scores: output={chosen!r}")
    found = outputs[chosen]
    if found.ndim != 2 or "float" not in str(found.dtype):
        dtype = str(found.dtype).removeprefix("torch.")
        raise SignatureError(f"the model's output is {dtype} {list(found.shape)}; class scores are floating [rows, classes]")
    return found


def join_scores(parts: Sequence[Array]) -> Array:
    """Return the scores of several runs as one array, `[rows, classes]`.

    Raises:
        SignatureError: they differ in the number of classes.
    """
    if len({scores.shape[1] for scores in parts}) > 1:
        raise SignatureError("the items' outputs differ in length; class scores are floating [rows, classes]")
    return np.concatenate(parts)


def probabilities_of(scores: Any, problem: str, temperature: float) -> Any:
    """Return probabilities of scores, float32; a tensor for a tensor.

    Args:
        scores: floating, `[rows, classes]`: logits, or rows that are distributions already.
        problem: `multi_label_classification` reads each label's logit for itself.
        temperature: divides the logits; above 1 flattens. No unit.
    """
    if problem == MULTI_LABEL:
        return _sigmoid(scores, temperature)
    if _is_distribution(scores):
        warnings.warn(
            "the model's output is a distribution already (rows of probabilities that sum to 1): it is used as it is, "
            "without softmax",
            stacklevel=3,
        )
        if temperature == 1:
            return scores.float() if is_tensor(scores) else scores.astype(np.float32)
        scores = _log(scores)
    return _softmax(_two_columns(scores), temperature)


def classes_of(scores: Any, problem: str) -> Any:
    """Return the most probable class of each row, int64 `[rows]`; of a multi-label model 0 or 1, int64 `[rows, labels]`."""
    if problem == MULTI_LABEL:
        chosen = scores > 0  # where the sigmoid is above 1/2
        return chosen.long() if is_tensor(scores) else chosen.astype(np.int64)
    return _two_columns(scores).argmax(-1)


def _two_columns(scores: Any) -> Any:
    """A single logit is the log-odds of class 1 of 2."""
    if scores.shape[1] != 1:
        return scores
    if is_tensor(scores):
        import torch

        return torch.hstack([torch.zeros_like(scores), scores])
    return np.hstack([np.zeros_like(scores), scores])


def _is_distribution(scores: Any) -> bool:
    if scores.shape[0] == 0 or scores.shape[1] < 2:
        return False
    if scores.min().item() < 0:  # what most logits have; the rest costs as much as a small model
        return False
    tolerance = HALF_SUM_TOLERANCE if "16" in str(scores.dtype) else SUM_TOLERANCE
    wide = scores.detach().double() if is_tensor(scores) else scores.astype(np.float64)
    return bool((wide >= 0).all()) and bool((abs(wide.sum(-1) - 1) <= tolerance).all())


def _softmax(logits: Any, temperature: float) -> Any:
    """Softmax (Goodfellow et al., Deep Learning, 2016, eq. 4.1), shifted by the largest so that nothing overflows."""
    if is_tensor(logits):
        if temperature == 1 and str(logits.dtype) == "torch.float32":
            return logits.softmax(-1)  # it shifts, too, and a row's sum is right to 1e-7
        logits = logits.double()
        return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).float()
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature takes all but the largest to minus infinity, which is right
        exponentials = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)


def _sigmoid(logits: Any, temperature: float) -> Any:
    if is_tensor(logits):
        return (logits.double() / temperature).sigmoid().float()
    with np.errstate(over="ignore"):  # exp of a very negative logit is infinite, and its sigmoid 0
        return (1 / (1 + np.exp(-logits.astype(np.float64) / temperature))).astype(np.float32)


def _log(scores: Any) -> Any:
    if is_tensor(scores):
        return scores.double().log()
    with np.errstate(divide="ignore"):
        return np.log(scores.astype(np.float64))
