"""Predictors that remember: what was asked before is answered without the model. Answers stay right: see `nograd.caching`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.caching import Cache, CacheStatistics, MemoryCache
from nograd.caching.answers import Answers, KeyMaker
from nograd.caching.tiers import TieredCache
from nograd.caching.units import Texts
from nograd.errors import ConfigError, SignatureError
from nograd.inputs import is_module
from nograd.predictor import Predictor
from nograd.tensors import Array
from nograd.text import Tokenize

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CachedEmbedder", "CachedPredictor", "RedisCachedPredictor"]

NEAR_BYTES = 64 * 2**20

SAMPLE = ("A short one.", "And a text that is longer than the other, so that the probe sees what varies.")
"""Two texts of different lengths teach the probe what varies."""


class CachedPredictor(Predictor):
    """A Predictor that runs only rows it has not seen.

    Rows are known by content, after `preprocess` and before they are padded; each is computed once, however many threads ask
    for it. Weights that change, also in place, make all that was kept before unreachable. A model that gives different answers
    to the same input is run every time; one whose rows depend on each other is answered for whole batches only. Half
    precision is answered in float32.

    A `DynamicBatcher` over it runs all that it is given; `nograd serve` has a cache of its own in front of its batcher.

    >>> import torch
    >>> predictor = CachedPredictor(Predictor(torch.nn.Linear(4, 3), sample=torch.zeros(2, 4)))
    >>> for _ in range(2):
    ...     shape = predictor.predict(torch.ones(1, 4)).shape
    >>> predictor.cache.statistics().hits
    1

    Args:
        predictor: what runs; it must know its model's inputs (`sample=`).
        cache: where answers are kept; default: 256 MiB of memory.
        version: names the model where its fingerprint alone cannot (see `Predictor.fingerprint`); change it with the model.

    Raises:
        UnsupportedError: nothing is known of the model yet.
    """

    def __init__(self, predictor: Predictor, cache: Cache | None = None, *, version: str = "") -> None:
        if not isinstance(predictor, Predictor):
            raise ConfigError(
                f"predictor is {type(predictor).__name__}; give a nograd.Predictor, over a model: Predictor(model)"
            )
        cache = _checked(cache)
        example = predictor.example
        super().__init__(
            predictor.backend,
            preprocess=predictor.preprocess,
            postprocess=predictor.postprocess,
            sample=[example] if predictor.has_preprocess else example,
            item=predictor.item,
        )
        self.cache = cache
        self._answers = Answers(self.cache, KeyMaker(predictor.backend.fingerprint, version))


class RedisCachedPredictor(CachedPredictor):
    """A CachedPredictor whose answers other processes and machines find, too; this process keeps the popular ones itself.

    A Redis that is away, slow or wrong costs one time-out, at most, every few seconds, and no answer.

    Args:
        predictor: what runs; it must know its model's inputs (`sample=`).
        url: `redis://host:6379/0`, `rediss://` for TLS, `redis+cluster://` for a cluster; see `nograd.caching.redis`.
        ttl_s: seconds that an answer lives there, and in this process from when it came here; None: for ever.
        timeout_s: seconds that one call to Redis may take.
        near_bytes: of the answers kept in this process.
        version: names the model where its fingerprint alone cannot; change it with the model.

    Raises:
        MissingExtraError: redis-py is not installed.
        ConfigError: the URL cannot be read, or a setting is out of its range.
        UnsupportedError: nothing is known of the model yet.
    """

    def __init__(
        self,
        predictor: Predictor,
        url: str,
        ttl_s: float | None = 7 * 86400.0,
        *,
        timeout_s: float = 0.05,
        near_bytes: int = NEAR_BYTES,
        version: str = "",
    ) -> None:
        from nograd.caching.redis import RedisCache

        far = RedisCache(url, ttl_s=ttl_s, timeout_s=timeout_s)
        super().__init__(predictor, TieredCache(MemoryCache(near_bytes, ttl_s=ttl_s), far), version=version)
        if reason := self.backend.fingerprint().private_because if not version else "":
            warnings.warn(f"no other process will find these answers: {reason}; name the model with version=", stacklevel=2)


class CachedEmbedder:
    """Texts to vectors; only texts that were not seen are run, batched by length.

    >>> import nograd
    >>> embedder = CachedEmbedder(nograd.load("minilm"))  # doctest: +SKIP
    >>> embedder.embed("A man is eating food.").shape  # doctest: +SKIP
    (384,)

    Args:
        model: a Predictor that takes text and gives one floating vector for each (`nograd.load` makes one of a sentence
            encoder's folder); or an encoder, whose tokens' vectors are averaged under the attention mask.
        tokenizer: for an encoder: a `nograd.text.Tokenize`, or what that takes: a `tokenizer.json`, a folder, a fast tokenizer.
        cache: where vectors are kept; default: 256 MiB of memory.
        normalize: whether vectors get unit length. (A model that normalises does so in any case.)
        version: names the model where its fingerprint alone cannot; change it with the model.

    Raises:
        ConfigError: an encoder without a tokenizer, a predictor with one, or a model that gives no vectors.
    """

    def __init__(
        self,
        model: Predictor | nn.Module,
        tokenizer: Any = None,
        *,
        cache: Cache | None = None,
        normalize: bool = True,
        version: str = "",
    ) -> None:
        self._predictor = _text_predictor(model, tokenizer)
        self._output, self.size = _vector(self._predictor)
        self.cache = _checked(cache)
        self._normalize = normalize
        self._keys = KeyMaker(self._predictor.fingerprint, version)
        self._answers = Answers(self.cache, self._keys)

    def embed(self, text: str) -> Array:
        """Return the vector of a text, float32 `[size]`; the caller's own, to be changed at will.

        Raises:
            ItemError: the text cannot be tokenized.
            ModelError: the model raised.
        """
        if not isinstance(text, str):
            raise SignatureError(f"the text is {type(text).__name__}; embed takes one string, embed_many a list")
        vector: Array = self.embed_many([text])[0]
        return vector

    def embed_many(self, texts: Sequence[str]) -> Array:
        """Return the vectors of texts, float32 `[len(texts), size]`, in their order; equal texts are run once.

        Raises:
            SignatureError: `texts` is one string, or holds what is no string.
            ItemError: a text cannot be tokenized.
            ModelError: the model raised.
        """
        listed: list[Any] = [] if isinstance(texts, str) else list(texts)
        kinds = [type(texts)] if isinstance(texts, str) else [type(text) for text in listed if not isinstance(text, str)]
        wrong = next(iter(kinds), None)
        if wrong is not None:
            raise SignatureError(f"the texts are, or hold, {wrong.__name__}; embed_many takes a list of strings")
        predictor = self._predictor
        vectors = np.empty((len(listed), self.size), np.float32)
        if not listed:
            return vectors
        if predictor.signature.repeatable:
            units = Texts(listed, self._keys.current(), predictor.prepare_item, predictor.signature)
            outputs = self._answers.of_units(units, predictor.run_parts)
        else:
            outputs = predictor.run_parts([predictor.prepare_item(text, index) for index, text in enumerate(listed)])
        for row, output in zip(vectors, outputs, strict=True):
            row[:] = output[self._output][0]
        if self._normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def statistics(self) -> CacheStatistics:
        """Return what the cache did."""
        return self.cache.statistics()

    def close(self) -> None:
        """Give back what the model and the cache hold."""
        self._predictor.close()
        self.cache.close()


def _checked(cache: Cache | None) -> Cache:
    if cache is None:
        return MemoryCache()
    if not isinstance(cache, Cache):
        raise ConfigError(
            f"cache is {type(cache).__name__}; give a nograd.MemoryCache(max_bytes), or a nograd.caching.redis.RedisCache(url)"
        )
    return cache


def _text_predictor(model: Any, tokenizer: Any) -> Predictor:
    if isinstance(model, Predictor):
        if tokenizer is not None:
            raise ConfigError("the model is a Predictor, which tokenizes itself; leave the tokenizer out")
        return model
    if not is_module(model):
        raise ConfigError(f"model is {type(model).__name__}; give a nograd.Predictor that takes text, or an encoder module")
    if tokenizer is None:
        raise ConfigError("the model is a bare encoder; give its tokenizer, too: a tokenizer.json or the folder that holds it")
    from nograd.pooling import MeanPooled

    tokenize = tokenizer if isinstance(tokenizer, Tokenize) else Tokenize(tokenizer)
    return Predictor(MeanPooled(model), preprocess=tokenize, sample=SAMPLE)


def _vector(predictor: Predictor) -> tuple[str, int]:
    """Return name and size of the output that is a text's vector."""
    outputs = predictor.signature.outputs
    found = [spec for spec in outputs if spec.name == "embedding"] or list(outputs)
    if predictor.has_preprocess and len(found) == 1 and "float" in found[0].dtype and len(found[0].shape) == 1:
        (size,) = found[0].shape
        if isinstance(size, int):
            return found[0].name, size
    given = ", ".join(f"{spec.name} {spec}" for spec in outputs) or "nothing yet"
    raise ConfigError(
        f"the model gives {given}; an embedder's takes text and gives one floating vector a row, or one named 'embedding'"
    )
