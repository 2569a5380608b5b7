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
from nograd.errors import ConfigError, ItemError


class LastState(nn.Module):
    """Padding would change its answer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(2, 4, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        steps = self.lstm(x)[0]
        return {"steps": steps, "last": steps[:, -1]}


class Sums(nn.Module):
    """Sums of ids: padding with 0 is harmless. Refuses 13."""

    def forward(self, ids: Tensor) -> Tensor:
        if (ids == 13).any():
            raise ValueError("13 is not served here")
        return ids.sum(1, keepdim=True).float()


LAST = Predictor(LastState(), sample=torch.randn(2, 5, 2))
SUMS = Predictor(Sums(), sample=torch.ones(2, 5, dtype=torch.int64))


def ids(length: int, value: int = 1) -> Any:
    return np.full(length, value, dtype=np.int64)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 8), st.integers(1, 3))
def test_answers_come_in_order_and_equal_one_by_one(lengths: list[int], max_batch_size: int, windows: int) -> None:
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((length, 2), dtype=np.float32) for length in lengths]

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
    taken = [next(answers)[0] for _ in range(20)]
    answers.close()  # type: ignore[attr-defined]

    assert taken == [float(1 + n % 5) for n in range(1, 21)]
    assert read <= 20 + 4 * 8
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


def test_tensors_give_tensors_and_nothing_gives_nothing() -> None:
    bulk = BatchPredictor(nn.Linear(2, 1))

    assert list(bulk.predict([])) == []
    assert all(isinstance(answer, Tensor) for answer in bulk.predict(torch.ones(3, 2).unbind()))


def test_progress_is_shown_on_stderr_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    list(BatchPredictor(SUMS, progress=True).predict([ids(2)] * 5))

    assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"max_batch_size": 0}, {"window_batches": 0}, {"sample": 1}])
def test_settings_that_cannot_be_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError):
        BatchPredictor(SUMS, **options)
