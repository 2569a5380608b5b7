"""Joining parts into a batch, and handing every part its own outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import Signature, TensorSpec
from nograd.batching.collate import chunks, hand_out, join, merge, model_error, padding_share, plan, run_together
from nograd.batching.faults import run_apart
from nograd.core.tensors import Batch, Batching, num_rows
from nograd.errors import ModelError, SignatureError

X = TensorSpec("x", "int64", ("tokens",), pad_value=-1)
Y = TensorSpec("y", "int64", ("tokens",))
TOTAL = TensorSpec("total", "int64")


def signature(batching: Batching = "pad") -> Signature:
    return Signature((X,), (Y, TOTAL), batching)


def part(*rows: Sequence[int]) -> Batch:
    return {"x": np.array(rows, dtype=np.int64)}


def double(batch: Batch) -> Batch:
    """y is twice x where x is no padding, total the row's sum."""
    x = batch["x"]
    return {"y": x * 2, "total": np.where(x == -1, 0, x).sum(1)}


class Recorder:
    """A model that raises on a 13, and remembers what it was asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls: list[int] = []

    def __call__(self, batch: Batch) -> Batch:
        self.calls.append(num_rows(batch))
        if (batch["x"] == 13).any():
            raise self.error
        return double(batch)


def as_lists(batch: Batch) -> dict[str, list[object]]:
    return {name: array.tolist() for name, array in batch.items()}


lengths = st.integers(1, 9)
parts_of_one_length = lengths.flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 99), min_size=n, max_size=n), min_size=1, max_size=4)
)
some_parts = st.lists(parts_of_one_length.map(lambda rows: part(*rows)), min_size=1, max_size=12)
batchings = st.sampled_from(["pad", "equal_lengths", "alone"])


@pytest.mark.parametrize(
    ("batching", "max_rows", "groups"),
    [
        ("pad", 8, [[1, 3, 0, 2]]),
        ("pad", 2, [[1, 3], [0, 2]]),
        ("equal_lengths", 8, [[1, 3], [0, 2]]),
        ("equal_lengths", 1, [[1], [3], [0], [2]]),
        ("alone", 8, [[0], [1], [2], [3]]),
    ],
)
def test_a_plan_puts_the_longest_first_and_joins_only_what_may_meet(
    batching: Batching, max_rows: int, groups: list[list[int]]
) -> None:
    parts = [part([1]), part([1, 2, 3]), part([2]), part([4, 5, 6])]

    assert plan(parts, signature(batching), max_rows) == groups


@given(some_parts, batchings, st.integers(4, 16))
def test_a_plan_holds_every_part_once_and_keeps_to_the_limits(parts: list[Batch], batching: Batching, max_rows: int) -> None:
    groups = plan(parts, signature(batching), max_rows)

    assert sorted(position for group in groups for position in group) == list(range(len(parts)))
    for group in groups:
        assert sum(num_rows(parts[position]) for position in group) <= max_rows
        if batching != "pad":
            assert len({parts[position]["x"].shape[1] for position in group}) == 1
        if batching == "alone":
            assert len(group) == 1


def test_shorter_rows_are_filled_with_the_pad_value_when_they_join() -> None:
    joined = join([part([1, 2, 3]), part([4], [5])], signature())

    assert joined["x"].tolist() == [[1, 2, 3], [4, -1, -1], [5, -1, -1]]


def test_parts_get_their_own_rows_back_without_what_padding_added() -> None:
    outputs = run_together([part([1, 2, 3]), part([4], [5])], double, signature())

    assert list(map(as_lists, outputs)) == [{"y": [[2, 4, 6]], "total": [6]}, {"y": [[8], [10]], "total": [4, 5]}]


@given(some_parts)
def test_running_together_gives_each_part_what_it_gets_alone(parts: list[Batch]) -> None:
    together = run_together(parts, double, signature())

    assert list(map(as_lists, together)) == [as_lists(double(alone)) for alone in parts]


@given(some_parts, st.integers(1, 5))
def test_chunks_of_a_request_merge_into_what_it_was(parts: list[Batch], max_rows: int) -> None:
    for whole in parts:
        pieces = chunks(whole, max_rows)

        assert all(1 <= num_rows(piece) <= max_rows for piece in pieces)
        assert as_lists(merge(pieces)) == as_lists(whole)


def test_outputs_that_differ_in_length_are_merged_with_zeros_behind_the_shorter() -> None:
    assert merge([part([1]), part([2, 3])])["x"].tolist() == [[1, 0], [2, 3]]


def test_a_bad_part_fails_alone_and_costs_two_runs_for_each_halving() -> None:
    run = Recorder(ValueError("thirteen"))
    parts = [part([13 if index == 20 else index + 100]) for index in range(32)]

    outcomes = run_apart(parts, run, signature()).answers

    failed = [index for index, result in enumerate(outcomes) if isinstance(result, Exception)]
    assert failed == [20]
    assert run.calls == [32, 16, 16, 8, 4, 4, 2, 1, 1, 2, 8]


@given(some_parts, st.sets(st.integers(0, 11)))
def test_whatever_fails_the_others_get_what_they_get_without_it(parts: list[Batch], bad: set[int]) -> None:
    mixed = [part([13]) if index in bad else {"x": each["x"] + 100} for index, each in enumerate(parts)]

    outcomes = run_apart(mixed, Recorder(ValueError("thirteen")), signature()).answers

    for index, (given_part, result) in enumerate(zip(mixed, outcomes, strict=True)):
        if index in bad:
            assert isinstance(result, ModelError)
            assert str(result) == "the model raised ValueError: thirteen"
        else:
            assert not isinstance(result, Exception)
            assert as_lists(result) == as_lists(double(given_part))


def test_callers_whose_parts_failed_get_an_error_object_each() -> None:
    error = ValueError("thirteen")
    first, second = run_apart([part([13]), part([13])], Recorder(error), signature()).answers

    assert first is not second
    assert isinstance(first, ModelError)
    assert first.__cause__ is error


def test_an_error_of_ours_reaches_its_caller_as_it_is() -> None:
    error = SignatureError("input 'x' is too long")

    assert run_apart([part([13])], Recorder(error), signature()).answers == [error]


@pytest.mark.parametrize("rows", [1, 3], ids=["too few", "too many"])
@pytest.mark.parametrize("parts", [[part([1]), part([2])], [part([1], [2])]], ids=["two parts", "one part"])
def test_outputs_with_another_number_of_rows_are_an_error_and_nobody_elses_answer(rows: int, parts: list[Batch]) -> None:
    def wrong(batch: Batch) -> Batch:
        return {"y": np.zeros((rows, 1), np.int64), "total": np.zeros(rows, np.int64)}

    with pytest.raises(ModelError, match="rows"):
        hand_out(wrong(join(parts, signature())), parts, signature())


@pytest.mark.parametrize("batching", ["pad", "equal_lengths"])
def test_an_output_that_does_not_vary_is_handed_out_whole(batching: Batching) -> None:
    fixed = Signature((X,), (TensorSpec("embedding", "float32", (3,)),), batching)
    outputs = {"embedding": np.arange(6, dtype=np.float32).reshape(2, 3)}

    first, second = hand_out(outputs, [part([1]), part([2])], fixed)

    assert (first["embedding"].tolist(), second["embedding"].tolist()) == ([[0, 1, 2]], [[3, 4, 5]])


@pytest.mark.parametrize(
    ("rows", "sizes", "share"),
    [([1], [7], 0.0), ([1, 1], [4, 4], 0.0), ([1, 1], [4, 2], 0.25), ([1, 3], [8, 2], 18 / 32), ([1], [0], 0.0)],
)
def test_the_padding_share_is_what_the_device_computes_for_nothing(rows: list[int], sizes: list[int], share: float) -> None:
    assert padding_share(rows, sizes) == share


def test_what_a_guest_raised_is_named_and_kept_as_the_cause() -> None:
    cause = KeyError("input_ids")
    error = model_error("the batch policy", cause)

    assert (str(error), error.__cause__) == ("the batch policy raised KeyError: 'input_ids'", cause)
