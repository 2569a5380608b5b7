"""20,000 requests to a real model in a real thread: random lengths, cancellations, failures, deadlines, classes.

Nothing here depends on how long anything takes: whatever the outcome of a request is, it must be one that is due, and right.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from nograd import DynamicBatcher, Predictor, measure_cost  # noqa: E402
from nograd.errors import DeadlineError, ModelError, OverloadedError  # noqa: E402

CLIENTS, EACH = 200, 100
POISON = 13


class Summing(nn.Module):
    """Of token ids `[rows, tokens]`: twice each, and the sum of those that are not masked. Raises on a 13."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if (ids == POISON).any():
            raise ValueError("thirteen")
        return {"doubled": ids * self.weight, "total": (ids * mask).sum(1)}


def inputs(ids: list[int]) -> dict[str, Any]:
    row = np.array([ids], dtype=np.int64)
    return {"ids": row, "mask": np.ones_like(row)}


async def request(batcher: DynamicBatcher, chance: random.Random) -> str:
    """Send one request, check what comes; return what it was."""
    ids = [chance.randrange(100, 1000) for _ in range(chance.randint(1, 40))]
    bad = chance.random() < 0.01
    if bad:
        ids[chance.randrange(len(ids))] = POISON
    timeout_s = chance.choice([None, None, 30.0, 0.02, 0.0001])
    leaves_after = chance.choice([None] * 8 + [0, 3])
    priority = chance.choice([0, 0, 1])
    work = asyncio.ensure_future(batcher.predict(inputs(ids), timeout_s=timeout_s, priority=priority))
    if leaves_after is not None:
        for _ in range(leaves_after):
            await asyncio.sleep(0)
        work.cancel()
    try:
        answer = await work
    except asyncio.CancelledError:
        assert leaves_after is not None
        return "cancelled"
    except ModelError:
        assert bad
        return "failed"
    except DeadlineError:
        assert timeout_s is not None
        return "late"
    except OverloadedError:
        return "refused"
    assert not bad
    assert answer["doubled"].tolist() == [[2.0 * token for token in ids]]
    assert answer["total"].tolist() == [sum(ids)]
    return "answered"


def test_every_request_of_twenty_thousand_ends_once_and_with_its_own_answer() -> None:
    model = Predictor(Summing(), sample=inputs([200, 300, 400]))
    part = model.prepare(inputs([200] * 10))[0][0]
    ends: Counter[str] = Counter()

    async def client(batcher: DynamicBatcher, number: int) -> None:
        chance = random.Random(number)
        for _ in range(EACH):
            ends[await request(batcher, chance)] += 1

    async def soak() -> DynamicBatcher:
        batcher = DynamicBatcher(model, max_batch_size=16, max_queue_rows=256, cost=measure_cost(model, part, 16, budget_s=0.5))
        async with batcher:
            await asyncio.gather(*(client(batcher, number) for number in range(CLIENTS)))
            assert batcher.is_open
        return batcher

    done = asyncio.run(soak()).statistics()

    assert sum(ends.values()) == CLIENTS * EACH
    assert ends["answered"] > 0
    assert ends["failed"] > 0
    assert ends["cancelled"] > 0
    assert ends["late"] + ends["refused"] > 0
    assert (done.queue_rows, done.running_rows) == (0, 0)
    assert sum(done.reasons.values()) == done.batches
    assert done.requests <= CLIENTS * EACH
    assert ends["answered"] + ends["failed"] <= done.requests
