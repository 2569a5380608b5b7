"""BatchPredictor: in order, lazily, in bounded memory, and nothing lost before an error."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nograd import BatchPredictor, Predictor
from nograd.errors import ConfigError, ItemError, SignatureError, UnsupportedError
from tests.torch_models import LastState, Returns

torch.manual_seed(0)  # for the models made below


class Sums(nn.Module):
    """Sums of ids: padding with 0 is harmless. Refuses 13."""

    def forward(self, ids: Tensor) -> Tensor:
        if (ids == 13).any():
            raise ValueError("13 is not served here")
        return ids.sum(1, keepdim=True).float()


LAST = Predictor(LastState(), sample=torch.randn(2, 5, 4))
"""Padding would change its answers."""

SUMS = Predictor(Sums(), sample=torch.ones(2, 5, dtype=torch.int64))


def ids(length: int, value: int = 1) -> Any:
    return np.full(length, value, dtype=np.int64)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 8), st.integers(1, 3))
def test_answers_come_in_order_and_equal_one_by_one(lengths: list[int], max_batch_size: int, windows: int) -> None:
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((length, 4), dtype=np.float32) for length in lengths]

    answers = list(BatchPredictor(LAST, max_batch_size=max_batch_size, window_batches=windows).predict(items))

    assert len(answers) == len(items)
    for item, answer in zip(items, answers, strict=True):
        alone = LAST.predict(item[None])
        np.testing.assert_allclose(answer["last"], alone["last"][0], atol=1e-5)
        np.testing.assert_allclose(answer["steps"], alone["steps"][0], atol=1e-5)


def test_items_are_read_as_answers_are_taken_three_windows_ahead_at_most() -> None:
    read = 0

    def endless() -> Iterator[Any]:
        nonlocal read
        for read in itertools.count(1):
            yield ids(1 + read % 5)

    answers = BatchPredictor(SUMS, max_batch_size=4, window_batches=2).predict(endless())
    taken = []
    for answer in itertools.islice(answers, 20):
        taken.append(float(answer[0]))
        assert read <= 8 * (-(-len(taken) // 8) + 2)  # the window of this answer, and two more
    answers.close()  # type: ignore[attr-defined]

    assert taken == [float(1 + n % 5) for n in range(1, 21)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("nograd-prepare", "nograd-device_"))]


def test_answers_before_a_bad_item_are_delivered_and_the_item_is_named() -> None:
    items = [ids(3) for _ in range(10)] + [np.ones(3, np.float32)] + [ids(3)]
    delivered: list[Any] = []

    with pytest.raises(ItemError, match=r"item 10: input 'ids' is float32") as caught:
        delivered.extend(BatchPredictor(SUMS, max_batch_size=4).predict(items))

    assert (len(delivered), caught.value.index) == (10, 10)


def test_a_row_that_the_model_refuses_is_named_alone() -> None:
    items = [ids(3, value) for value in (1, 2, 13, 4)]
    delivered: list[Any] = []

    with pytest.raises(ItemError, match=r"item 2: the model raised ValueError.*13 is not served here"):
        delivered.extend(BatchPredictor(SUMS).predict(items))

    assert [float(answer[0]) for answer in delivered] == [3.0, 6.0]


@pytest.mark.parametrize(("bad", "delivered"), [(0, 0), (1, 1)])
def test_without_a_sample_even_the_first_items_are_named_when_they_are_bad(bad: int, delivered: int) -> None:
    def double(item: int) -> Any:
        if item == bad:
            raise KeyError("missing")
        return np.full(2, item, np.float32)

    answers: list[Any] = []
    with pytest.raises(ItemError, match=f"item {bad}: preprocess raised KeyError") as caught:
        answers.extend(BatchPredictor(nn.Linear(2, 1), preprocess=double).predict(range(5)))
    with pytest.raises(ItemError, match=r"item 0: the model cannot run input float32 \[1, 3\]"):
        list(BatchPredictor(nn.Linear(2, 1)).predict([np.ones(3, np.float32)]))

    assert (len(answers), caught.value.index) == (delivered, bad)


@pytest.mark.parametrize("before", [0, 1, 2, 9])
def test_where_the_items_themselves_break_off_the_answers_before_are_delivered_first(before: int) -> None:
    def items() -> Iterator[Any]:
        yield from (ids(2) for _ in range(before))
        raise OSError("disk gone")

    answers: list[Any] = []
    with pytest.raises(OSError, match="disk gone"):
        answers.extend(BatchPredictor(SUMS, max_batch_size=2, window_batches=2).predict(items()))

    assert len(answers) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": [1.0], "y": [1.0]}, {"x": [1.0]}], "item 1: input 'y' is missing; the model takes 'x', 'y'"),
        ([{"x": [1.0], "y": [1.0]}, {"x": [1.0], "y": [1.0], "z": 1}], "item 1: unknown input 'z'"),
        ([{"x": [1.0], "y": [1.0]}, {"x": [1.0, 2.0], "y": [1.0]}], r"item 1: input 'x' is float32 \[1, 2\]"),
    ],
)
def test_a_row_that_is_not_like_the_others_is_named(rows: list[Any], message: str) -> None:
    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x - y) @ torch.ones(1, 1)

    bulk = BatchPredictor(Difference(), sample={"x": [[1.0]], "y": [[1.0]]})

    with pytest.raises(ItemError, match=message):
        list(bulk.predict(rows))


def test_rows_that_meet_are_run_one_by_one_and_others_in_full_batches() -> None:
    sizes: list[int] = []

    def noted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    alone = BatchPredictor(Returns(lambda x: noted(x) - x.mean(0)), sample=torch.rand(3, 2), max_batch_size=4)
    full = BatchPredictor(Returns(lambda x: noted(x) * 2), sample=torch.rand(3, 2), max_batch_size=4)
    rows = [np.full(2, n, np.float32) for n in range(9)]

    sizes.clear()
    assert [answer.tolist() for answer in alone.predict(rows)] == [[0.0, 0.0]] * 9
    assert sizes == [1] * 9
    sizes.clear()
    assert [answer.tolist() for answer in full.predict(rows)] == [[2.0 * n] * 2 for n in range(9)]
    assert sorted(sizes) == [1, 4, 4]


def test_lists_of_numbers_are_rows_and_postprocess_makes_the_answers() -> None:
    bulk = BatchPredictor(nn.Identity(), sample=[[1.0, 2.0]], postprocess=lambda row: row.tolist())

    assert list(bulk.predict([[1, 2], [3, 4]])) == [[1.0, 2.0], [3.0, 4.0]]
    for one in ("text", {"x": [[1.0, 2.0]]}):
        with pytest.raises(SignatureError, match="items is a"):
            list(bulk.predict(one))


def test_leaving_early_ends_the_threads() -> None:
    for answer in BatchPredictor(SUMS, max_batch_size=1, window_batches=1).predict(ids(2) for _ in range(100)):
        assert answer.tolist() == [2.0]
        break

    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("nograd-prepare", "nograd-device_"))]


def test_tensors_give_tensors_and_nothing_gives_nothing() -> None:
    bulk = BatchPredictor(nn.Linear(2, 1))

    assert list(bulk.predict([])) == []
    assert all(isinstance(answer, Tensor) for answer in bulk.predict(torch.ones(3, 2).unbind()))


def test_progress_is_shown_on_stderr_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    list(BatchPredictor(SUMS, progress=True).predict([ids(2)] * 5))
    list(BatchPredictor(SUMS, progress=True).predict((ids(2) for _ in range(4)), total=4))
    shown = capsys.readouterr()

    assert "5/5" in shown.err
    assert "4/4" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("options", [{"max_batch_size": 0}, {"window_batches": 0}, {"sample": 1}])
def test_settings_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError):
        BatchPredictor(SUMS, **options)


def _rows_of(kind: str) -> tuple[nn.Module, list[Any], Tensor]:
    torch.manual_seed(0)
    x = torch.randn(7, 4)
    linear = nn.Linear(4, 2).eval()
    if kind == "tensor":
        return linear, list(x), linear(x)
    if kind == "tuple":
        return Returns2(), [(row, row * 2) for row in x], x * 3
    return Returns2(), [{"a": row, "b": row * 3} for row in x], x * 4


class Returns2(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_a_batch_of_rows_is_answered_with_one_tensor(kind: str) -> None:
    model, rows, right = _rows_of(kind)

    found = BatchPredictor(model, "cpu", batch_size=3).predict_batch(rows)

    torch.testing.assert_close(found, right.detach())


def test_a_batch_of_lists_gives_arrays_and_postprocess_a_list() -> None:
    model = nn.Linear(2, 1).eval()

    assert BatchPredictor(model, device="cpu").predict_batch([[1.0, 2.0], [3.0, 4.0]]).shape == (2, 1)
    assert BatchPredictor(model, "cpu", postprocess=lambda row: row.shape).predict_batch([torch.ones(2)]) == [(1,)]


def test_rows_of_several_lengths_are_concatenated_where_their_outputs_have_one_shape() -> None:
    torch.manual_seed(0)
    model = LastState().eval()
    rows = [torch.randn(length, 4) for length in (3, 5, 3, 2)]

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.model(x)["last"]
            return found

    found = BatchPredictor(Last(), "cpu").predict_batch(rows)

    right = torch.cat([model(row[None])["last"] for row in rows]).detach()
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    with pytest.raises(UnsupportedError, match=r"output 'steps' has rows of the shapes \[2, 8\] and \[3, 8\]"):
        BatchPredictor(model, "cpu").predict_batch(rows)


def test_rows_that_influence_each_other_are_answered_alone() -> None:
    x = torch.randn(5, 3)

    found = BatchPredictor(Returns(lambda x: x - x.mean(0)), "cpu").predict_batch(list(x))

    assert torch.equal(found, torch.zeros(5, 3))


@pytest.mark.parametrize("bad", [0, 5])
def test_a_batch_of_tensors_names_the_row_that_the_model_refuses(bad: int) -> None:
    rows = list(torch.arange(20, 27)[:, None].repeat(1, 3))
    rows[bad] = torch.full((3,), 13)

    with pytest.raises(ItemError, match=rf"item {bad}: the model raised ValueError.*13 is not served here") as caught:
        BatchPredictor(SUMS, batch_size=4).predict_batch(rows)

    assert caught.value.index == bad


@pytest.mark.parametrize("last", [1000, -1])
def test_a_value_beyond_the_limits_is_found_in_every_batch(last: int) -> None:
    model = nn.Sequential(nn.Embedding(10, 3), nn.Flatten()).eval()
    predictor = BatchPredictor(model, "cpu", batch_size=2, sample=torch.tensor([[1, 2], [3, 4]]))
    rows = [torch.tensor([1, 2])] * 4 + [torch.tensor([1, last])]

    with pytest.raises(ItemError, match=rf"item 4: input 'input' contains {last}; the model takes 0 to 9"):
        predictor.predict_batch(rows)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_rows_of_another_width_are_cast_in_every_batch(kind: torch.dtype) -> None:
    model, rows, _ = _rows_of("tensor")
    wide = [row.to(kind) for row in rows]

    found = BatchPredictor(model, "cpu", batch_size=3).predict_batch(wide)

    torch.testing.assert_close(found, model(torch.stack(wide).float()).detach())


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
def test_answers_of_a_batch_belong_to_the_caller(kind: str) -> None:
    model, rows, right = _rows_of(kind)
    predictor = BatchPredictor(model, "cpu", batch_size=3)

    for found in (predictor.predict_batch(rows), *predictor.predict_each(rows)):
        found.add_(1).requires_grad_()

    torch.testing.assert_close(predictor.predict_batch(rows), right.detach())
    torch.testing.assert_close(torch.stack(predictor.predict_each(rows)), right.detach())


def test_two_batch_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 8 and max_batch_size is 16; they are aliases: give one of them"):
        BatchPredictor(SUMS, batch_size=8, max_batch_size=16)
    assert BatchPredictor(SUMS, batch_size=8, max_batch_size=8).max_batch_size == 8
    with pytest.raises(SignatureError, match="the list of items is empty"):
        BatchPredictor(SUMS).predict_batch([])


@pytest.mark.parametrize("rows", [2, 70])
@pytest.mark.parametrize("call", ["predict_batch", "predict_each"])
def test_answers_can_be_part_of_a_graph_that_autograd_records(call: str, rows: int) -> None:
    predictor = BatchPredictor(nn.Linear(4, 2), "cpu", batch_size=32)

    answers = getattr(predictor, call)(list(torch.rand(rows, 4)))

    weight = torch.ones(2, requires_grad=True)
    (torch.stack(list(answers)) * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


def test_rows_of_one_size_and_two_shapes_are_not_stacked() -> None:
    predictor = BatchPredictor(nn.Linear(4, 2), "cpu", batch_size=2)

    with pytest.raises(ItemError, match="item 5"):
        predictor.predict_batch([*torch.rand(5, 4), torch.rand(2, 2)])


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_batches_are_the_same_whether_rows_are_stacked_at_once_or_not(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.predictors.rows.MAX_BYTES_AT_ONCE", limit)
    model, rows = nn.Linear(4, 2), torch.rand(70, 4)

    answers = BatchPredictor(model, "cpu", batch_size=32).predict_batch(list(rows))

    assert torch.equal(answers, torch.cat([model(rows[start : start + 32]) for start in (0, 32, 64)]))
