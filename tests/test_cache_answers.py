"""Answers from a cache: looked up while that is cheaper than running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from nograd.caching.answers import Answers, KeyMaker
from nograd.caching.governor import REST, WINDOW
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache, CacheStatistics
from nograd.core.tensors import Batch, Signature, TensorSpec
from nograd.runtime.fingerprint import Fingerprint

SIGNATURE = Signature((TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))


class Machine:
    """A model and a clock: a run takes `row_s` for each row, and recognising a request takes one second."""

    def __init__(self, row_s: float) -> None:
        self.row_s, self.now = row_s, 0.0
        self.delay_s = 0.0
        self.rows_run = 0

    def clock(self) -> float:
        return self.now

    def fingerprint(self) -> Fingerprint:
        self.now, self.delay_s = self.now + 1.0 + self.delay_s, 0.0
        return Fingerprint("model")

    def run(self, parts: Sequence[Batch]) -> list[Batch]:
        rows = sum(len(part["x"]) for part in parts)
        self.rows_run += rows
        self.now += rows * self.row_s
        return [{"y": part["x"] * 2} for part in parts]

    def answers(self, cache: Cache) -> Answers:
        return Answers(cache, KeyMaker(self.fingerprint), clock=self.clock)


class Shared(Cache):
    """A cache that stands for one that other processes use."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        self.values.update(items)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics()

    def clear(self) -> None:
        self.values.clear()


def ask(answers: Answers, machine: Machine, value: float, times: int) -> None:
    for _ in range(times):
        (found,) = answers.of([{"x": np.full((1, 1), value, np.float32)}], machine.run, SIGNATURE)
        assert found["y"].tolist() == [[2 * value]]


@pytest.mark.parametrize(("row_s", "rows_run"), [(0.5, 1 + 100), (1e-6, 1 + 100), (2.0, 1), (1e6, 1)])
def test_a_model_that_is_cheaper_than_a_lookup_runs_after_a_window_of_lookups(row_s: float, rows_run: int) -> None:
    machine = Machine(row_s)

    ask(machine.answers(MemoryCache()), machine, 3.0, WINDOW + 100)

    assert machine.rows_run == rows_run


def test_rows_that_never_come_back_end_the_lookups_of_any_model() -> None:
    machine = Machine(row_s=1e6)
    cache = MemoryCache()
    answers = machine.answers(cache)
    for value in range(WINDOW + 10):
        ask(answers, machine, float(value), 1)

    assert cache.statistics().misses == WINDOW


def test_lookups_are_tried_again_after_a_rest() -> None:
    machine = Machine(row_s=0.01)
    answers = machine.answers(MemoryCache())
    ask(answers, machine, 3.0, WINDOW)
    many = {"x": np.full((REST // 2, 1), 3.0, np.float32)}

    for _ in range(2):
        answers.of([many], machine.run, SIGNATURE)
    before = machine.rows_run
    ask(answers, machine, 3.0, 1)

    assert machine.rows_run == before


@pytest.mark.parametrize("delay_s", [10.0, 1e6])
def test_one_slow_lookup_does_not_end_the_lookups(delay_s: float) -> None:
    machine = Machine(row_s=2.0)
    answers = machine.answers(MemoryCache())
    ask(answers, machine, 3.0, 10)

    machine.delay_s = delay_s  # a busy machine, or a wait for the run of another thread
    ask(answers, machine, 3.0, WINDOW)

    assert machine.rows_run == 1


@pytest.mark.parametrize("row_s", [1e-6, 0.5])
def test_a_cache_that_others_share_is_always_used(row_s: float) -> None:
    machine = Machine(row_s)

    ask(machine.answers(Shared()), machine, 3.0, WINDOW + 100)

    assert machine.rows_run == 1
