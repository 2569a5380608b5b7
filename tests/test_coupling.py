"""Independence with a number: coupling is separated from rounding, a poor sample hides nothing, files carry the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from nograd.backends.companions import kinds_for, make_row, random_target
from nograd.backends.coupling import (
    QUICK,
    accept_coupling,
    how_to_batch,
    measure_independence,
    measured_signature,
    with_independence,
    without_independence,
)
from nograd.core.independence import Independence, tolerance_for
from nograd.core.manifest import Manifest
from nograd.core.tensors import Array, Batch, Signature, TensorSpec
from nograd.errors import ModelError

FLOATS = Signature((TensorSpec("x", "float32", (6,)),), (TensorSpec("y", "float32", (6,)),))
IDS = Signature(
    (TensorSpec("ids", "int64", ("tokens",), limits=(0, 99)), TensorSpec("mask", "int64", ("tokens",))),
    (TensorSpec("y", "float32", ("tokens",)),),
)
ROWS = {"x": np.random.default_rng(0).standard_normal((4, 6), dtype=np.float32)}
TOKENS: Batch = {"ids": np.array([[5, 7, 9], [1, 2, 3]]), "mask": np.ones((2, 3), np.int64)}


def of_x(function: Callable[[Array], Array]) -> Callable[[Batch], Batch]:
    return lambda batch: {"y": function(batch["x"]).astype(np.float32)}


def scaled_by_the_batch(x: Array) -> Array:
    """Activations in 8 bits, with one scale for the batch: dynamic quantization."""
    scale = np.abs(x).max() / 127 or 1.0
    return np.asarray(np.round(x / scale) * scale)


def clamped_to_the_loudest(x: Array) -> Array:
    """A floor 80 dB below the loudest value of the batch: log-mel features."""
    return np.asarray(np.maximum(x, np.abs(x).max() * 0.1))


def negatives_leak(x: Array) -> Array:
    """Only the most negative row of the batch leaks into the others."""
    return np.asarray(x + 0.01 * np.minimum(0, x.min() + 5))


COUPLED = {
    "one scale for the batch": scaled_by_the_batch,
    "a floor below the loudest row": clamped_to_the_loudest,
    "only rows of the opposite sign": negatives_leak,
    "the mean of the batch": lambda x: x - x.mean(0),
    "the row before": lambda x: x + np.roll(x, 1, axis=0),
}


@pytest.mark.parametrize("kind", COUPLED)
@pytest.mark.parametrize("sample", [ROWS["x"], ROWS["x"][:1], np.zeros((1, 6), np.float32), np.full((2, 6), 0.5, np.float32)])
def test_rows_that_influence_each_other_run_alone_whatever_the_sample(kind: str, sample: Array) -> None:
    signature = how_to_batch(of_x(COUPLED[kind]), {"x": sample}, FLOATS)

    assert signature.batching == "alone"
    assert signature.independence is not None
    assert signature.independence.bound > 1e-3
    assert signature.reason == signature.independence.fault()


def another_kernel(x: Array) -> Array:
    """Half precision from 3 rows on, as matrix libraries choose it."""
    return x if len(x) < 3 else (x * (1 + 2**-12)).astype(np.float32)


def test_another_kernel_for_another_batch_size_is_rounding_and_no_coupling() -> None:
    signature = how_to_batch(of_x(another_kernel), ROWS, FLOATS)

    assert signature.batching == "pad"
    assert signature.independence is not None
    assert signature.independence.bound == 0
    assert signature.independence.size_effect == pytest.approx(2**-12, rel=0.3)
    assert signature.independence.verdict == "independent"


@pytest.mark.parametrize("function", [lambda x: x / len(x), lambda x: x + 0.1 * (len(x) > 2)])
def test_an_effect_of_the_batch_size_beyond_rounding_is_no_independence(function: Callable[[Array], Array]) -> None:
    signature = how_to_batch(of_x(function), ROWS, FLOATS)

    assert signature.batching == "alone"
    assert signature.reason.startswith("a row's answer depends on the number of rows in its batch")


def ids_with(leak: Callable[[Batch], Array]) -> Callable[[Batch], Batch]:
    return lambda batch: {"y": (batch["ids"] * batch["mask"] + leak(batch)).astype(np.float32)}


@pytest.mark.parametrize(
    ("leak", "batching"),
    [
        (lambda batch: np.zeros(1), "equal_lengths"),
        (lambda batch: batch["ids"].max(keepdims=True) > 90, "alone"),  # no id of the sample is above 9
        (lambda batch: batch["mask"].min(keepdims=True), "alone"),  # no row of the sample is masked
    ],
)
def test_ids_of_the_whole_vocabulary_and_masks_are_put_next_to_a_row(leak: Callable[[Batch], Array], batching: str) -> None:
    assert how_to_batch(ids_with(leak), TOKENS, IDS).batching == batching


def test_a_longer_row_that_leaks_through_the_padding_is_found() -> None:
    def padded(batch: Batch) -> Batch:
        leak = batch["ids"][:, -1].sum() - batch["ids"][0, -1]
        return {"y": (batch["ids"] * batch["mask"] + (leak if batch["ids"].shape[1] > 3 else 0)).astype(np.float32)}

    found = measure_independence(padded, [TOKENS], replace(IDS, batching="pad"))

    assert found is not None
    assert found.is_coupled


def test_a_model_that_runs_no_two_rows_or_not_one_is_not_measured() -> None:
    def only_one(batch: Batch) -> Batch:
        if len(batch["x"]) != 1:
            raise ModelError("one row only")
        return {"y": batch["x"]}

    def only_four(batch: Batch) -> Batch:
        if len(batch["x"]) != 4:
            raise ModelError("four rows only")
        return {"y": batch["x"]}

    assert measure_independence(only_one, [ROWS], FLOATS) is None
    assert measure_independence(only_four, [ROWS], FLOATS) is None
    assert how_to_batch(only_one, {"x": ROWS["x"][:1]}, FLOATS).reason == "two rows together do not run: one row only"
    assert measured_signature(only_one, [ROWS], FLOATS).independence is None


def test_an_answer_that_is_finite_in_one_batch_only_has_the_largest_bound() -> None:
    found = measure_independence(of_x(lambda x: np.where(np.abs(x).max() < 20, x, np.nan)), [ROWS], FLOATS)

    assert found is not None
    assert found.bound == 1e6
    assert "1e+06 or more" in found.fault()


def test_the_figures_are_the_same_for_the_same_seed_and_say_what_was_worst() -> None:
    first, second = (measure_independence(of_x(scaled_by_the_batch), [ROWS], FLOATS) for _ in range(2))

    assert first == second
    assert first is not None
    assert first.companions.startswith("rows 100 times as large")
    assert (first.num_batches, first.max_rows) == (QUICK, 5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_companions_have_the_inputs_dtype_and_stay_finite(dtype: str) -> None:
    signature = Signature((TensorSpec("x", dtype, (3,)),))
    sample = {"x": np.array([[60000, 1, 2]], np.float32).astype(signature.inputs[0].dtype)}
    random = np.random.default_rng(0)

    for kind in kinds_for(signature):
        row = make_row([sample], signature, kind, random)["x"]
        assert (row.dtype.name, row.shape) == (dtype, (1, 3))
        assert np.isfinite(row.astype(np.complex128)).all()
    assert random_target(sample, signature, random)["x"].dtype.name == dtype


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("int8", 1e-5), ("bfloat16", 2e-3), ("float16", 2e-3)])
def test_half_precision_has_a_wider_tolerance(precision: str, tolerance: float) -> None:
    found = measure_independence(of_x(lambda x: x + 1e-3 * x[:1]), [ROWS], FLOATS, precision=precision)

    assert tolerance_for(precision) == tolerance
    assert found is not None
    assert (found.tolerance, found.precision) == (tolerance, precision)


# -- what follows from it

COUPLED_BY = Independence(4e-2, companions="rows 100 times as large", num_batches=10, max_rows=5, backend="onnx")


def test_coupled_rows_are_batched_again_only_if_the_user_accepts_it() -> None:
    signature = with_independence(replace(FLOATS, batching="pad"), COUPLED_BY)

    assert signature.batching == "alone"
    assert signature.reason == (
        "a row's answer depends on the other rows of its batch: it moves by 4.0e-02 of the output's largest value next to "
        "rows 100 times as large; 1.0e-05 is allowed"
    )
    accepted = accept_coupling(signature)
    assert accepted.batching == "pad"
    assert accepted.reason.startswith("coupled rows are accepted: ")
    assert accepted.independence == replace(COUPLED_BY, batching_if_accepted="pad", is_accepted=True)
    assert without_independence(signature).batching == "pad"


def test_there_is_nothing_to_accept_of_independent_unmeasured_or_stateful_models() -> None:
    state = replace(FLOATS, batching="alone", reason="the model keeps state between calls", repeatable=False)
    independent = with_independence(FLOATS, Independence(1e-7))

    for signature in (FLOATS, state, independent):
        assert accept_coupling(signature) is signature
    assert measured_signature(of_x(scaled_by_the_batch), [ROWS], state).independence is None


def test_rows_of_equal_lengths_only_stay_so_when_coupling_is_accepted() -> None:
    signature = with_independence(replace(IDS, batching="equal_lengths"), COUPLED_BY)

    assert accept_coupling(signature).batching == "equal_lengths"


def test_a_file_carries_its_independence_and_one_without_it_loads_as_unmeasured() -> None:
    signature = with_independence(FLOATS, COUPLED_BY)
    text = Manifest(signature, "y").dumps()
    old = {name: value for name, value in json.loads(text).items() if name != "independence"}

    assert Manifest.loads(text).signature.independence == signature.independence
    assert Manifest.loads(json.dumps(old)).signature.independence is None
