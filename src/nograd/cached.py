"""Predictors and embedders with a cache. Cached answers stay correct: see `nograd.caching`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, TorchBackend
from nograd.caching import Cache, CacheStatistics, MemoryCache
from nograd.caching.answers import Answers, KeyMaker
from nograd.caching.key_units import Texts
from nograd.caching.tiers import TieredCache
from nograd.core.aliases import one_of
from nograd.core.model_kinds import check_module
from nograd.core.tensors import Array
from nograd.errors import ConfigError, SignatureError
from nograd.predictors.as_predictor import as_predictor, parts_of
from nograd.predictors.calls import as_tensors
from nograd.predictors.predictor import Predictor
from nograd.runtime.fingerprint import Fingerprint
from nograd.sources import load
from nograd.text.tokenizing import Tokenize

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["CachedEmbedder", "CachedPredictor", "RedisCachedPredictor"]

NEAR_BYTES = 64 * 2**20

REDIS_URL = "redis://localhost:6379"

TTL_S = 7 * 86400.0

UNBOUNDED_BYTES = 2**62
"""For caches bounded by their number of entries."""

SAMPLE = ("A short one.", "And a text that is longer than the other, so that the probe sees what varies.")
"""Two texts of different lengths, so that the probe finds the varying dimension."""


class CachedPredictor(Predictor):
    """A Predictor that caches answers and runs only rows that are not in the cache.

    Rows are identified by content, after `preprocess` and before padding. Each row is computed once, also if several threads
    request it at the same time. A change of weights, also in place, invalidates all older entries. Models that answer the same
    input differently are not cached. If rows depend on each other, whole batches are cached. Nothing is cached if the model
    cannot be probed with its first input. Half-precision models return float32.

    A memory cache pauses when it does not pay off: if 512 lookups took longer than the runs that they saved, the next 8192 rows
    run without a lookup. Then the cache is tried again. Computing the key of an input can take longer than running a tiny
    model.

    A `DynamicBatcher` over this predictor does not use the cache; `nograd serve` has a cache before its batcher.

    >>> import torch
    >>> predictor = CachedPredictor(torch.nn.Linear(4, 3), "cpu")
    >>> row = torch.rand(1, 4)
    >>> for _ in range(2):
    ...     shape = predictor.predict(row).shape
    >>> predictor.cache.statistics().hits
    1

    Args:
        model: a module, a backend or a Predictor.
        device: device of a module, as for `Predictor`.
        cache: stores the answers; default: 256 MiB of memory. It may also be the second argument.
        version: identifies the model if its fingerprint is not sufficient (see `Predictor.fingerprint`); change it with the
            model.
        predictor_options: options for the Predictor that is created from a module: `sample`, `preprocess`, `postprocess`,
            `item`. Without `sample`, the model is probed with the first input.

    Raises:
        ConfigError: `model` is not a model, `cache` is not a cache, or the device does not exist.
    """

    def __init__(
        self,
        model: Predictor | nn.Module | Backend,
        device: str | torch.device | Cache = "auto",
        cache: Cache | None = None,
        *,
        version: str = "",
        **predictor_options: Any,
    ) -> None:
        if cache is None and (isinstance(device, Cache) or "://" in str(device)):  # the earlier order: predictor, cache
            device, cache = "auto", cast("Cache", device)
        self.cache = _checked(cache)
        super().__init__(**parts_of(as_predictor(model, cast("str", device), **predictor_options)))
        self._calls.answers = Answers(self.cache, KeyMaker(self._backend_fingerprint, version))

    def _backend_fingerprint(self) -> Fingerprint:
        return self.backend.fingerprint()  # read late: the backend may not exist yet


class RedisCachedPredictor(CachedPredictor):
    """A CachedPredictor that shares answers with other processes through Redis and keeps popular answers in memory.

    If Redis is slow or down, calls are still answered. They pay at most one timeout every few seconds.

    Args:
        model: a module, a backend or a Predictor.
        device: device of a module, as for `Predictor`. If it is a URL, it is `redis_url`, and a following number is
            `ttl_seconds`.
        redis_url: `redis://host:6379/0`, `rediss://` for TLS, `redis+cluster://` for a cluster; see `nograd.caching.redis`.
        ttl_seconds: lifetime of an answer in Redis and in memory, in seconds; default: 7 days; None: no limit.
        url: short name of `redis_url`.
        ttl_s: short name of `ttl_seconds`.
        timeout_s: timeout per Redis call, in seconds.
        near_bytes: memory for answers cached in this process, in bytes.
        version: identifies the model if its fingerprint is not sufficient; change it with the model.
        predictor_options: as for `CachedPredictor`.

    Raises:
        MissingExtraError: redis-py is not installed.
        ConfigError: as for `CachedPredictor`; the URL is malformed, or a setting is out of its range.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: Predictor | nn.Module | Backend,
        device: str | torch.device = "auto",
        redis_url: str | float | None = None,
        ttl_seconds: float | None = TTL_S,
        *,
        url: str | None = None,
        ttl_s: float | None = TTL_S,
        timeout_s: float = 0.05,
        near_bytes: int = NEAR_BYTES,
        version: str = "",
        **predictor_options: Any,
    ) -> None:
        from nograd.caching.redis import RedisCache

        if isinstance(device, str) and "://" in device:  # the earlier order: model, url, ttl_s
            device, url, ttl_s = "auto", device, ttl_s if redis_url is None else cast("float", redis_url)
            redis_url = None
        address = one_of("redis_url", cast("str | None", redis_url), "url", url, default=None) or REDIS_URL
        ttl = one_of("ttl_seconds", ttl_seconds, "ttl_s", ttl_s, default=TTL_S)
        remote = RedisCache(address, ttl_s=ttl, timeout_s=timeout_s)
        local = MemoryCache(near_bytes, ttl_s=ttl)
        self._must_explain = not version
        super().__init__(model, device, TieredCache(local, remote), version=version, **predictor_options)
        if self.is_probed:
            self._backend_fingerprint()

    def _backend_fingerprint(self) -> Fingerprint:
        """Return the fingerprint. The first call warns if the fingerprint is valid in this process only."""
        found = super()._backend_fingerprint()
        if self._must_explain:
            self._must_explain = False
            if reason := found.private_because:
                warnings.warn(f"no other process will find these answers: {reason}; name the model with version=", stacklevel=3)
        return found


class CachedEmbedder:
    """Embeds texts as vectors. Only texts that are not cached run, batched by length.

    >>> import nograd
    >>> embedder = CachedEmbedder("minilm", cache_size=1000)  # doctest: +SKIP
    >>> embedder.embed("A man is eating food.").shape  # doctest: +SKIP
    torch.Size([384])

    Args:
        model: an encoder module, such as a transformers model, whose token vectors are averaged under the attention mask; a
            Predictor that takes text and returns one floating vector per text; or a model name for `nograd.load`.
        tokenizer: tokenizer of an encoder: a transformers tokenizer, a `nograd.text.Tokenize`, a `tokenizer.json`,
            or a folder that contains one.
        device: device of an encoder or a named model, as for `Predictor`.
        cache_size: maximum number of cached texts; the least recently used is evicted first. None: the limit of `cache`.
        cache: stores the vectors; default: 256 MiB of memory.
        normalize: whether to scale vectors to unit length. (Models that normalise do so in any case.)
        version: identifies the model if its fingerprint is not sufficient; change it with the model.

    Raises:
        ConfigError: an encoder has no tokenizer, a Predictor has one, the model returns no vectors, or both `cache_size` and
            `cache` are set.
    """

    def __init__(
        self,
        model: Predictor | nn.Module | str,
        tokenizer: Any = None,
        device: str | torch.device = "auto",
        *,
        cache_size: int | None = None,
        cache: Cache | None = None,
        normalize: bool = True,
        version: str = "",
    ) -> None:
        self.cache = _sized(cache_size, cache)
        self._predictor = _text_predictor(model, tokenizer, device)
        self._output, self.size = _vector(self._predictor)
        self._has_tensors = isinstance(self._predictor.backend, TorchBackend)
        self._normalize = normalize
        self._keys = KeyMaker(self._predictor.fingerprint, version)
        self._answers = Answers(self.cache, self._keys)

    def embed(self, text: str) -> Tensor | Array:
        """Return the vector of a text, float32 `[size]`: a CPU tensor, or an array if the model is not a torch model.

        The vector is a copy that the caller may change.

        Raises:
            SignatureError: `text` is not a string.
            ItemError: the text cannot be tokenized.
            ModelError: the model raised.
        """
        if not isinstance(text, str):
            raise SignatureError(f"the text is {type(text).__name__}; embed takes one string, embed_many a list")
        vectors = self.embed_many([text])
        return as_tensors({"vector": vectors[0]})["vector"] if self._has_tensors else cast("Array", vectors[0])

    def embed_many(self, texts: Sequence[str]) -> Array:
        """Return the vectors of texts in input order, an array, float32 `[len(texts), size]`. Equal texts run once.

        Raises:
            SignatureError: `texts` is a single string, or contains something other than strings.
            ItemError: a text cannot be tokenized.
            ModelError: the model raised.
        """
        listed: list[Any] = [] if isinstance(texts, str) else list(texts)
        kinds = [type(texts)] if isinstance(texts, str) else [type(text) for text in listed if not isinstance(text, str)]
        wrong = next(iter(kinds), None)
        if wrong is not None:
            raise SignatureError(f"texts is or contains {wrong.__name__}; embed_many takes a list of strings")
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
        """Return the cache statistics."""
        return self.cache.statistics()

    def close(self) -> None:
        """Release the model and the cache."""
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


def _sized(cache_size: int | None, cache: Cache | None) -> Cache:
    if cache_size is None:
        return _checked(cache)
    if cache is not None:
        raise ConfigError(f"cache_size is {cache_size} and a cache is given, which has its own size; give one of them")
    if cache_size < 1:
        raise ConfigError(f"cache_size is {cache_size}; it must be at least 1")
    return MemoryCache(UNBOUNDED_BYTES, max_entries=cache_size, policy="lru")


def _text_predictor(model: Any, tokenizer: Any, device: Any) -> Predictor:
    if isinstance(model, str | os.PathLike):
        model, device = load(os.fspath(model), device=str(device)), "auto"
    if isinstance(model, Predictor):
        if tokenizer is not None:
            raise ConfigError("the model is a Predictor, which tokenizes itself; leave the tokenizer out")
        return as_predictor(model, device)
    check_module(model, wanted="a nograd.Predictor that takes text, an encoder module, or a name that nograd.load takes")
    if tokenizer is None:
        raise ConfigError("the model is a bare encoder; also give its tokenizer: a tokenizer.json or its folder")
    from nograd.text.pooling import MeanPooled

    tokenize = tokenizer if isinstance(tokenizer, Tokenize) else Tokenize(tokenizer)
    return Predictor(MeanPooled(model), device, preprocess=tokenize, sample=SAMPLE)


def _vector(predictor: Predictor) -> tuple[str, int]:
    """Return name and size of the output with the text vector."""
    outputs = predictor.signature.outputs
    found = [spec for spec in outputs if spec.name == "embedding"] or list(outputs)
    if predictor.has_preprocess and len(found) == 1 and "float" in found[0].dtype and len(found[0].shape) == 1:
        (size,) = found[0].shape
        if isinstance(size, int):
            return found[0].name, size
    given = ", ".join(f"{spec.name} {spec}" for spec in outputs) or "nothing yet"
    raise ConfigError(
        f"the model returns {given}; an embedding model takes text and returns one floating vector per row, or one named "
        "'embedding'"
    )
