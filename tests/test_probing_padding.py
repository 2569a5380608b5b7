"""The probe finds by running which lengths vary, how far, and with what they may be padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd import Predictor, TensorSpec
from nograd.errors import SignatureError
from nograd.probing import probe
from tests.torch_models import LastState, MaskedMean, Returns

torch.manual_seed(0)  # for the models and samples made below; the fixture is for those made in tests


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Positions(nn.Module):
    """Takes at most 12 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(12, 4))

    def forward(self, ids: Tensor) -> Tensor:
        return self.positions[: ids.shape[1]] * ids.unsqueeze(-1).float()


class Filled(nn.Module):
    """Sums embeddings in which only one id is nothing."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=pad)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.embedding(ids).sum(1)
        return found


class Attending(nn.Module):
    """torch's own attention, whose mask is true where padding is."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.attention(x, x, x, key_padding_mask=key_padding_mask, need_weights=False)[0]
        return found


IDS, X = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]), torch.randn(2, 5, 4)


def test_a_mask_that_the_sample_left_out_is_generated_where_it_makes_padding_harmless() -> None:
    model = MaskedMean()
    predictor = Predictor(model, sample={"input_ids": torch.randint(0, 50, (2, 7))})

    assert predictor.signature.batching == "pad"
    assert predictor.signature.inputs[1] == TensorSpec("attention_mask", "int64", ("tokens",), pad_value=0, default=1)
    short, long = np.array([[3, 4]]), np.array([[5, 6, 7, 8, 9]])
    together = nograd.BatchPredictor(predictor).predict([{"input_ids": short[0]}, {"input_ids": long[0]}])
    for answer, ids in zip(together, (short, long), strict=True):
        np.testing.assert_allclose(answer, predictor.predict({"input_ids": ids})[0], atol=1e-6)


def test_padding_that_changes_an_answer_is_found_and_the_length_is_followed() -> None:
    found = probe(LastState(), torch.randn(2, 5, 4))

    assert found.signature.batching == "equal_lengths"
    assert found.findings == ("padding length changes the answers",)
    assert [spec.shape for spec in found.signature.outputs] == [("length", 8), (8,)]


@pytest.mark.parametrize(
    ("model", "sample", "pads"),
    [
        (Filled(3), IDS, {"ids": 3}),
        (MaskedMean(), {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, {"input_ids": 0, "attention_mask": 0}),
        (MaskedMean(), IDS, {"input_ids": 0, "attention_mask": 0}),
        (Attending(), {"x": X, "key_padding_mask": torch.zeros(2, 5).bool()}, {"x": 0, "key_padding_mask": 1}),
        (Attending(), X, {"x": 0, "key_padding_mask": 1}),
        (Returns(lambda x: x.relu().sum(1)), X, {"x": 0}),
        (Returns(lambda x: x.cumsum(1)), X, {"x": 0}),  # a causal model: what follows plays no part, and is cut off
        (nn.Conv2d(3, 4, 1), torch.randn(2, 3, 5, 6), {"input": 0}),
    ],
)
def test_the_padding_that_is_harmless_is_found(model: nn.Module, sample: Any, pads: dict[str, int]) -> None:
    signature = probe(model, sample).signature

    assert signature.batching == "pad", signature.reason
    assert {spec.name: spec.pad_value for spec in signature.inputs} == pads


def test_an_image_net_whose_height_and_width_vary_is_batched_at_equal_sizes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    signature = probe(net, torch.randn(2, 3, 8, 8)).signature

    assert signature.inputs[0].shape == (3, "height", "width")
    assert signature.outputs[0].shape == (4,)
    assert signature.reason == "padding height and width changes the answers"


def test_two_samples_tell_inputs_that_vary_apart_from_such_that_vary_together() -> None:
    def score(query: Tensor, text: Tensor) -> Tensor:
        return query.sum(1) * text.sum(1)

    class Score(nn.Module):
        forward = staticmethod(score)

    three, four = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64)

    together = probe(Score(), (three, three)).signature
    apart = probe(Score(), (three, three), (three, four)).signature

    assert together.lengths == ("tokens",)
    assert apart.lengths == ("tokens", "text_tokens")


def test_a_length_that_goes_in_steps_is_learned_from_two_samples_and_has_no_maximum() -> None:
    pairs = Returns(lambda x: x.view(len(x), -1, 4).sum(1))

    one = probe(pairs, torch.randn(2, 8)).signature
    two = probe(pairs, torch.randn(2, 8), torch.randn(1, 16)).signature

    assert one.inputs[0].shape == (8,)
    assert two.inputs[0].shape == ("length",)
    assert (two.batching, two.max_sizes) == ("pad", {})


@pytest.mark.parametrize("tokens", [12, 11, 7, 5])
def test_a_length_beyond_what_the_model_takes_is_refused_by_number(tokens: int) -> None:
    predictor = Predictor(Positions(), sample=torch.ones(2, tokens, dtype=torch.int64))

    assert predictor.signature.batching == "pad"
    assert predictor.signature.max_sizes == {"tokens": 12}
    with pytest.raises(SignatureError, match=r"input 'ids' has 13 tokens; the model takes 1 to 12"):
        predictor.predict(torch.ones(1, 13, dtype=torch.int64))


def test_an_output_that_follows_in_another_proportion_is_batched_at_equal_lengths_only() -> None:
    signature = probe(nn.Conv1d(3, 4, 3, stride=2), torch.randn(2, 3, 11)).signature

    assert signature.batching == "equal_lengths"
    assert "another proportion" in signature.reason


def test_a_transformer_by_position_gets_its_mask_and_gives_its_own_output_back() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)).eval()
    predictor = Predictor(model, sample=IDS)

    answer = predictor.predict(IDS)

    assert [str(spec) for spec in predictor.signature.inputs] == ["int64 [rows, tokens]"] * 2
    assert (predictor.signature.batching, predictor.signature.inputs[1].name) == ("pad", "attention_mask")
    assert type(answer).__name__ == "BaseModelOutputWithPoolingAndCrossAttentions"
    torch.testing.assert_close(answer.last_hidden_state, model(IDS).last_hidden_state.detach())
