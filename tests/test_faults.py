"""Whose fault a failed batch is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from nograd import Signature, TensorSpec
from nograd.batching.faults import Outcome, retry_sizes, run_apart
from nograd.core.tensors import Batch, num_rows
from nograd.errors import DeadlineError, DeviceLostError, ModelError
from nograd.runtime.device_errors import is_device_lost, is_out_of_memory

SIGNATURE = Signature((TensorSpec("x", "int64", (1,)),), (TensorSpec("y", "int64", (1,)),))


def part(*values: int) -> Batch:
    return {"x": np.array(values)[:, None]}


class Model:
    """Doubles; raises what `fault` says of the values it is given."""

    def __init__(self, fault: Callable[[list[int]], BaseException | None]) -> None:
        self.fault = fault
        self.calls: list[list[int]] = []

    def __call__(self, batch: Batch) -> Batch:
        values = batch["x"].ravel().tolist()
        self.calls.append(values)
        if (error := self.fault(values)) is not None:
            raise error
        return {"y": batch["x"] * 2}


def poisoned(*bad: int) -> Model:
    return Model(lambda values: ValueError("poison") if set(bad) & set(values) else None)


def small(rows: int) -> Model:
    """Has memory for so many rows."""
    return Model(lambda values: MemoryError("out of memory") if len(values) > rows else None)


def answers(outcome: Outcome) -> list[object]:
    return [answer["y"].ravel().tolist() if isinstance(answer, dict) else "error" for answer in outcome.answers]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sampled_from([0.0, 0.1, 5.0]))
def test_p10_each_bad_part_fails_alone_and_all_others_get_their_own(bad: list[bool], fixed: float) -> None:
    model = poisoned(*(value for value, is_bad in enumerate(bad) if is_bad))

    outcome = run_apart([part(v) for v in range(len(bad))], model, SIGNATURE, seconds=lambda count: fixed + count)

    assert answers(outcome) == ["error" if is_bad else [2 * v] for v, is_bad in enumerate(bad)]
    assert outcome.runs == len(model.calls)


@given(st.integers(1, 64), st.data())
def test_p10_one_bad_part_costs_two_runs_for_each_halving(count: int, data: st.DataObject) -> None:
    model = poisoned(data.draw(st.integers(0, count - 1)))

    run_apart([part(v) for v in range(count)], model, SIGNATURE)

    assert len(model.calls) <= 1 + 2 * ceil(log2(count))


def test_parts_are_retried_singly_where_batching_gains_nothing() -> None:
    """A device that takes as long for two as for two runs of one: halves would run everything again and again."""
    model = poisoned(13)

    run_apart([part(v) for v in range(32)], model, SIGNATURE, seconds=float)

    assert len(model.calls) == 1 + 32


@given(st.integers(2, 64), st.floats(0, 20))
def test_how_a_batch_is_cut_is_what_costs_least(count: int, fixed: float) -> None:
    def seconds(parts: int) -> float:
        return fixed + parts

    def by_halves(parts: int) -> float:
        left = -(-parts // 2)
        return (
            0.0
            if parts < 2
            else seconds(left) + seconds(parts // 2) + min(by_halves(left), left * seconds(1) if left > 1 else 0)
        )

    sizes = retry_sizes(count, seconds)

    assert sum(sizes) == count
    assert sizes == ((1,) * count if count * seconds(1) < by_halves(count) else (-(-count // 2), count // 2))


def test_who_no_longer_waits_is_not_run_again() -> None:
    model = poisoned(1)

    outcome = run_apart([part(0), part(1), part(2)], model, SIGNATURE, is_due=lambda position: position != 2)

    assert answers(outcome) == [[0], "error", "error"]
    assert isinstance(outcome.answers[1], ModelError)
    assert isinstance(outcome.answers[2], DeadlineError)
    assert all(2 not in values for values in model.calls[1:])


# -- memory


def test_a_batch_that_is_too_large_is_halved_until_it_fits_and_says_so() -> None:
    outcome = run_apart([part(v) for v in range(32)], small(8), SIGNATURE)

    assert answers(outcome) == [[2 * v] for v in range(32)]
    assert outcome.too_many_rows == 16


def test_a_part_of_many_rows_is_cut_where_it_alone_is_too_large() -> None:
    outcome = run_apart([part(*range(10))], small(3), SIGNATURE)

    assert answers(outcome) == [[2 * v for v in range(10)]]
    assert outcome.too_many_rows == 5


def test_a_part_too_large_by_itself_fails_alone_and_says_nothing_of_others() -> None:
    model = Model(lambda values: MemoryError("out of memory") if 13 in values else None)

    outcome = run_apart([part(v) for v in range(16)], model, SIGNATURE)

    assert answers(outcome) == ["error" if v == 13 else [2 * v] for v in range(16)]
    assert outcome.too_many_rows == 0


class OutOfMemoryError(RuntimeError):
    """As torch's."""


class AcceleratorError(RuntimeError):
    """As torch's, with CUDA's number of the error."""

    def __init__(self, message: str, error_code: int) -> None:
        super().__init__(message)
        self.error_code = error_code


def caused(error: BaseException) -> ModelError:
    wrapped = ModelError("the model raised")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (MemoryError(), True, False),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (ValueError("the text mentions cuda error and out of memory"), False, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("CUDA error: invalid configuration argument"), False, False),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), False, False),
        (AcceleratorError("CUDA error: invalid argument", 1), False, False),
        (AcceleratorError("CUDA error: a sentence of a later version", 719), False, True),
        (
            RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
            True,
            False,
        ),
        (RuntimeException("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), False, True),
        (RuntimeException("CUDA failure 9: invalid configuration argument ; GPU=0"), False, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
    ],
    ids=str,
)
def test_memory_and_lost_devices_are_told_apart_also_as_a_cause(error: Exception, memory: bool, lost: bool) -> None:
    for found in (error, caused(error)):
        assert (is_out_of_memory(found), is_device_lost(found)) == (memory, lost)


@pytest.mark.parametrize("error", [ValueError("13"), MemoryError("out of memory")], ids=type)
def test_retries_run_without_the_tensors_of_the_failed_run(error: Exception) -> None:
    alive: list[int] = []
    kept: list[weakref.ref[Activations]] = []

    def run(batch: Batch) -> Batch:
        alive.append(sum(each() is not None for each in kept))
        activations = Activations()
        kept.append(weakref.ref(activations))
        if num_rows(batch) > 2:
            try:
                raise error
            except Exception as cause:
                raise ModelError("the model raised") from cause
        return {"y": batch["x"] * 2}

    outcome = run_apart([part(v) for v in range(8)], run, SIGNATURE)

    assert answers(outcome) == [[2 * v] for v in range(8)]
    assert len(alive) > 3
    assert set(alive) == {0}


class Activations:
    """Memory that a failed run leaves in its frame."""


def test_a_lost_device_is_not_tried_again() -> None:
    model = Model(lambda values: RuntimeError("CUDA error: device-side assert triggered"))

    with pytest.raises(DeviceLostError, match="the device is lost: CUDA error"):
        run_apart([part(v) for v in range(8)], model, SIGNATURE)

    assert len(model.calls) == 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_parts_of_many_rows_come_back_whole(rows: list[int]) -> None:
    parts = [part(*range(10 * index, 10 * index + count)) for index, count in enumerate(rows)]

    outcome = run_apart(parts, small(4), SIGNATURE)

    assert answers(outcome) == [[2 * value for value in batch["x"].ravel().tolist()] for batch in parts]
    assert [num_rows(batch) for batch in parts] == rows
