"""Tokenizing: strings to a model's integer inputs, with the `tokenizers` library (extra: text)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ConfigError, MissingExtraError, ModelLoadError, SignatureError
from nograd.runtime.fingerprint import of_value

__all__ = ["Tokenize"]


class Tokenize:
    """Makes a model's inputs of one text: `{"input_ids": int64 [tokens], "attention_mask": int64 [tokens], ...}`.

    Args:
        path: a `tokenizer.json`, or a folder that holds one; or a tokenizer: the `tokenizers` library's own, or a fast one of
            transformers. It is copied.
        names: which inputs the model takes, of `input_ids`, `attention_mask` and `token_type_ids`.
        max_tokens: longer texts are cut to this many tokens, special ones included; None takes the folder's own limit.

    Raises:
        MissingExtraError: the `tokenizers` package is not installed.
        ModelLoadError: there is no `tokenizer.json`, or it cannot be read.
        ConfigError: `max_tokens` leaves no room for text, or a name is not known.
    """

    item = TensorSpec("text", TEXT)
    """What one item is: a string."""

    def __init__(
        self, path: str | Path | Any, *, names: Sequence[str] = ("input_ids", "attention_mask"), max_tokens: int | None = None
    ) -> None:
        self._fingerprint = ""
        self._tokenizer, known_limit = _opened(path)
        self._fields = [(name, _field(name)) for name in names]
        self.max_tokens = max_tokens if max_tokens is not None else known_limit
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.max_tokens is None:
            self._tokenizer.no_truncation()
        elif self.max_tokens <= special:  # the library would then not cut at all
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be above {special}, the tokenizer's special tokens")
        else:
            self._tokenizer.enable_truncation(self.max_tokens)

    def __call__(self, text: str) -> dict[str, Array]:
        """Return the inputs of one text, without dimension 0.

        Raises:
            SignatureError: `text` is not a string of whole characters.
        """
        if not isinstance(text, str):
            raise SignatureError(f"the text is {type(text).__name__}; the model takes a string")
        try:
            encoding = self._tokenizer.encode(text)
        except TypeError as error:
            raise SignatureError("the text holds half a surrogate pair; the model takes whole characters") from error
        return {name: np.array(getattr(encoding, field), dtype=np.int64) for name, field in self._fields}

    def num_tokens(self, text: str) -> int:
        """Return how many tokens the model reads of a text: special ones included, and none beyond the limit."""
        return len(self._tokenizer.encode(text))

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that it makes."""
        return tuple(name for name, _ in self._fields)

    def dumps(self) -> str:
        """Return the content of a `tokenizer.json` that gives the same tokenizer."""
        content: str = self._tokenizer.to_str()
        return content

    def fingerprint(self) -> str:
        """Return a digest of the tokenizer and the settings: texts with one answer here have one everywhere."""
        if not self._fingerprint:
            self._fingerprint = of_value(self._tokenizer.to_str(), self._fields, self.max_tokens).text
        return self._fingerprint


def _opened(path: Any) -> tuple[Any, int | None]:
    """Return a tokenizer that is ours alone, and the most tokens that its model takes, where that is known."""
    if isinstance(path, str | Path):
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        return _open(file), folder_limit(file.parent)
    inner = getattr(path, "backend_tokenizer", path)
    if not hasattr(inner, "to_str") and hasattr(path, "save_pretrained"):
        raise ConfigError(
            f"the tokenizer is {type(path).__name__}, a slow one, written in Python; load the fast one of the model: "
            "transformers.AutoTokenizer.from_pretrained(name, use_fast=True)"
        )
    if not hasattr(inner, "to_str"):
        raise ConfigError(
            f"the tokenizer is {type(path).__name__}; give a tokenizer.json, the folder of one, or a fast tokenizer object"
        )
    limit = getattr(path, "model_max_length", None)
    return type(inner).from_str(inner.to_str()), int(limit) if isinstance(limit, int) and 0 < limit < 1e6 else None


def _open(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "text") from None
    if not file.is_file():
        raise ModelLoadError(
            f"there is no {file.name} in {file.parent}; save the tokenizer in its fast form (save_pretrained writes it)"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise ModelLoadError(f"{file} is not a tokenizer file: {error}") from error


def _field(name: str) -> str:
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    if name not in fields:
        raise ConfigError(f"tokenizer output {name!r} is unknown; allowed are {', '.join(map(repr, fields))}")
    return fields[name]


def read_json(file: Path) -> Mapping[str, Any]:
    """Return a JSON object from a file; an empty one where there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{file} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


POSITIONS_AFTER_PADDING = frozenset(
    (
        "altclip_text_model", "bridgetower_text_model", "camembert", "clap_text_model", "data2vec-text", "ibert", "layoutlmv3",
        "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
        "xmod",
    )
)  # fmt: skip
"""transformers' models whose positions start after the padding index. `max_position_embeddings` counts all entries,
and those up to the padding index belong to no token."""


def _positions(config: Mapping[str, Any]) -> Any:
    """Return how many tokens the position table of a model has room for."""
    entries = config.get("max_position_embeddings")
    if isinstance(entries, int) and config.get("model_type") in POSITIONS_AFTER_PADDING:
        padding = config.get("pad_token_id", 1)
        return entries - (padding if isinstance(padding, int) else 1) - 1
    return entries


def folder_limit(folder: Path) -> int | None:
    """Return the most tokens that a model folder allows: the smallest number in its files; None if they hold none."""
    said = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        _positions(read_json(folder / "config.json")),
    ]
    limits = [int(limit) for limit in said if isinstance(limit, int | float) and 0 < limit < 1e6]
    return min(limits, default=None)
