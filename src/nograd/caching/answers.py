"""Answers: runs only what is not known yet. For threads, as scripts have them; an event loop has `flight`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TypeAlias

from nograd.caching.codec import CorruptValueError, decode
from nograd.caching.governor import Worth
from nograd.caching.keys import Keys
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache
from nograd.caching.units import Texts, Units, why_not
from nograd.core.tensors import Batch, Signature, num_rows
from nograd.runtime.fingerprint import Fingerprint

__all__ = ["Answers", "KeyMaker"]

USUAL_GROWTH = 1.1

Run: TypeAlias = Callable[[Sequence[Batch]], Sequence[Batch]]
"""Runs parts; returns the outputs of each."""


class KeyMaker:
    """Keys under a fingerprint that may change: weights that are changed in place make all kept answers unreachable.

    Args:
        fingerprint: asked anew for every request.
        version: is part of every key, too; of a model whose fingerprint no other process can have, it takes the place, so that
            the cache can be shared.
    """

    def __init__(self, fingerprint: Callable[[], Fingerprint], version: str = "") -> None:
        self._fingerprint = fingerprint
        self._version = version
        self._keys: tuple[Fingerprint, Keys] | None = None

    def current(self) -> Keys:
        """Return the keys for the model as it is now."""
        now = self._fingerprint()
        kept = self._keys
        if kept is None or kept[0] != now:
            kept = self._keys = now, Keys(f"version {self._version}" if now.private_because and self._version else now.text,
                                          parameters={"version": self._version} if self._version else None)  # fmt: skip
        return kept[1]


class Answers:
    """Outputs by content, each distinct row computed once, also where several threads ask for it at the same time.

    A model that was seen to give different answers to the same input, or that answers with text, always runs. So does, most of
    the time, one that is cheaper to run than to look up: see `worth`. A cache that other processes share is always used.

    Args:
        cache: where they are kept.
        keys: of the model.
        clock: seconds.
    """

    def __init__(self, cache: Cache, keys: KeyMaker, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._worth = Worth() if isinstance(cache, MemoryCache) else None
        self._row_s = self._lookup_s = 0.0
        self._signature: Signature | None = None
        self._has_keys = False
        self._cache = cache
        self._is_foreign = not isinstance(cache, MemoryCache)
        self._keys = keys
        self._flights: dict[bytes, Future[Batch]] = {}
        self._lock = Lock()

    def close(self) -> None:
        """Close the cache; another call opens it again."""
        self._cache.close()

    def of(self, parts: Sequence[Batch], run: Run, signature: Signature) -> Sequence[Batch]:
        """Return the outputs of each part.

        Args:
            parts: checked batches.
            run: runs what is not there, together.
            signature: of the model.
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

    def _weighed(self, parts: Sequence[Batch], run: Run, signature: Signature, worth: Worth) -> Sequence[Batch]:
        """Return the outputs of each part, and note what they cost and saved."""
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
        """Return the outputs of units, as `Units.joined` does.

        Args:
            units: what is asked for.
            run: runs the parts of what is not there, together.
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
        for key, future in theirs.items():  # only now: who waits owns nothing that others wait for
            if future.exception() is None:
                found[key] = future.result()
            else:  # perhaps because of another row of theirs, or of their Ctrl-C
                found |= self._run(units, {key: missing[key]}, run)
        return found

    def _just_landed(self, units: Units | Texts, places: dict[bytes, int]) -> dict[bytes, Batch]:
        """Return the values that another thread has put between our lookup and our flight."""
        near = getattr(self._cache, "near", self._cache)
        if not isinstance(near, MemoryCache):
            return {}
        values = zip(places.items(), near.peek_many(list(places)), strict=True)
        found = {key: self._read(units, place, value) for (key, place), value in values}
        return {key: outputs for key, outputs in found.items() if outputs is not None}

    def _read(self, units: Units | Texts, place: int, value: bytes | None) -> Batch | None:
        """Return the outputs in a value; None for a miss. A cache that other programs write to may hold anything."""
        try:
            outputs = None if value is None else decode(value)
        except CorruptValueError:
            return None
        return outputs if outputs is None or not self._is_foreign or units.fits(place, outputs) else None

    def _run(self, units: Units | Texts, wanted: dict[bytes, int], run: Run) -> dict[bytes, Batch]:
        """Run some units, keep their answers, and return them as they are kept."""
        values = dict(zip(wanted, units.values(run(units.take(list(wanted.values())))), strict=True))
        self._cache.put_many(values)
        return {key: decode(value) for key, value in values.items()}


def _usual(before_s: float, seconds: float) -> float:
    """Return the usual seconds: least of late, because a busy machine, or a wait for another thread's run, adds to some."""
    return min(seconds, before_s * USUAL_GROWTH) if before_s else seconds
