"""Cached model runs: only rows that are not cached run. For threads; `flight` is the equivalent for an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TypeAlias

from nograd.caching.codec import CorruptValueError, decode
from nograd.caching.governor import CacheGovernor
from nograd.caching.key_units import Texts, Units, why_not
from nograd.caching.keys import Keys
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache
from nograd.core.tensors import Batch, Signature, num_rows
from nograd.runtime.fingerprint import Fingerprint

__all__ = ["Answers", "KeyMaker"]

USUAL_GROWTH = 1.1

Run: TypeAlias = Callable[[Sequence[Batch]], Sequence[Batch]]
"""Runs parts and returns the outputs of each."""


class KeyMaker:
    """Cache keys for a fingerprint that may change: a change of weights, also in place, makes all older entries unreachable.

    Args:
        fingerprint: called for each request.
        version: part of every key. For a model whose fingerprint is valid in this process only, it replaces the fingerprint, so
            that processes can share the cache.
    """

    def __init__(self, fingerprint: Callable[[], Fingerprint], version: str = "") -> None:
        self._fingerprint = fingerprint
        self._version = version
        self._keys: tuple[Fingerprint, Keys] | None = None

    def current(self) -> Keys:
        """Return the keys for the current state of the model."""
        now = self._fingerprint()
        kept = self._keys
        if kept is None or kept[0] != now:
            kept = self._keys = now, Keys(f"version {self._version}" if now.private_because and self._version else now.text,
                                          parameters={"version": self._version} if self._version else None)  # fmt: skip
        return kept[1]


class Answers:
    """Outputs by content. Each distinct row is computed once, also if several threads request it at the same time.

    Models with random or text outputs always run. A model that runs faster than a lookup runs most of the time (see
    `governor`). A cache shared with other processes is always used.

    Args:
        cache: stores the outputs.
        keys: keys of the model.
        clock: returns the time in seconds.
    """

    def __init__(self, cache: Cache, keys: KeyMaker, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._worth = CacheGovernor() if isinstance(cache, MemoryCache) else None
        self._row_s = self._lookup_s = 0.0
        self._signature: Signature | None = None
        self._has_keys = False
        self._cache = cache
        self._is_foreign = not isinstance(cache, MemoryCache)
        self._keys = keys
        self._flights: dict[bytes, Future[Batch]] = {}
        self._lock = Lock()

    def close(self) -> None:
        """Close the cache; the next call reopens it."""
        self._cache.close()

    def of(self, parts: Sequence[Batch], run: Run, signature: Signature) -> Sequence[Batch]:
        """Return the outputs of each part.

        Args:
            parts: checked batches.
            run: runs all missing parts together.
            signature: signature of the model.
        """
        if self._signature is not signature:
            self._signature, self._has_keys = signature, not why_not(signature)
        if not self._has_keys:
            return run(parts)
        worth = self._worth
        if worth is None:
            return self.of_units(Units(parts, self._keys.current(), signature), run)
        rows = sum(map(num_rows, parts))
        if not worth.is_on:
            worth.skip(rows)
            return run(parts)
        return self._weighed(parts, run, signature, worth)

    def _weighed(self, parts: Sequence[Batch], run: Run, signature: Signature, worth: CacheGovernor) -> Sequence[Batch]:
        """Return the outputs of each part, and record costs and savings of the cache."""
        run_s, run_rows = 0.0, 0

        def timed(missing: Sequence[Batch]) -> Sequence[Batch]:
            nonlocal run_s, run_rows
            begun, rows = self._clock(), sum(map(num_rows, missing))
            outputs = run(missing)
            run_s, run_rows = run_s + self._clock() - begun, run_rows + rows
            return outputs

        begun, rows = self._clock(), sum(map(num_rows, parts))
        answers = self.of_units(Units(parts, self._keys.current(), signature), timed)
        self._lookup_s = _usual(self._lookup_s, (self._clock() - begun - run_s) / rows)
        if run_rows:
            self._row_s = _usual(self._row_s, run_s / run_rows)
        worth.note(rows, max(0, rows - run_rows), self._lookup_s * rows, self._row_s)
        return answers

    def of_units(self, units: Units | Texts, run: Run) -> list[Batch]:
        """Return the outputs of units, in the form of `Units.joined`.

        Args:
            units: the units to look up.
            run: runs the parts of all missing units together.
        """
        found = [self._read(units, place, value) for place, value in enumerate(self._cache.get_many(units.keys))]
        missing: dict[bytes, int] = {}
        for position, unit in enumerate(found):
            if unit is None:
                missing.setdefault(units.keys[position], position)
        computed = self._computed(units, missing, run) if missing else {}
        return units.joined([computed[key] if unit is None else unit for key, unit in zip(units.keys, found, strict=True)])

    def _computed(self, units: Units | Texts, missing: dict[bytes, int], run: Run) -> dict[bytes, Batch]:
        with self._lock:
            theirs = {key: self._flights[key] for key in missing if key in self._flights}
            own: dict[bytes, Future[Batch]] = {key: Future() for key in missing if key not in theirs}
            self._flights.update(own)
        found: dict[bytes, Batch] = {}
        try:
            if own:
                found = self._just_landed(units, {key: missing[key] for key in own})
                left = {key: missing[key] for key in own if key not in found}
                found |= self._run(units, left, run) if left else {}
        except BaseException as error:
            for future in own.values():
                future.set_exception(error)
            raise
        else:
            for key, future in own.items():
                future.set_result(found[key])
        finally:
            with self._lock:
                for key in own:
                    del self._flights[key]
        for key, future in theirs.items():  # last: a waiting thread must not own flights that others wait for
            if future.exception() is None:
                found[key] = future.result()
            else:  # the error may be due to another row of that thread, or to its Ctrl-C
                found |= self._run(units, {key: missing[key]}, run)
        return found

    def _just_landed(self, units: Units | Texts, places: dict[bytes, int]) -> dict[bytes, Batch]:
        """Return values that another thread stored between this thread's lookup and its flight."""
        near = getattr(self._cache, "near", self._cache)
        if not isinstance(near, MemoryCache):
            return {}
        values = zip(places.items(), near.peek_many(list(places)), strict=True)
        found = {key: self._read(units, place, value) for (key, place), value in values}
        return {key: outputs for key, outputs in found.items() if outputs is not None}

    def _read(self, units: Units | Texts, place: int, value: bytes | None) -> Batch | None:
        """Decode a value; None for a miss. Caches that other programs write to may contain anything, so their values are
        checked.
        """
        try:
            outputs = None if value is None else decode(value)
        except CorruptValueError:
            return None
        return outputs if outputs is None or not self._is_foreign or units.fits(place, outputs) else None

    def _run(self, units: Units | Texts, wanted: dict[bytes, int], run: Run) -> dict[bytes, Batch]:
        """Run some units, store their outputs, and return them as decoded values."""
        values = dict(zip(wanted, units.values(run(units.take(list(wanted.values())))), strict=True))
        self._cache.put_many(values)
        return {key: decode(value) for key, value in values.items()}


def _usual(before_s: float, seconds: float) -> float:
    """Return typical seconds: a moving minimum, because a busy machine or another thread's run only adds time."""
    return min(seconds, before_s * USUAL_GROWTH) if before_s else seconds
