from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.caching import MemoryCache
from nograd.caching.eviction import BoundedEntries, CacheEntry, Policy
from nograd.caching.memory import ENTRY_BYTES
from nograd.caching.shadow import WINDOW
from nograd.errors import ConfigError

# -- policies, against the plainest model of each: a list, the newest first


class ListModel:
    """Keys, sizes and marks in a list; `hand` is a position in it."""

    def __init__(self, max_bytes: int, policy: Policy) -> None:
        self.max_bytes, self.policy = max_bytes, policy
        self.rows: list[list[int]] = []  # key, bytes, visited
        self.hand: int | None = None  # the key that it points at

    def keys(self) -> list[int]:
        return [key for key, _, _ in self.rows]

    def get(self, key: int) -> bool:
        if key not in self.keys():
            return False
        at = self.keys().index(key)
        if self.policy == "sieve":
            self.rows[at][2] = True
        else:
            self.rows.insert(0, self.rows.pop(at))
        return True

    def remove(self, at: int) -> None:
        if self.hand == self.rows[at][0]:
            self.hand = self.rows[at - 1][0] if at else None
        self.rows.pop(at)

    def put(self, key: int, nbytes: int) -> None:
        if key in self.keys():
            self.remove(self.keys().index(key))
        while sum(size for _, size, _ in self.rows) + nbytes > self.max_bytes:
            at = len(self.rows) - 1
            if self.policy == "sieve":
                at = self.keys().index(self.hand) if self.hand is not None else at
                while self.rows[at][2]:
                    self.rows[at][2] = False
                    at = at - 1 if at else len(self.rows) - 1
                self.hand = self.rows[at][0]
            self.remove(at)
        self.rows.insert(0, [key, nbytes, False])


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["get", "get", "put", "remove"]), st.integers(0, 12), st.integers(1, 9)), max_size=120
)


@pytest.mark.parametrize("policy", ["sieve", "lru"])
@given(steps=STEPS)
def test_a_policy_does_what_its_list_model_does(policy: Policy, steps: list[Step]) -> None:
    real, model = BoundedEntries(30, policy), ListModel(30, policy)
    for kind, number, size in steps:
        key = bytes([number])
        if kind == "get":
            assert (real.get(key) is not None) == model.get(number)
        elif kind == "put":
            real.put(CacheEntry(key, b"", size, 0.0))
            model.put(number, size)
        elif key in real.table:
            real.remove(real.table[key])
            model.remove(model.keys().index(number))
        assert [key[0] for key in real] == model.keys()
        assert real.nbytes == sum(entry.nbytes for entry in real.table.values()) <= 30
        assert len(real) == len(model.rows)


@given(steps=STEPS, changes=st.sets(st.integers(0, 120), max_size=5))
def test_a_change_of_policy_keeps_every_entry(steps: list[Step], changes: set[int]) -> None:
    real = BoundedEntries(30, "sieve")
    for number, (kind, key, size) in enumerate(steps):
        if number in changes:
            before = list(real)
            real.policy = "lru" if real.policy == "sieve" else "sieve"
            assert list(real) == before
        if kind == "get":
            real.get(bytes([key]))
        else:
            real.put(CacheEntry(bytes([key]), b"", size, 0.0))
        assert real.nbytes == sum(entry.nbytes for entry in real.table.values()) <= 30


# -- the cache


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 3000)), max_size=80),
    policy=st.sampled_from(["auto", "sieve", "lru"]),
)
def test_the_bound_holds_and_a_hit_is_what_was_put_last(steps: list[tuple[bool, int, int]], policy: Policy) -> None:
    cache = MemoryCache(32 * 1000, policy=policy)
    put: dict[bytes, bytes] = {}
    for is_put, number, size in steps:
        key = bytes([number])
        if is_put:
            put[key] = os.urandom(size)
            cache.put(key, put[key])
            fits = size + 1 + ENTRY_BYTES <= 1000
            assert cache.get(key) == (put[key] if fits else None)
        else:
            assert cache.get(key) in (None, put.get(key))
        assert cache.statistics().nbytes <= 32 * 1000


def test_statistics() -> None:
    cache = MemoryCache(32 * (ENTRY_BYTES + 10), policy="lru")
    for number in range(40):
        cache.put(bytes([number]), bytes(9))
    cache.put(b"x", bytes(10))
    assert cache.get_many([bytes([number]) for number in (0, 39, 39)]) == [None, bytes(9), bytes(9)]
    found = cache.statistics()
    assert (found.hits, found.misses, found.puts, found.evicted, found.refused) == (2, 1, 40, 8, 1)
    assert (found.entries, found.nbytes, found.max_bytes) == (32, 32 * (ENTRY_BYTES + 10), 32 * (ENTRY_BYTES + 10))
    assert found.hit_rate == pytest.approx(2 / 3)
    cache.clear()
    assert (cache.statistics().entries, cache.statistics().nbytes, cache.get(bytes([39]))) == (0, 0, None)


def test_an_entry_expires_between_nine_and_eleven_tenths_of_its_time() -> None:
    clock = Clock()
    cache = MemoryCache(ttl_s=10.0, clock=clock)
    keys = [bytes([0, number]) for number in range(200)]
    cache.put_many(dict.fromkeys(keys, b"v"))
    clock.now = 9.0
    assert cache.get_many(keys) == [b"v"] * 200
    clock.now = 10.0
    left = sum(value is not None for value in cache.get_many(keys))
    assert 50 < left < 150  # spread: they do not go together
    clock.now = 11.01
    assert cache.get_many(keys) == [None] * 200
    assert (cache.statistics().expired, cache.statistics().entries, cache.statistics().nbytes) == (200, 0, 0)


def test_a_put_may_have_a_time_of_its_own() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    cache.put(b"a", b"1", ttl_s=5)
    cache.put(b"b", b"2")
    clock.now = 1e9
    assert cache.get_many([b"a", b"b"]) == [None, b"2"]


def test_nothing_outside_can_change_what_is_kept() -> None:
    cache = MemoryCache()
    value = bytearray(b"value")
    cache.put(b"k", value)  # type: ignore[arg-type]
    value[0] = 0
    assert cache.get(b"k") == b"value"


def test_the_bytes_it_counts_are_at_least_those_it_takes() -> None:
    cache = MemoryCache(2**30, ttl_s=60)
    keys = [os.urandom(16) for _ in range(20_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys:
            cache.put(bytes(bytearray(key)), bytes(100))  # so that the key, too, is a copy
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = cache.statistics().nbytes
    assert 0.6 * counted < taken <= counted


def test_threads_share_it() -> None:
    cache = MemoryCache(32 * 600)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for number in random.integers(0, 60, 3000).tolist():
                value = cache.get(bytes([number]))
                assert value in (None, bytes([number]) * 100)
                cache.put(bytes([number]), bytes([number]) * 100)
        except BaseException as error:  # noqa: BLE001  handed to the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = cache.statistics()
    assert found.nbytes <= 32 * 600
    assert found.entries == found.nbytes // (101 + ENTRY_BYTES)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MemoryCache(0), "max_bytes is 0; it must be at least 1"),
        (lambda: MemoryCache(policy="lfu"), "policy is 'lfu'; it must be 'auto', 'sieve' or 'lru'"),  # type: ignore[arg-type]
        (lambda: MemoryCache(ttl_s=0), "ttl_s is 0; it must be above 0, finite, or None"),
        (lambda: MemoryCache().put(b"", b"", ttl_s=float("nan")), "ttl_s is nan"),
    ],
)
def test_settings_out_of_range(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


# -- the choice


def play(cache: MemoryCache, stream: list[int]) -> float:
    """Ask for each number, put it where it is not there; return the hit rate."""
    before = cache.statistics()
    for number in stream:
        key = number.to_bytes(4, "little") * 4
        key = bytes([number * 167 % 251]) + key[1:]
        if cache.get(key) is None:
            cache.put(key, bytes(80))
    after = cache.statistics()
    return (after.hits - before.hits) / len(stream)


def sessions(count: int, seed: int) -> list[int]:
    """Texts that come back soon, or never: each new one is asked for again about twice, within the next 200 requests."""
    random = np.random.default_rng(seed)
    stream: list[int] = []
    for number in range(count):
        is_new = len(stream) < 200 or random.random() < 0.4
        stream.append(10**6 + number if is_new else stream[-int(random.integers(1, 200))])
    return stream


def test_auto_finds_out_that_recency_counts_and_that_it_does_not() -> None:
    cache = MemoryCache(300 * 416)
    assert cache.statistics().policy == "sieve"
    play(cache, sessions(30 * WINDOW, 1))
    assert cache.statistics().policy == "lru"
    random = np.random.default_rng(2)
    weights = 1 / np.arange(1, 20_001)
    play(cache, random.choice(20_000, 40 * WINDOW, p=weights / weights.sum()).tolist())
    assert cache.statistics().policy == "sieve"
