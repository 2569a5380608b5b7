"""Calls of a client as steps: each yields a message or a pause and receives a response. Pure; `api` sends and waits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from nograd.client.wire import (
    DTYPES,
    Message,
    Response,
    embeddings_message,
    error_of,
    infer_message,
    model_path,
    read_embeddings,
    read_json,
    read_outputs,
    retry_after_s,
)
from nograd.core.inputs import to_host
from nograd.core.tensors import Array
from nograd.errors import ConfigError, DeadlineError, ProtocolError, SignatureError, UnavailableError

__all__ = ["ClientCalls", "Failure", "Pause", "Steps"]

FIRST_PAUSE_S = 0.1
"""Pause before the first retry without `Retry-After`; each further pause is twice as long."""

LONGEST_PAUSE_S = 5.0

POLL_S = 0.1
"""Pause between two readiness requests."""

DEADLINE = "x-envoy-expected-rq-timeout-ms"

RETRIED = (429, 503)
"""Statuses of requests that were refused before they ran."""


class Pause(NamedTuple):
    """Wait before the next step."""

    seconds: float


class Failure(NamedTuple):
    """A message without a response."""

    error: Exception
    was_sent: bool
    """False: no connection, so the server has not seen the request."""

    timed_out: bool


T = TypeVar("T")
Steps: TypeAlias = Generator[Message | Pause, Response | Failure | None, T]


@dataclass(slots=True)
class ClientCalls:
    """The calls of one client.

    Args:
        timeout_s: seconds of one call with all its retries.
        retries: attempts after the first, if the server cannot be reached or refuses with 429 or 503.
        binary: send and receive tensors as bytes after the JSON.
        clock: seconds, monotonic.
    """

    timeout_s: float
    retries: int
    binary: bool
    clock: Callable[[], float]
    _metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be above 0")
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}; it must be 0 or more")

    def infer(
        self,
        model: str,
        inputs: Any,
        version: str | None,
        outputs: Sequence[str] | None,
        request_id: str | None,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
    ) -> Steps[dict[str, Array]]:
        """Run a model."""
        path = model_path(model, version)
        end = self._end(timeout_s)
        if isinstance(inputs, Mapping) and all(_has_dtype(value) for value in inputs.values()):
            arrays = {name: np.asarray(to_host(value)) for name, value in inputs.items()}
        else:
            if path not in self._metadata:
                self._metadata[path] = read_json((yield from self._answer(Message("GET", path), end)))
            arrays = _arrays(inputs, self._metadata[path].get("inputs") or [])
        message = infer_message(path, arrays, outputs=outputs, request_id=request_id, parameters=parameters, binary=self.binary)
        try:
            return read_outputs((yield from self._answer(message, end)))
        except ProtocolError:
            self._metadata.pop(path, None)  # the model may be another one by now
            raise

    def embeddings(
        self, model: str, texts: str | Sequence[str], dimensions: int | None, output: str | None, timeout_s: float | None
    ) -> Steps[Array]:
        """Embed texts."""
        is_one = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise SignatureError("texts is empty; give a string or a list of strings")
        message = embeddings_message(model, given, dimensions=dimensions, output=output)
        found = read_embeddings((yield from self._answer(message, self._end(timeout_s))))
        return found[0] if is_one else found

    def metadata(self, model: str | None, version: str | None) -> Steps[dict[str, Any]]:
        """Return the metadata of a model or of the server."""
        message = Message("GET", "/v2" if model is None else model_path(model, version))
        found: dict[str, Any] = read_json((yield from self._answer(message, self._end(None))))
        return found

    def is_healthy(self, path: str, timeout_s: float | None = None) -> Steps[bool]:
        """Return whether a health path answers 200; False if the server cannot be reached."""
        got = yield Message("GET", path, timeout_s=self.timeout_s if timeout_s is None else timeout_s)
        return isinstance(got, Response) and got.status == 200

    def wait_until_ready(self, model: str | None, version: str | None, timeout_s: float) -> Steps[None]:
        """Wait until the server, or a model, is ready."""
        path, end = ready_path(model, version), self.clock() + timeout_s
        while not (yield from self.is_healthy(path, max(POLL_S, end - self.clock()))):
            if self.clock() + POLL_S >= end:
                raise DeadlineError(f"{path} was not ready within {timeout_s:g} s")
            yield Pause(POLL_S)

    def _end(self, timeout_s: float | None) -> float:
        seconds = self.timeout_s if timeout_s is None else timeout_s
        if not seconds > 0:
            raise ConfigError(f"timeout_s is {seconds}; it must be above 0")
        return self.clock() + seconds

    def _answer(self, message: Message, end: float) -> Steps[Response]:
        """Send a message, and retry it if that is safe; return a response with status 2xx.

        Args:
            message: of the call.
            end: of the call, on the clock.

        Raises:
            NogradError: the server refused or failed, cannot be reached, or the time is over.
        """
        attempt = 0
        while True:
            left = end - self.clock()
            if left <= 0:
                raise DeadlineError(f"{message.method} {message.path}: the timeout is over")
            headers = {**message.headers, DEADLINE: str(max(1, int(left * 1000)))}
            got = yield from _send(message._replace(headers=headers, timeout_s=left))
            if isinstance(got, Response) and 200 <= got.status < 300:
                return got
            wait_s = _pause_s(got, attempt) if attempt < self.retries else None
            if wait_s is None or wait_s >= end - self.clock():
                raise _error(message, got)
            yield Pause(wait_s)
            attempt += 1


def ready_path(model: str | None, version: str | None) -> str:
    """Return the readiness path of the server, or of a model."""
    return "/v2/health/ready" if model is None else f"{model_path(model, version)}/ready"


def _pause_s(got: Response | Failure, attempt: int) -> float | None:
    """Return the pause before a retry; None if a retry is wrong: the request may have run, or would fail again."""
    pause: float = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
    if isinstance(got, Failure):
        return None if got.was_sent else pause
    if got.status not in RETRIED:
        return None
    wanted = retry_after_s(got)
    return pause if wanted is None else wanted


def _send(message: Message) -> Steps[Response | Failure]:
    got = yield message
    if got is None:
        raise TypeError("a message needs a response")
    return got


def _error(message: Message, got: Response | Failure) -> Exception:
    if isinstance(got, Response):
        return error_of(got)
    what = f"{message.method} {message.path}"
    kind, why = (DeadlineError, "no response in time") if got.timed_out else (UnavailableError, "the server cannot be reached")
    error = kind(f"{what}: {why}: {got.error}")
    error.__cause__ = got.error
    return error


def _has_dtype(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _arrays(inputs: Any, specs: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return inputs by name, lists in the datatype of the model's metadata.

    Args:
        inputs: a mapping by name, or the value of a model's only input.
        specs: the model's inputs: name, datatype, shape.
    """
    names = [spec["name"] for spec in specs]
    if not isinstance(inputs, Mapping):
        if len(specs) != 1:
            raise SignatureError(f"the model takes {', '.join(map(repr, names))}: give a dict with these names")
        inputs = {names[0]: inputs}
    kinds = {spec["name"]: spec["datatype"] for spec in specs}
    found = {}
    for name, value in inputs.items():
        if name not in kinds:
            raise SignatureError(f"input {name!r} is not the model's; it takes {', '.join(map(repr, names))}")
        try:
            found[name] = np.asarray(to_host(value)) if _has_dtype(value) else _array_of_list(value, DTYPES[kinds[name]])
        except (TypeError, ValueError, OverflowError) as error:
            raise SignatureError(f"input {name!r} is not an array of {kinds[name]}: {error}") from error
    return found


def _array_of_list(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return a list, or a list of arrays, as one array; text as an array of objects."""
    if dtype.kind == "O":
        return np.array([value] if isinstance(value, str | bytes) else value, dtype=object)
    rows = [to_host(row) for row in value] if isinstance(value, list | tuple) else value
    array = np.asarray(rows)
    converted = array.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(converted, array):
        raise ValueError("values have a fraction, or are out of range")
    return converted
