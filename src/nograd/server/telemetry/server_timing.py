"""Stage times of a request for the Server-Timing header (W3C) of its response."""

from __future__ import annotations

from collections.abc import Callable

from nograd.batching import RequestTimes

__all__ = ["Timing"]


class Timing:
    """The times of one request, in seconds; created only if the client requests them.

    Args:
        clock: returns the time in seconds.
    """

    __slots__ = ("_begun", "_clock", "_decoded", "_encoded", "_outputs", "hits", "prepare_s", "rows", "spent")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = self._decoded = self._outputs = self._encoded = clock()
        self.spent = RequestTimes()
        self.prepare_s = 0.0
        """Time in `preprocess`, such as a tokenizer."""
        self.rows = 0
        """Number of rows looked up in the cache."""
        self.hits = 0
        """Number of rows that did not have to run for this request."""

    def decoded(self) -> None:
        """Mark the end of decoding."""
        self._decoded = self._outputs = self._encoded = self._clock()

    def outputs(self) -> None:
        """Mark the end of the run."""
        self._outputs = self._encoded = self._clock()

    def encoded(self) -> None:
        """Mark the end of encoding."""
        self._encoded = self._clock()

    def now(self) -> float:
        """Return the current time in seconds."""
        return self._clock()

    def stages(self) -> list[tuple[str, float, float]]:
        """Return name, start and end of each stage that took time, in seconds of the clock.

        Stages before the outputs are known only as durations, and are placed one after the other.
        """
        spent, at = self.spent, self._decoded
        found = [("decode", self._begun, self._decoded)]
        run_s = spent.input_s + spent.infer_s + spent.output_s
        for name, seconds in (("prepare", self.prepare_s), ("queue", spent.queue_s), ("run", run_s)):
            found.append((name, at, at + seconds))
            at += seconds
        found.append(("encode", self._outputs, self._encoded))
        return [stage for stage in found if stage[2] > stage[1]]

    def header(self) -> bytes:
        """Return the header's value, with durations in milliseconds as specified."""
        spent = self.spent
        parts = {
            "decode": self._decoded - self._begun,
            "prepare": self.prepare_s,
            "queue": spent.queue_s,
            "join": spent.input_s,
            "run": spent.infer_s,
            "part": spent.output_s,
            "encode": self._encoded - self._outputs,
            "total": self._encoded - self._begun,
        }
        entries = [f"{name};dur={1000 * seconds:.3f}" for name, seconds in parts.items()]
        if spent.batch_rows:
            entries.append(f'batch;desc="{spent.batch_rows} rows"')
        if self.rows:
            entries.append(f'cache;desc="{self.hits} of {self.rows} rows"')
        return ", ".join(entries).encode()
