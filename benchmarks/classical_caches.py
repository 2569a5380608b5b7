"""Pairs of `benchmarks.classical` with a cache: in this process, in Redis, and of texts. A quarter of the requests is new.

Each call is compared with two loops: the one without a cache, which it replaces and which gives the same guarantees; and one
with a cache that people write, which guarantees less.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import nograd
from benchmarks.classical_pairs import Encoder, Pair
from benchmarks.common import free_port

__all__ = ["cached", "embedded", "shared"]

MAX_ENTRIES = 1000


def _requests() -> list[dict[str, Tensor]]:
    mask = torch.ones(1, 64, dtype=torch.int64)
    return [{"input_ids": row[None], "attention_mask": mask} for row in torch.randint(1, 1000, (32, 64))] * 4


def _key(x: dict[str, Tensor]) -> bytes:
    return x["input_ids"].numpy().tobytes() + x["attention_mask"].numpy().tobytes()


def _remembered(known: OrderedDict[Any, Tensor], key: Any, run: Callable[[], Tensor]) -> Tensor:
    """Return what is known, else run: the least recently used of too many leaves."""
    if key in known:
        known.move_to_end(key)
        return known[key]
    with torch.no_grad():
        known[key] = run()
    if len(known) > MAX_ENTRIES:
        known.popitem(last=False)
    return known[key]


NO_CHECK = "does not notice a change of weights"


def _answer(model: nn.Module, x: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**x)
    return found


def cached(*, by_dict: bool) -> Pair:
    """CachedPredictor against the loop without a cache that it replaces, or against a dict of tensors.

    CachedPredictor compares the weights, settings and hooks with those of the cached answers in each call, returns copies, and
    bounds its memory. The loop without a cache is right after a change of weights, too. The dict answers with the old weights
    then, and returns the cached tensor itself.
    """
    model, requests = Encoder().eval(), _requests()
    predictor = nograd.CachedPredictor(model, "cpu")
    known: OrderedDict[Any, Tensor] = OrderedDict()

    def plain() -> Tensor:
        if not by_dict:
            return torch.cat([_answer(model, x) for x in requests])
        known.clear()
        return torch.cat([_remembered(known, _key(x), partial(_answer, model, x)) for x in requests])

    def ours() -> Tensor:
        predictor.cache.clear()
        return torch.cat([predictor.predict(x) for x in requests])

    gain = "bounded in bytes; right after a change of weights; each row once; copies, not views"
    return Pair(ours, plain, gain, missing=NO_CHECK if by_dict else "")


def shared(folder: Path, *, by_redis: bool) -> Pair:
    """RedisCachedPredictor against the loop without a cache that it replaces, or against GET and SETEX with redis-py.

    RedisCachedPredictor puts the weights' digest into the keys, checks the values that it reads, and answers without Redis. The
    loop without a cache is right after a change of weights, too. The loop with redis-py answers with the old weights then,
    takes any value, and raises if Redis is down. The redis-server is started for the benchmark.

    Raises:
        SystemExit: there is no redis-server.
    """
    import redis

    if shutil.which("redis-server") is None:
        raise SystemExit("no redis-server; run: apt-get install redis-server")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200))
    client.ping()
    model, requests = Encoder().eval(), _requests()
    predictor = nograd.RedisCachedPredictor(model, "cpu", redis_url=f"redis://127.0.0.1:{port}/0", timeout_s=10)

    def answer(x: dict[str, Tensor]) -> Tensor:
        key = _key(x)
        found = client.get(key)
        if isinstance(found, bytes):
            return torch.from_numpy(np.frombuffer(found, np.float32).reshape(1, -1).copy())
        with torch.no_grad():
            made: Tensor = model(**x)
        client.setex(key, 3600, made.numpy().tobytes())
        return made

    def plain() -> Tensor:
        if not by_redis:
            return torch.cat([_answer(model, x) for x in requests])
        client.flushdb()
        return torch.cat(list(map(answer, requests)))

    def ours() -> Tensor:
        predictor.cache.clear()
        client.flushdb()
        return torch.cat([predictor.predict(x) for x in requests])

    def close() -> None:
        predictor.close()
        client.close()
        process.terminate()
        process.wait()

    gain = "popular answers stay here; sealed values; a Redis that is down costs no answer"
    return Pair(ours, plain, gain, close=close, missing=NO_CHECK if by_redis else "")


class TokenEncoder(nn.Module):
    """The encoder without its pooling, as transformers' encoders are."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoder = self.encoder
        found: Tensor = encoder.body(encoder.table(input_ids), src_key_padding_mask=attention_mask == 0)
        return found


def embedded(*, by_dict: bool) -> Pair:
    """CachedEmbedder against the loop without a cache that it replaces, or against a dict of vectors by text.

    The guarantees are those of `cached`: the dict does not notice a change of weights, and returns the cached vector itself.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0} | {f"w{index}": index for index in range(1, 1000)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    texts = [" ".join(f"w{index}" for index in row) for row in torch.randint(1, 1000, (32, 64)).tolist()] * 4
    model = TokenEncoder().eval()
    embedder = nograd.CachedEmbedder(model, tokenizer, "cpu", cache_size=MAX_ENTRIES, normalize=False)
    known: OrderedDict[Any, Tensor] = OrderedDict()

    def vector(text: str) -> Tensor:
        ids = torch.tensor([tokenizer.encode(text).ids])
        found: Tensor = model(ids, torch.ones_like(ids)).mean(1)[0]
        return found

    def plain() -> Tensor:
        if not by_dict:
            with torch.no_grad():
                return torch.stack(list(map(vector, texts)))
        known.clear()
        return torch.stack([_remembered(known, text, partial(vector, text)) for text in texts])

    def ours() -> Tensor:
        embedder.cache.clear()
        return torch.stack([torch.as_tensor(embedder.embed(text)) for text in texts])

    gain = "right after a change of weights; bounded; a vector that you may write to"
    return Pair(ours, plain, gain, close=embedder.close, missing=NO_CHECK if by_dict else "")
