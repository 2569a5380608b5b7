"""Client and AsyncClient: calls of any server of the Open Inference Protocol, version 2, over HTTP. Extra: client.

>>> client = Client("http://127.0.0.1:8000")  # doctest: +SKIP
>>> client.infer("classifier", {"x": np.zeros((1, 16), np.float32)})["output"].shape  # doctest: +SKIP
(1, 4)
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from nograd.client.calls import ClientCalls, Failure, Pause, Steps, ready_path
from nograd.client.wire import Message, Response
from nograd.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    import httpx

    from nograd.core.tensors import Array

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")


class Client:
    """Calls a server and waits for each response. Threads may share a client.

    Args:
        url: address of the server, such as `http://127.0.0.1:8000`.
        api_key: sent as `Authorization: Bearer KEY`.
        timeout_s: seconds of one call with all its retries; the server gets the time that is left as the request's deadline.
        retries: further attempts if no connection was made, or the server responds with 429 or 503; the pause is that of
            `Retry-After`, else 0.1 s, doubled each time.
        binary: tensors as bytes after the JSON (extension binary_tensor_data); False sends JSON only.
        verify: for https: True, False, or the path of a file with certificates.

    Raises:
        ConfigError: a setting is out of its range.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        binary: bool = True,
        verify: bool | str = True,
    ) -> None:
        settings = _settings(url, api_key=api_key, verify=verify)
        self._calls = ClientCalls(timeout_s, retries, binary, time.monotonic)
        self._http: httpx.Client = _httpx().Client(**settings)
        self._sleep: Callable[[float], object] = time.sleep

    def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        parameters: Mapping[str, str | int | float | bool] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run a model.

        Args:
            model: its name.
            inputs: by name, `[rows, ...]`: arrays, tensors or lists; or the value of a model's only input. Arrays and tensors
                keep their dtype, lists take that of the model's metadata, which are read once. Text is a list of strings.
            version: of the model; None is the newest.
            outputs: names of the outputs to return; None returns all.
            request_id: repeated in the server's log and response.
            parameters: of the request, such as `{"priority": 1}`.
            timeout_s: of this call instead of the client's.

        Returns:
            Outputs by name, `[rows, ...]`; text as an array of strings.

        Raises:
            SignatureError: names or values are not those of the model's metadata.
            ProtocolError: the server refused the request (HTTP 400).
            OverloadedError: the queue is full, also after the retries; `retry_after_s` is the time until a retry makes sense.
            UnavailableError: the server cannot be reached, or is not ready.
            DeadlineError: no response in time.
            NogradError: see `nograd.errors` for the others.
        """
        return self._run(self._calls.infer(model, inputs, version, outputs, request_id, parameters, timeout_s))

    def embeddings(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        output: str | None = None,
        timeout_s: float | None = None,
    ) -> Array:
        """Return vectors of texts over `/v1/embeddings`: float32 `[texts, dimensions]`, or `[dimensions]` for one string.

        Args:
            model: its name.
            texts: one string, or a list.
            dimensions: size of the vectors, if the model offers several.
            output: name of the output, if a model has several vectors.
            timeout_s: of this call instead of the client's.

        Raises:
            NogradError: as `infer`.
        """
        return self._run(self._calls.embeddings(model, texts, dimensions, output, timeout_s))

    def metadata(self, model: str | None = None, *, version: str | None = None) -> dict[str, Any]:
        """Return name, versions, inputs and outputs of a model, or name, version and extensions of the server."""
        return self._run(self._calls.metadata(model, version))

    def is_live(self) -> bool:
        """True if the server answers that it is live."""
        return self._run(self._calls.is_healthy("/v2/health/live"))

    def is_ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """True if the server, or one of its models, answers that it is ready."""
        return self._run(self._calls.is_healthy(ready_path(model, version)))

    def wait_until_ready(self, model: str | None = None, *, version: str | None = None, timeout_s: float = 60.0) -> None:
        """Return when the server, or one of its models, is ready.

        Raises:
            DeadlineError: it was not within `timeout_s` seconds.
        """
        self._run(self._calls.wait_until_ready(model, version, timeout_s))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(self._send(step))
        except StopIteration as done:
            found: T = done.value
            return found

    def _send(self, message: Message) -> Response | Failure:
        try:
            response = self._http.request(
                message.method,
                message.path,
                headers=dict(message.headers),
                content=message.body or None,
                timeout=message.timeout_s,
            )
        except _httpx().TransportError as error:
            return _failure(error)
        return Response(response.status_code, dict(response.headers), response.content)


class AsyncClient:
    """`Client` for asyncio: the same calls, to be awaited. One event loop may run many of them at once.

    Args:
        url: and all others as for `Client`.

    Raises:
        ConfigError: a setting is out of its range.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
        binary: bool = True,
        verify: bool | str = True,
    ) -> None:
        settings = _settings(url, api_key=api_key, verify=verify)
        self._calls = ClientCalls(timeout_s, retries, binary, time.monotonic)
        self._http: httpx.AsyncClient = _httpx().AsyncClient(**settings)
        self._sleep: Callable[[float], Coroutine[Any, Any, object]] = asyncio.sleep

    async def infer(
        self,
        model: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        parameters: Mapping[str, str | int | float | bool] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run a model; arguments, result and errors as `Client.infer`."""
        return await self._run(self._calls.infer(model, inputs, version, outputs, request_id, parameters, timeout_s))

    async def embeddings(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        output: str | None = None,
        timeout_s: float | None = None,
    ) -> Array:
        """Return vectors of texts; arguments, result and errors as `Client.embeddings`."""
        return await self._run(self._calls.embeddings(model, texts, dimensions, output, timeout_s))

    async def metadata(self, model: str | None = None, *, version: str | None = None) -> dict[str, Any]:
        """Return the metadata of a model, or of the server."""
        return await self._run(self._calls.metadata(model, version))

    async def is_live(self) -> bool:
        """True if the server answers that it is live."""
        return await self._run(self._calls.is_healthy("/v2/health/live"))

    async def is_ready(self, model: str | None = None, *, version: str | None = None) -> bool:
        """True if the server, or one of its models, answers that it is ready."""
        return await self._run(self._calls.is_healthy(ready_path(model, version)))

    async def wait_until_ready(self, model: str | None = None, *, version: str | None = None, timeout_s: float = 60.0) -> None:
        """Return when the server, or one of its models, is ready.

        Raises:
            DeadlineError: it was not within `timeout_s` seconds.
        """
        await self._run(self._calls.wait_until_ready(model, version, timeout_s))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(await self._send(step))
        except StopIteration as done:
            found: T = done.value
            return found

    async def _send(self, message: Message) -> Response | Failure:
        try:
            response = await self._http.request(
                message.method,
                message.path,
                headers=dict(message.headers),
                content=message.body or None,
                timeout=message.timeout_s,
            )
        except _httpx().TransportError as error:
            return _failure(error)
        return Response(response.status_code, dict(response.headers), response.content)


def _httpx() -> Any:
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise MissingExtraError("httpx", "client") from error
    return httpx


def _settings(url: str, *, api_key: str | None, verify: bool | str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"url is {url!r}; it must be an address such as http://127.0.0.1:8000")
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return {
        "base_url": url.rstrip("/"),
        "headers": headers,
        "verify": _certificates(verify) if isinstance(verify, str) else verify,
    }


def _certificates(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"verify is {path!r}; it must be a file of certificates in PEM: {error}") from error


def _failure(error: Exception) -> Failure:
    httpx = _httpx()
    was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Failure(error, was_sent, timed_out=isinstance(error, httpx.TimeoutException))
