"""Cache keys: a digest of everything that an answer depends on.

    key = BLAKE2b-128 (RFC 7693) of: fingerprint of the model, requested outputs, parameters, and the input:
          for arrays, name, dtype, shape and data in C order; for text, its UTF-8

Inputs that are equal for the model may have different keys, but never the reverse: a miss costs time, a wrong hit is a wrong
answer. -0.0 and 0.0 have different keys (1/x distinguishes them), as have NaNs of different payloads, and float32 1 and float64
1. Text is not normalised: "é" as one character and as two have different keys, because a tokenizer may produce different
tokens. The memory layout of an array (strides, storage, byte order) does not matter. Each part is preceded by its length, so
that different inputs never produce the same bytes. The digest is cryptographic, so that collisions cannot be constructed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np

from nograd.core.tensors import Array, Batch
from nograd.errors import SignatureError
from nograd.runtime.fingerprint import of_value

__all__ = ["KEY_BYTES", "Keys"]

KEY_BYTES = 16
"""2^64 entries until two keys collide by chance."""

_VERSION = b"nograd key 1"

_KNOWN_LAYOUTS = 1024
"""Maximum number of layouts with cached digests; a model sees a few, one per length."""


class Keys:
    """Creates keys for one model.

    Args:
        fingerprint: fingerprint of model, pre- and postprocessing; see `nograd.runtime.fingerprint`.
        outputs: names of the requested outputs, if not all.
        parameters: all other parameters that change the answer, by name (`nograd.runtime.fingerprint`). If the content of a
            value cannot be read, its keys are valid for this object only.
    """

    def __init__(self, fingerprint: str, *, outputs: Sequence[str] = (), parameters: Mapping[str, Any] | None = None) -> None:
        self.fingerprint = fingerprint
        self._base = blake2b(digest_size=KEY_BYTES)
        described = of_value(sorted((parameters or {}).items())).text.encode()
        for part in (_VERSION, fingerprint.encode(), _join_parts(sorted(outputs)), described):
            self._base.update(_framed(part))
        self._layouts: dict[tuple[str, tuple[Any, ...]], blake2b] = {}

    def of_rows(self, batch: Batch) -> list[bytes]:
        """Return the key of each row of a checked batch."""
        named = sorted(batch.items()) if len(batch) > 1 else list(batch.items())
        base = self._of_layout("row", tuple((name, array.dtype, array.shape[1:]) for name, array in named))
        if all(len(array) == 1 and _is_plain(array) for _, array in named):
            hasher = base.copy()
            for _, array in named:
                hasher.update(array.data)
            return [hasher.digest()]
        columns = [_rows_data(array) for _, array in named]
        keys = []
        for parts in zip(*columns, strict=True):
            hasher = base.copy()
            for part in parts:
                hasher.update(part)
            keys.append(hasher.digest())
        return keys

    def of_batch(self, batch: Batch) -> bytes:
        """Return the key of a batch whose rows depend on each other."""
        named = sorted(batch.items())
        hasher = self._of_layout("batch", tuple((name, array.dtype, array.shape) for name, array in named)).copy()
        for _, array in named:
            for part in _rows_data(array):
                hasher.update(part)
        return hasher.digest()

    def of_text(self, text: str) -> bytes:
        """Return the key of a text, without normalisation."""
        hasher = self._base.copy()
        hasher.update(b"text" + text.encode("utf-8", "surrogatepass"))
        return hasher.digest()

    def _of_layout(self, kind: str, specs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> blake2b:
        """Return the digest of everything but the data; most requests share it."""
        found = self._layouts.get((kind, specs))
        if found is None:
            found = self._base.copy()
            found.update(_join_parts([kind]))
            for name, dtype, shape in specs:
                found.update(_framed(_join_parts([name, dtype.newbyteorder("=").name, *map(str, shape)])))
            if len(self._layouts) < _KNOWN_LAYOUTS:
                self._layouts[kind, specs] = found
        return found


def _is_plain(array: Array) -> bool:
    """Return whether the array's memory is its content in C order and native byte order, which a hash reads as it is."""
    return array.dtype.isbuiltin == 1 and array.flags.c_contiguous and not array.dtype.hasobject


def _rows_data(array: Array) -> Sequence[Any]:
    """Return each row's content in C order and native byte order; for text, each string with its length."""
    if array.dtype.hasobject:
        texts = array.reshape(len(array), prod(array.shape[1:]))
        return [b"".join(map(_text_data, row)) for row in texts]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(array).reshape(len(array), prod(array.shape[1:])).view(np.uint8)  # type: ignore[return-value]


def _text_data(text: Any) -> bytes:
    """Return a string's content. Bytes are distinguished from strings of the same characters."""
    if isinstance(text, str):
        return b"s" + _framed(text.encode("utf-8", "surrogatepass"))
    if isinstance(text, bytes):
        return b"b" + _framed(text)
    raise SignatureError(f"the array contains {type(text).__name__}; keys are made from numbers, strings and bytes")


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def _join_parts(parts: Sequence[str]) -> bytes:
    return b"".join(_framed(part.encode()) for part in parts)
