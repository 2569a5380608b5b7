"""Tokenizing: converts strings to a model's integer inputs with the `tokenizers` library (extra: text)."""

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

LONG_TEXT = 4096
"""Characters of a text from which its tokens are computed without the GIL; below that they take a few milliseconds."""


class Tokenize:
    """Converts one text to model inputs: `{"input_ids": int64 [tokens], "attention_mask": int64 [tokens], ...}`.

    Args:
        path: a `tokenizer.json`, a folder that contains one, or a tokenizer object of the `tokenizers` library or of
            transformers (fast). The object is copied.
        names: inputs of the model, from `input_ids`, `attention_mask` and `token_type_ids`.
        max_tokens: maximum tokens per text, including special tokens; longer texts are truncated. None: the limit of the
            folder.
        prompt: text in front of every text.
        truncation_side: end at which longer texts lose tokens, `right` or `left`; None: that of the folder, or `right`.
        lower_case: whether texts become lower case first, in addition to what the tokenizer does.

    Raises:
        MissingExtraError: the `tokenizers` package is not installed.
        ModelLoadError: there is no `tokenizer.json`, or it cannot be read.
        ConfigError: `max_tokens` leaves no room for text, a name or side is unknown, or the tokenizer is not a fast one.
    """

    item = TensorSpec("text", TEXT)
    """Type of one item: a string."""

    def __init__(
        self,
        path: str | Path | Any,
        *,
        names: Sequence[str] = ("input_ids", "attention_mask"),
        max_tokens: int | None = None,
        prompt: str = "",
        truncation_side: str | None = None,
        lower_case: bool = False,
    ) -> None:
        self._fingerprint = ""
        self._tokenizer, known_limit, known_side = _open_tokenizer(path)
        self.prompt = prompt
        self.truncation_side = truncation_side or known_side
        if self.truncation_side not in SIDES:
            raise ConfigError(f"truncation_side is {self.truncation_side!r}; it must be {' or '.join(SIDES)}")
        if lower_case:
            self._tokenizer.normalizer = _with_lower_case(self._tokenizer.normalizer)
        self._fields = [(name, _field(name)) for name in names]
        self.max_tokens = max_tokens if max_tokens is not None else known_limit
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.max_tokens is None:
            self._tokenizer.no_truncation()
        elif self.max_tokens <= special:  # the library would not truncate in this case
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be above {special}, the tokenizer's special tokens")
        else:
            self._tokenizer.enable_truncation(self.max_tokens, direction=self.truncation_side)

    def __call__(self, text: str) -> dict[str, Array]:
        """Return the inputs of one text, without dimension 0.

        Raises:
            SignatureError: `text` is not a string, or contains half a surrogate pair.
        """
        if not isinstance(text, str):
            raise SignatureError(f"the text is {type(text).__name__}; the model takes a string")
        try:
            encoding = self._encode(text)
        except TypeError as error:
            raise SignatureError("the text contains half a surrogate pair; the model takes whole characters") from error
        return {name: np.array(getattr(encoding, field), dtype=np.int64) for name, field in self._fields}

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text after truncation, including special tokens."""
        return len(self._encode(text))

    def _encode(self, text: str) -> Any:
        """Return the tokens of a text; other threads run while a long one is encoded."""
        text = self.prompt + text
        if len(text) < LONG_TEXT:
            return self._tokenizer.encode(text)
        return self._tokenizer.encode_batch([text])[0]  # `encode` holds the GIL: a text of 1 MB for a second

    def renewed(self, *, names: Sequence[str] | None = None, max_tokens: int | None = None) -> Tokenize:
        """Return a tokenizer with other inputs or another limit; None leaves a setting as it is."""
        return Tokenize(
            self._tokenizer, names=names or self.names, max_tokens=max_tokens or self.max_tokens, prompt=self.prompt,
            truncation_side=self.truncation_side,
        )  # fmt: skip

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens at the beginning of every row that belong to the prompt, with special tokens in front of it."""
        if not self.prompt:
            return 0
        encoding = self._tokenizer.encode(self.prompt)
        return len(encoding) - int(encoding.special_tokens_mask[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the created inputs."""
        return tuple(name for name, _ in self._fields)

    def dumps(self) -> str:
        """Return the content of an equivalent `tokenizer.json`."""
        content: str = self._tokenizer.to_str()
        return content

    def fingerprint(self) -> str:
        """Return a digest of tokenizer and settings: tokenizers with equal digests return equal inputs."""
        if not self._fingerprint:
            self._fingerprint = of_value(
                self._tokenizer.to_str(), self._fields, self.max_tokens, self.prompt, self.truncation_side
            ).text
        return self._fingerprint


SIDES = ("right", "left")


def _open_tokenizer(path: Any) -> tuple[Any, int | None, str]:
    """Return a private copy of the tokenizer, the maximum tokens of its model if known, and the side of truncation."""
    if isinstance(path, str | Path):
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        side = read_json(file.parent / "tokenizer_config.json").get("truncation_side", "right")
        return _open(file), folder_limit(file.parent), str(side)
    inner = getattr(path, "backend_tokenizer", path)
    if not hasattr(inner, "to_str") and hasattr(path, "save_pretrained"):
        raise ConfigError(
            f"the tokenizer is {type(path).__name__}, a slow one, written in Python; load the fast one of the model: "
            "transformers.AutoTokenizer.from_pretrained(name, use_fast=True)"
        )
    if not hasattr(inner, "to_str"):
        raise ConfigError(
            f"the tokenizer is {type(path).__name__}; give a tokenizer.json, its folder, or a fast tokenizer object"
        )
    limit = getattr(path, "model_max_length", None)
    known = int(limit) if isinstance(limit, int) and 0 < limit < 1e6 else None
    return type(inner).from_str(inner.to_str()), known, str(getattr(path, "truncation_side", "right"))


def _with_lower_case(normalizer: Any) -> Any:
    """Return a normalizer that makes text lower case and then does what it did before."""
    from tokenizers import normalizers

    return normalizers.Sequence([normalizers.Lowercase(), *([] if normalizer is None else [normalizer])])


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
    except Exception as error:  # the library raises bare Exception for unreadable files
        raise ModelLoadError(f"{file} is not a tokenizer file: {error}") from error


def _field(name: str) -> str:
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    if name not in fields:
        raise ConfigError(f"tokenizer output {name!r} is unknown; allowed are {', '.join(map(repr, fields))}")
    return fields[name]


def read_json(file: Path) -> Mapping[str, Any]:
    """Read a JSON object from a file; return an empty one if the file does not exist."""
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
"""transformers models whose positions start after the padding index. `max_position_embeddings` counts all entries,
including the unused ones up to the padding index.
"""


def _positions(config: Mapping[str, Any]) -> Any:
    """Return the number of tokens that fit in a model's position table."""
    entries = config.get("max_position_embeddings")
    if isinstance(entries, int) and config.get("model_type") in POSITIONS_AFTER_PADDING:
        padding = config.get("pad_token_id", 1)
        return entries - (padding if isinstance(padding, int) else 1) - 1
    return entries


def folder_limit(folder: Path) -> int | None:
    """Return the maximum tokens of a model folder: the smallest limit in its files; None if there is none."""
    said = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        _positions(read_json(folder / "config.json")),
    ]
    limits = [int(limit) for limit in said if isinstance(limit, int | float) and 0 < limit < 1e6]
    return min(limits, default=None)
