"""A size beyond the model's limit is refused in the same sentence by every front, and the largest size is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd import BatchPredictor, DynamicBatcher, Predictor
from nograd.backends.onnx.export import export_to_onnx
from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import InputSizeError, ItemError
from nograd.probing import probe
from tests.fakes import OUTPUT, Fake
from tests.grpc_site import GrpcSite, raw_request

LIMIT = 12
SENTENCE = "input 'ids' has 13 tokens; the model takes 1 to 12"


class Positions(nn.Module):
    """The sum of words and positions over the places that are not 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(20, 4), nn.Embedding(LIMIT, 4)

    def forward(self, ids: Tensor) -> Tensor:
        found = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        total: Tensor = (found * (ids != 0).unsqueeze(-1)).sum(1)
        return total


def of_length(tokens: int) -> Tensor:
    return torch.arange(1, tokens + 1)[None] % 19 + 1


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(Positions().eval(), sample={"ids": torch.cat([of_length(5), of_length(5).flip(1)])})


async def _batched(predictor: Predictor, *inputs: Tensor) -> list[Any]:
    async with DynamicBatcher(predictor, max_batch_size=8) as batcher:
        return await asyncio.gather(*(batcher.predict({"ids": each}) for each in inputs))


FRONTS: dict[str, Callable[[Predictor, Tensor], Any]] = {
    "Predictor": lambda predictor, ids: predictor.predict({"ids": ids}),
    "BatchPredictor": lambda predictor, ids: list(BatchPredictor(predictor).predict([{"ids": ids[0]}])),
    "DynamicBatcher": lambda predictor, ids: asyncio.run(_batched(predictor, ids)),
}


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_refuses_a_size_beyond_the_limit_in_one_sentence(front: str, predictor: Predictor) -> None:
    FRONTS[front](predictor, of_length(LIMIT))
    with pytest.raises((InputSizeError, ItemError, ValueError), match=SENTENCE):
        FRONTS[front](predictor, of_length(LIMIT + 1))


def test_rows_of_different_lengths_up_to_the_limit_share_a_padded_run_and_keep_their_answers(predictor: Predictor) -> None:
    rows = [of_length(length) for length in (1, 5, LIMIT, 3)]

    assert predictor.signature.batching == "pad"
    answers = asyncio.run(_batched(predictor, *rows))
    model = Positions().eval()
    for given, answer in zip(rows, answers, strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(torch.as_tensor(np.asarray(answer)), model(given), rtol=1e-5, atol=1e-6)


def test_an_onnx_file_answers_at_the_limit_and_refuses_beyond_it(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "positions.onnx"
    export_to_onnx(Positions().eval(), {"ids": torch.cat([of_length(5), of_length(5).flip(1)])}, path)
    loaded = nograd.load(str(path))

    assert loaded.signature.max_sizes == {"tokens": LIMIT}
    ids = of_length(LIMIT).numpy()
    np.testing.assert_allclose(np.asarray(loaded.predict({"ids": ids})), np.asarray(predictor.predict({"ids": ids})), rtol=1e-4)
    with pytest.raises(ValueError, match=SENTENCE):
        loaded.predict({"ids": of_length(LIMIT + 1).numpy()})


def test_grpc_answers_invalid_argument_beyond_the_limit() -> None:
    spec = TensorSpec("ids", "int64", ("tokens",))
    model = Fake(
        lambda batch: {"output": np.zeros((len(batch["ids"]), 2), np.float32)},
        Signature((spec,), (OUTPUT,), max_sizes={"tokens": LIMIT}),
    )
    request = raw_request("words", {"ids": np.ones((1, LIMIT + 1), np.int64)})
    with GrpcSite({"words": model}) as site:
        code, sentence = site.refusal(request)

    assert code == "INVALID_ARGUMENT"
    assert SENTENCE in sentence


class Cube(nn.Module):
    """A view of size cubed: only its copy is work."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None, None].expand(-1, -1, x.shape[1], x.shape[1])


@pytest.mark.parametrize("size", [4, 7])
def test_a_budget_that_ends_while_outputs_are_copied_is_no_limit(size: int) -> None:
    assert probe(Cube(), torch.rand(2, size)).signature.max_sizes == {}
