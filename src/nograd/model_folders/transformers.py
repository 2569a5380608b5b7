"""Loader for folders saved by transformers or sentence-transformers, as a Predictor that takes text. Extra: demo."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nograd.errors import MissingExtraError, ModelLoadError
from nograd.predictors.predictor import Predictor
from nograd.text.tokenizing import Tokenize, read_json

__all__ = ["is_transformers_folder", "load_folder"]

SAMPLE = (
    "A man is eating food.",
    "The committee will publish its findings, together with the evidence they rest on, before the end of the month.",
)
"""Two texts of different lengths, so that the probe finds the varying dimension."""


def is_transformers_folder(folder: Path) -> bool:
    """Return whether a folder contains a model's `config.json`."""
    return (folder / "config.json").is_file()


def load_folder(folder: Path, *, device: str = "auto") -> Predictor:
    """Return a Predictor for the model in a folder. It takes text and returns the model's outputs, or embeddings for a sentence
    encoder.

    Raises:
        MissingExtraError: torch, transformers or tokenizers is not installed.
        ModelLoadError: the folder cannot be loaded.
    """
    model = _model(folder)
    parameters = inspect.signature(model.forward).parameters
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in parameters or name == "input_ids"]
    if _pooling(folder):
        names = ["input_ids", "attention_mask"]
        model = _embedder(model, folder)
    return _cut_to_limit(Predictor(model, device=device, preprocess=Tokenize(folder, names=names), sample=SAMPLE), folder)


def _cut_to_limit(predictor: Predictor, folder: Path) -> Predictor:
    """Return a predictor whose tokenizer truncates at the probed limit, if the folder's files allow more."""
    tokenize, signature = predictor.preprocess, predictor.signature
    spec = next(spec for spec in signature.inputs if spec.name == "input_ids")
    limits = [limit for dim in spec.varying if (limit := signature.size_range(dim)[1]) is not None]
    if not isinstance(tokenize, Tokenize) or not limits or (tokenize.max_tokens or limits[0] + 1) <= limits[0]:
        return predictor
    shorter = Tokenize(folder, names=tokenize.names, max_tokens=limits[0])
    return Predictor(predictor.backend, preprocess=shorter, sample=SAMPLE)


def _model(folder: Path) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # load only from the folder, never download
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingExtraError(str(error.name), "demo") from None
    config = read_json(folder / "config.json")
    names = config.get("architectures") or ["AutoModel"]
    kind: Any = transformers.AutoModel if _pooling(folder) else getattr(transformers, str(names[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        kind = transformers.AutoModel  # only accept names of models, no other classes of transformers
    transformers.utils.logging.disable_progress_bar()
    try:
        return kind.from_pretrained(str(folder), trust_remote_code=False).eval()
    except Exception as error:  # report any error of the library with the folder's name
        raise ModelLoadError(f"transformers cannot load {folder}: {type(error).__name__}: {error}") from error


def _pooling(folder: Path) -> Mapping[str, Any]:
    return read_json(folder / "1_Pooling" / "config.json")


def _embedder(encoder: Any, folder: Path) -> Any:
    """Return encoder, pooling and normalisation as one module, as listed in the folder's `modules.json`."""
    from nograd.text.pooling import MeanPooled

    pooling = _pooling(folder)
    if not pooling.get("pooling_mode_mean_tokens"):
        raise ModelLoadError(f"{folder} pools with {pooling}; nograd reads mean pooling")
    listed = (folder / "modules.json").read_text("utf-8") if (folder / "modules.json").is_file() else ""
    return MeanPooled(encoder, normalize="Normalize" in listed).eval()
