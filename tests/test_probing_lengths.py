"""Lengths that two samples prove, and padding that the user states or that padded rows of the sample show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import nograd
from nograd import Predictor, SampleWarning
from nograd.errors import SignatureError
from nograd.probing import probe
from tests.torch_models import MaskedMean, Returns


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Packed(nn.Module):
    """A recurrent net over packed rows: it refuses a length above the input's."""

    def __init__(self, *, steps: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)
        self.steps = steps

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        steps, last = self.rnn(packed)
        found: Tensor = pad_packed_sequence(steps, batch_first=True, total_length=x.shape[1])[0] if self.steps else last[0]
        return found


class Ended(nn.Module):
    """Reads the state at the one token 2 of each row, as BART's classifier does at its last `</s>`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 4, padding_idx=1)

    def forward(self, ids: Tensor) -> Tensor:
        ends = ids == 2
        if not bool((ends.sum(1) == 1).all()):
            raise ValueError("every row must have one end token")
        words: Tensor = self.words(ids)
        return words.sum(1) + words[ends]


@pytest.mark.parametrize("steps", [False, True])
def test_a_packed_net_learns_its_length_from_two_samples_and_pads(steps: bool) -> None:
    model = Packed(steps=steps)
    long, short = torch.rand(1, 6, 4), torch.rand(1, 3, 4)

    signature = probe(model, (long, torch.tensor([6])), (short, torch.tensor([3]))).signature

    assert [spec.shape for spec in signature.inputs] == [("length", 4), ()]
    assert signature.outputs[0].shape == (("length", 3) if steps else (3,))
    assert signature.batching == "pad", signature.reason


def test_rows_of_a_packed_net_are_answered_together_as_alone() -> None:
    predictor = Predictor(Packed(steps=False), sample=(torch.rand(2, 5, 4), torch.tensor([5, 5])))
    rows: list[dict[str, Any]] = [{"x": np.random.default_rng(n).random((n, 4), np.float32), "n": np.int64(n)} for n in (5, 5)]

    together = nograd.BatchPredictor(predictor).predict(rows)

    for answer, row in zip(together, rows, strict=True):
        alone = predictor.predict({"x": row["x"][None], "n": np.asarray([row["n"]])})
        np.testing.assert_allclose(answer, alone[0], atol=1e-6)


def test_a_token_at_the_end_that_a_cut_sample_lacks_does_not_fix_the_length() -> None:
    signature = probe(Ended(), torch.tensor([[5, 6, 7, 2], [8, 9, 4, 2]]), torch.tensor([[5, 6, 7, 8, 9, 2]])).signature

    assert signature.inputs[0].shape == ("tokens",)
    assert (signature.batching, signature.inputs[0].pad_value) == ("pad", 1)


def test_a_bart_classifier_is_padded() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BartConfig(
        vocab_size=60, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=32, num_labels=3, use_cache=False,
    )  # fmt: skip
    model = transformers.BartForSequenceClassification(config).eval()
    samples = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in (
        torch.tensor([[0, 11, 12, 13, 14, 2], [0, 21, 22, 23, 24, 2]]), torch.tensor([[0, 31, 32, 2]])
    )]  # fmt: skip

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bart = model
            self.config = config

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            found: Tensor = self.bart(input_ids=input_ids, attention_mask=attention_mask).logits
            return found

    signature = probe(Logits(), *samples).signature

    assert signature.inputs[0].shape == ("tokens",)
    assert (signature.batching, signature.inputs[0].pad_value) == ("pad", 1), signature.reason


class TwoIds(nn.Module):
    """Sums embeddings of words and of kinds; each has its own padding, and a mask that is true there."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 4)
        self.kinds = nn.Embedding(30, 4)

    def forward(self, word_id: Tensor, kind_id: Tensor, pad_mask: Tensor) -> Tensor:
        kept = (word_id != 777) & (kind_id != 5) & ~pad_mask
        found: Tensor = ((self.words(word_id) + self.kinds(kind_id)) * kept.unsqueeze(-1)).sum(1)
        return found / kept.sum(1, keepdim=True).clamp(min=1) + 0 * self._checked(word_id, kind_id, pad_mask)

    def _checked(self, word_id: Tensor, kind_id: Tensor, pad_mask: Tensor) -> Tensor:
        """The three agree, or the model refuses."""
        if not torch.equal(word_id == 777, pad_mask) or not torch.equal(kind_id == 5, pad_mask):
            raise ValueError("padding differs between the inputs")
        return word_id[:, :1].float()


class Positions(nn.Module):
    """Counts from a padding value of each input, without a mask; it looks nothing up."""

    def forward(self, word_id: Tensor, char_id: Tensor) -> Tensor:
        return ((word_id - 9) * 2).sum(1) + (char_id - 4).sum(1)


PADDED = {"word_id": torch.tensor([[3, 5, 9, 9], [1, 2, 3, 6]]), "char_id": torch.tensor([[1, 2, 4, 4], [1, 2, 3, 7]])}
FULL = {"word_id": torch.tensor([[3, 5, 8, 1], [1, 2, 3, 6]]), "char_id": torch.tensor([[1, 2, 8, 6], [1, 2, 3, 7]])}


def pads_of(signature: nograd.Signature) -> dict[str, float]:
    return {spec.name: spec.pad_value for spec in signature.inputs}


def test_different_padding_values_are_read_from_padded_rows() -> None:
    assert probe(Positions(), FULL).signature.batching == "equal_lengths"

    signature = probe(Positions(), PADDED).signature

    assert (signature.batching, pads_of(signature)) == ("pad", {"word_id": 9, "char_id": 4})


def test_padding_of_one_place_is_read_if_a_mask_starts_with_it() -> None:
    sample = {
        "word_id": torch.tensor([[3, 5, 8, 777], [1, 2, 3, 6]]),
        "kind_id": torch.tensor([[1, 2, 8, 5], [1, 2, 3, 7]]),
        "pad_mask": torch.tensor([[False, False, False, True], [False, False, False, False]]),
    }

    signature = probe(TwoIds(), sample).signature

    assert (signature.batching, pads_of(signature)) == ("pad", {"word_id": 777, "kind_id": 5, "pad_mask": 1})


def test_stated_padding_is_used_if_it_leaves_the_answers_unchanged() -> None:
    predictor = Predictor(Positions(), sample=FULL, padding={"word_id": 9, "char_id": 4})

    assert (predictor.signature.batching, pads_of(predictor.signature)) == ("pad", {"word_id": 9, "char_id": 4})
    short, long = {"word_id": [1, 2], "char_id": [3, 4]}, {"word_id": [1, 2, 3], "char_id": [3, 4, 5]}
    together = nograd.BatchPredictor(predictor).predict([short, long])
    assert [int(answer) for answer in together] == [
        int(predictor.predict({k: [v] for k, v in row.items()})[0]) for row in (short, long)
    ]


def test_stated_padding_that_changes_answers_is_reported() -> None:
    signature = probe(Positions(), FULL, padding={"word_id": 8, "char_id": 4}).signature

    assert signature.batching == "equal_lengths"
    assert signature.reason == (
        "padding tokens changes the answers, also with the stated values: word_id with 8, char_id with 4"
    )


def test_a_floating_input_is_padded_with_what_the_user_states() -> None:
    lowest = Returns(lambda x: x.amax(1))

    assert probe(lowest, torch.rand(2, 5, 3)).signature.batching == "equal_lengths"
    assert probe(lowest, torch.rand(2, 5, 3), padding={"x": float("-inf")}).signature.batching == "pad"


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"words": 1}, "padding names the input 'words'; the model takes 'input_ids'"),
        ({"input_ids": 50}, "padding of input 'input_ids' is 50; the model takes the integers 0 to 49"),
        ({"input_ids": 0.5}, "padding of input 'input_ids' is 0.5; the model takes the integers 0 to 49"),
        ({"input_ids": [0]}, "padding of input 'input_ids' is a list; it must be one number"),
    ],
)
def test_padding_that_the_model_cannot_have_is_refused_in_one_sentence(padding: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        probe(MaskedMean(), {"input_ids": torch.tensor([[5, 6, 7]])}, padding=padding)

    assert str(caught.value) == message


def test_padding_of_an_input_whose_shape_does_not_vary_is_reported() -> None:
    with pytest.warns(SampleWarning, match="padding is stated for input 'x', whose shape does not vary"):
        probe(Returns(lambda x: x.view(len(x), 4)), torch.rand(2, 4), padding={"x": 1})
