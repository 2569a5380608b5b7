"""Values of a cache that other programs write to: only outputs that the model can give count as hits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nograd import CachedPredictor, MemoryCache, Predictor, Signature, TensorSpec
from nograd.batching.jobs import BatchReply
from nograd.caching import Cache, CacheStatistics, encode
from nograd.caching.flight import SingleFlight
from nograd.caching.key_units import fits_outputs
from nograd.caching.tiers import TieredCache
from nograd.core.tensors import Batch
from nograd.runtime.fingerprint import Fingerprint
from nograd.server.models.caching import ModelCache
from tests.fakes import Fake, doubling

TOKENS = Signature(
    (TensorSpec("ids", "int64", ("tokens",)),),
    (TensorSpec("states", "float16", ("tokens", 4)), TensorSpec("score", "float32")),
)


def outputs(tokens: int = 5, rows: int = 1, **more: Any) -> dict[str, Any]:
    return {"states": np.zeros((rows, tokens, 4), "float32"), "score": np.zeros(rows, "float32"), **more}


def test_outputs_of_the_models_names_dtypes_and_shapes_fit() -> None:
    assert fits_outputs(outputs(), TOKENS, rows=1, sizes={"tokens": 5})
    assert fits_outputs(outputs(7), TOKENS, rows=1, sizes={})
    assert fits_outputs(outputs(7, rows=3), TOKENS, rows=3, sizes={})
    assert fits_outputs({"anything": np.zeros(1)}, Signature(TOKENS.inputs), rows=1, sizes={})


@pytest.mark.parametrize(
    "foreign",
    [
        outputs(6),
        outputs(rows=2),
        outputs(more=np.zeros(1, "float32")),
        {"states": outputs()["states"]},
        {},
        outputs(score=np.zeros(1, "float64")),
        outputs(states=np.zeros((1, 5, 4), ml_dtypes.bfloat16)),
        outputs(states=np.zeros((1, 5, 4, 1), "float32")),
        outputs(states=np.zeros((1, 5, 3), "float32")),
        outputs(score=np.zeros((), "float32")),
    ],
    ids=["length", "rows", "another more", "one less", "none", "width", "half", "rank", "size", "no rows"],
)
def test_anything_else_does_not(foreign: Batch) -> None:
    assert not fits_outputs(foreign, TOKENS, rows=1, sizes={"tokens": 5})


class Written(Cache):
    """A cache in which another program has written one value under every key, until something is put there."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.put: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.put.get(key, self.value) for key in keys]

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        self.put.update(items)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics()

    def clear(self) -> None:
        """Nothing is counted."""


FOREIGN = {
    "two rows": {"output": np.zeros((2, 2), "float32")},
    "a wider dtype": {"output": np.zeros((1, 2), "float64")},
    "another name": {"outputs": np.zeros((1, 2), "float32")},
}


def shared() -> Fake:
    backend = doubling()
    backend.fingerprint = lambda: Fingerprint("doubling 1")  # type: ignore[method-assign]
    return backend


@pytest.mark.parametrize("is_tiered", [False, True])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_cached_predictor_runs_instead_of_answering_a_foreign_value(kind: str, is_tiered: bool) -> None:
    backend, far = shared(), Written(encode(FOREIGN[kind]))
    predictor = CachedPredictor(Predictor(backend), TieredCache(MemoryCache(), far) if is_tiered else far)
    for _ in range(2):
        assert predictor.predict(np.array([[1, 2], [3, 4]], "float32")).tolist() == [[2, 4], [6, 8]]

    assert len(backend.runs) == 1
    assert len(far.put) == 2


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_servers_cache_runs_instead_of_answering_a_foreign_value(kind: str) -> None:
    far = Written(encode(FOREIGN[kind]))

    class Batcher:
        seconds_per_row = 5e-3
        runs = 0

        def submit(self, parts: Sequence[Batch], reply: BatchReply, **_: Any) -> Callable[[], None]:
            self.runs += 1
            reply.set_result([{"output": part["x"] * 2} for part in parts])
            return reply.cancel

    async def main() -> None:
        flights, batcher = SingleFlight(MemoryCache(), far), Batcher()
        cache = ModelCache(Predictor(shared()), flights, batcher)  # type: ignore[arg-type]
        for _ in range(2):
            (answer,) = await cache.run(None, [{"x": np.array([[1, 2]], "float32")}], 5.0)
            assert answer["output"].tolist() == [[2, 4]]
        assert batcher.runs == 1
        await flights.close()

    asyncio.run(main())
