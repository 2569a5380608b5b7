"""The cost curve that is measured before a model serves."""

from __future__ import annotations

import numpy as np
import pytest

from nograd import Backend, Predictor, Signature, TensorSpec, measure_cost
from nograd.core.tensors import Batch, Batching, num_rows
from nograd.errors import ModelError


class Remembering(Backend):
    """Answers with its input; raises on rows longer than it can take."""

    name, device, lanes = "remembering", "cpu", 1

    def __init__(self, *shape: int | str, batching: Batching = "pad", longest: int = 10**6, known: int | None = None) -> None:
        spec = TensorSpec("x", "float32", shape)
        sizes = {} if known is None else {"tokens": known}
        self.signature = Signature((spec,), (spec,), batching, max_sizes=sizes)
        self.sizes: list[tuple[int, int]] = []
        self._longest = longest

    def run(self, batch: Batch) -> Batch:
        x = batch["x"]
        if x.shape[1] > self._longest:
            raise ModelError("too long")
        self.sizes.append((num_rows(batch), x.shape[1]))
        return {"x": x}


def test_rows_of_one_length_are_measured_by_rows_up_to_the_largest_batch() -> None:
    backend = Remembering(3)

    curve = measure_cost(Predictor(backend), max_batch_size=12, budget_s=60.0)

    assert (curve.sizes, curve.unit) == ((1, 2, 4, 8, 12), "rows")
    assert {rows for rows, _ in backend.sizes} == {1, 2, 4, 8, 12}


def test_rows_that_differ_in_length_are_measured_by_padded_elements_and_longer_ones_too() -> None:
    backend = Remembering("tokens")

    curve = measure_cost(Predictor(backend), {"x": np.ones((1, 5), np.float32)}, max_batch_size=4, budget_s=60.0)

    assert (curve.sizes, curve.unit) == ((5, 10, 20, 80), "tokens")
    assert {(1, 5), (2, 5), (4, 5), (1, 20), (1, 80)} == set(backend.sizes)


@pytest.mark.parametrize("limit", ["known", "longest"])
def test_no_row_is_longer_than_the_model_takes(limit: str) -> None:
    backend = Remembering("tokens", **{limit: 20})  # type: ignore[arg-type]

    curve = measure_cost(Predictor(backend), {"x": np.ones((1, 5), np.float32)}, max_batch_size=2, budget_s=60.0)

    assert curve.sizes == (5, 10, 20)


def test_a_model_whose_rows_run_alone_is_measured_with_one() -> None:
    assert measure_cost(Predictor(Remembering(3, batching="alone"))).sizes == (1,)


def test_without_time_only_one_row_is_measured() -> None:
    assert measure_cost(Predictor(Remembering(3)), budget_s=0.0).sizes == (1,)
