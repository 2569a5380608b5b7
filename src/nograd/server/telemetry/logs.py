"""The server's log: one line per event, as text or JSON. It uses Python's `logging`, so other libraries' lines have the same
form.

2026-11-26T06:42:15.123Z info ready model=minilm url=http://127.0.0.1:8000
{"time":"2026-11-26T06:42:15.123Z","level":"info","event":"ready","model":"minilm","url":"http://127.0.0.1:8000"}
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import orjson

from nograd.runtime.redaction import mask_credentials
from nograd.runtime.stderr import QueuedStderr

__all__ = ["Format", "Repeats", "configure", "dropped_lines", "event", "failure", "line_of", "write"]

Format = Literal["text", "json"]

REPEAT_S = 10.0
"""Seconds in which the traceback of an error is logged once, regardless of the number of affected requests."""

_logger = logging.getLogger("nograd.server")

_queue: QueuedStderr | None = None
"""The stderr found by `configure`; a spinner may replace `sys.stderr` temporarily."""


def configure(log_format: str, level: str, **always: Any) -> None:
    """Configure the log of this process: all lines go to stderr in one format.

    Args:
        log_format: one of `config.FORMATS`.
        level: one of `config.LEVELS`; lines below it are not written.
        always: fields of every line.
    """
    global _queue  # noqa: PLW0603  the process has one stderr
    if isinstance(sys.stderr, QueuedStderr):
        _queue = sys.stderr
        _queue.notice = partial(_missing, log_format, always)
    handler = _Stderr()
    handler.setFormatter(_LineFormatter(log_format, always))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)


def event(name: str, /, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event.

    Args:
        name: name of the event, one word.
        level: level of `logging`.
        fields: strings, numbers or lists of them; None is omitted.
    """
    if _logger.isEnabledFor(level):
        _logger.log(level, name, extra={"fields": fields})


class Repeats:
    """Limits repeated messages, so that an error of every request does not fill the disk. Callers pass the time."""

    def __init__(self, every_s: float = REPEAT_S, most: int = 256) -> None:
        self._every_s = every_s
        self._most = most
        self._told: dict[str, tuple[float, int]] = {}

    def left_out(self, key: str, now: float) -> int | None:
        """Return the number of omitted repeats if the message is due; otherwise count it and return None."""
        last, count = self._told.get(key, (-self._every_s, 0))
        if now - last < self._every_s:
            self._told[key] = last, count + 1
            return None
        if len(self._told) >= self._most:
            self._told.clear()
        self._told[key] = now, 0
        return count


_repeats = Repeats()


def failure(request: str, error: BaseException) -> None:
    """Log an error of the model or the server with its traceback; equal errors at most every REPEAT_S seconds.

    Args:
        request: method and path.
        error: the error.
    """
    cause = error.__cause__ or error
    left_out = _repeats.left_out(f"{type(cause).__name__}: {cause}"[:500], time.monotonic())
    if left_out is not None:
        fields = {"request": request, "left_out": left_out or None}
        _logger.error("request_failed", exc_info=error, extra={"fields": fields})


# -- lines


class _Stderr(logging.StreamHandler[Any]):
    """Writes to the current stderr, which a spinner may replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property  # like logging's handler of last resort
    def stream(self) -> Any:
        return sys.stderr


class _LineFormatter(logging.Formatter):
    def __init__(self, log_format: str, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._format = log_format
        self._always = dict(always)

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            name, said = record.msg, dict(fields)
        else:  # from another library
            name, said = "log", {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            said["error"] = f"{type(error).__name__}: {error}"
            said["traceback"] = "".join(traceback.format_exception(error)).rstrip()
        line = line_of(self._format, record.created, record.levelname.lower(), name, self._always | said)
        return mask_credentials(line)


def line_of(log_format: str, at: float, level: str, name: str, fields: Mapping[str, Any]) -> str:
    """Return a line without its line end.

    Args:
        log_format: one of `config.FORMATS`.
        at: seconds since 1970.
        level: such as info.
        name: name of the event.
        fields: further fields in order; None is omitted. In text format a traceback follows on separate lines.
    """
    said = {key: value for key, value in fields.items() if value is not None}
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if log_format == "json":
        return orjson.dumps({"time": when, "level": level, "event": name, **said}, default=str).decode()
    trace = said.pop("traceback", None)
    words = [when, level, name, *(f"{key}={_word(value)}" for key, value in said.items())]
    return " ".join(words) + (f"\n{trace}" if trace else "")


def _word(value: Any) -> str:
    """Return a value as one word, quoted and escaped if necessary."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text and text.isprintable() and not any(letter in text for letter in ' "='):
        return text
    return orjson.dumps(text, default=str).decode()


def _missing(log_format: str, always: Mapping[str, Any], lines: int) -> str:
    fields = {**always, "lines": lines, "reason": "stderr was full, closed, or not read"}
    return f"{line_of(log_format, time.time(), 'warning', 'log_dropped', fields)}\n"


def dropped_lines() -> int:
    """Return the number of log lines dropped because stderr was full, closed or not read."""
    return _queue.dropped_lines if _queue is not None else 0


def write(text: str) -> None:
    """Write lines to stderr unchanged; wait for room."""
    if isinstance(sys.stderr, QueuedStderr):
        sys.stderr.write_whole(text)
        return
    sys.stderr.write(text)
    sys.stderr.flush()
