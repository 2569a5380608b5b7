"""Models without torch, and a server without sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import unquote

import numpy as np

from nograd import Backend, CostCurve, Predictor, Signature, TensorSpec
from nograd.core.tensors import Array, Batch
from nograd.server.http.app import App
from nograd.server.models.service import InferenceService
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig, open_model
from tests.waiting import HANG_S

T = TypeVar("T")

X = TensorSpec("x", "float32", (2,))
OUTPUT = TensorSpec("output", "float32", (2,))

DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "bytes",
}  # fmt: skip
"""Every datatype that JSON can carry, and the dtype that it is."""

Message = dict[str, Any]


class Fake(Backend):
    """A backend that is a function, and remembers what it was given."""

    name = "fake"
    device = "cpu"

    def __init__(self, function: Callable[[Batch], Batch], signature: Signature, *, lanes: int = 1) -> None:
        self.signature = signature
        self.lanes = lanes
        self.runs: list[Batch] = []
        self._function = function

    def run(self, batch: Batch) -> Batch:
        self.runs.append(batch)
        return self._function(batch)


def doubling() -> Fake:
    """`output` is twice `x`, FP32 [-1, 2]."""
    return Fake(lambda batch: {"output": batch["x"] * 2}, Signature((X,), (OUTPUT,), reason="rows are independent"))


def echoing(spec: TensorSpec) -> Fake:
    """The output is the only input."""
    return Fake(dict, Signature((spec,), (spec,)))


def flat_cost(_predictor: Predictor, _part: Batch, max_batch_size: int) -> CostCurve:
    """A run takes a millisecond, whatever its rows: instead of `measure_cost`, on which it depends how a request is cut."""
    return CostCurve(tuple(sorted({1, max_batch_size})), (0.001,) * len({1, max_batch_size}))


GATE = 42.0
"""A row that holds this value keeps the model busy until the test opens the gate."""


@dataclass
class Gate:
    """Holds a model in its run."""

    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def model(self) -> Fake:
        """Doubling, but a run with a GATE in it waits to be let out."""

        def run(batch: Batch) -> Batch:
            np.sort(np.arange(200_000) * 7919 % 200_003)  # longer than a hand-over: such a model gets a thread of its own
            self.pass_through(batch["x"])
            return {"output": batch["x"] * 2}

        return Fake(run, Signature((X,), (OUTPUT,)))

    def pass_through(self, values: Array) -> None:
        """Wait to be let out if there is a GATE among the values."""
        if (values == GATE).any():
            self.entered.set()
            if not self.opened.wait(HANG_S):
                raise RuntimeError("nobody opened the gate")

    async def wait_entered(self) -> None:
        """Return when the model is inside."""
        assert await asyncio.to_thread(self.entered.wait, HANG_S)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal, whose form is checked, too."""
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        assert "Traceback" not in self.json["error"]
        return str(self.json["error"])

    def data(self, output: str = "output") -> Any:
        """The data of one output of an infer answer."""
        assert self.status == 200, self.body
        return next(each["data"] for each in self.json["outputs"] if each["name"] == output)


async def asgi(
    app: App, method: str, path: str, body: bytes | Sequence[bytes] = b"", *, headers: Mapping[str, str] | None = None,
    left: Awaitable[object] | None = None,
) -> Reply | None:  # fmt: skip
    """Return the application's answer to one request; None where it sent none.

    Args:
        app: the application.
        method: of HTTP.
        path: percent-encoded.
        body: whole, or in the pieces in which it comes.
        headers: of the request.
        left: when this is done, the client has gone; None stays for ever.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    coming = [{"type": "http.request", "body": each, "more_body": i < len(pieces)} for i, each in enumerate(pieces, 1)]
    sent: list[Any] = []

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await (left or asyncio.Event().wait())
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "headers": raw,
        "query_string": b"",
    }
    await app(scope, receive, send)
    if not sent:
        return None
    start, content = sent
    return Reply(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content["body"])


class Site:
    """A server without sockets: an InferenceService behind its application, on an event loop of its own.

    Args:
        models: what is served, by name.
        started: within its context the models are warm and open; else the test does that itself.
        known: models that clients may load, where the settings let them.
        opened: opens one of those.
        settings: of ServeConfig; without `cache_mb` no answers are kept, so that equal requests are run.
    """

    def __init__(
        self,
        models: Mapping[str, Backend | Predictor],
        *,
        started: bool = True,
        known: Sequence[ModelConfig] = (),
        opened: Callable[[ModelConfig, ServeConfig], Predictor] = open_model,
        **settings: Any,
    ) -> None:
        self._started = started
        self.service = InferenceService(ServeConfig(**{"cache_mb": 0, **settings}), known, opened)
        self.app = App(self.service)
        for name, model in models.items():
            self.service.add(name, model if isinstance(model, Predictor) else Predictor(model))
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        if self._started:
            self.run(self.service.start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._started:
            self.run(self.service.stop())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns on the site's loop."""
        return self._runner.run(work)

    def request(
        self, method: str, path: str, body: bytes | Sequence[bytes] = b"", *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Return the answer to one request."""
        reply = self.run(asgi(self.app, method, path, body, headers=headers))
        assert reply is not None
        return reply

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def infer(self, model: str, *inputs: Mapping[str, Any], **more: Any) -> Reply:
        """Return the answer to an infer call."""
        return self.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **more}).encode())


def tensor(name: str, datatype: str, shape: Sequence[int], data: Any) -> dict[str, Any]:
    """Return one input of an infer call."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def x(*rows: Sequence[float]) -> dict[str, Any]:
    """Return rows as the input of a doubling model."""
    return tensor("x", "FP32", [len(rows), 2], [list(row) for row in rows])
