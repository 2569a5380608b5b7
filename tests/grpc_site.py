"""A gRPC front over models without torch, and a channel to it, on the site's event loop."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from nograd import Backend
from nograd.core.tensors import Array
from nograd.server.grpc.front import GrpcFront
from nograd.server.grpc.messages import SERVICE, ModelInferRequest, ModelInferResponse
from nograd.server.protocol.binary import packed
from nograd.server.protocol.datatypes import datatype_of
from tests.fakes import Site

METHOD = f"/{SERVICE}/ModelInfer"


class GrpcSite(Site):
    """A Site that listens on a free port of 127.0.0.1, too; `channel` is for calls from its own loop."""

    def __init__(self, models: Mapping[str, Backend], **settings: Any) -> None:
        super().__init__(models, grpc_port=0, **settings)
        self.port = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.run(self._open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self._close())
        super().__exit__(kind, error, trace)

    async def _open(self) -> None:
        self.front = GrpcFront(self.service)
        self.port = await self.front.start()
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", unlimited)

    async def _close(self) -> None:
        await self.channel.close()
        await self.front.stop(0)

    async def bytes_call(self, body: bytes, method: str = METHOD, **more: Any) -> bytes:
        """Return the serialized answer to a serialized message."""
        answer: bytes = await self.channel.unary_unary(method)(body, **more)
        return answer

    async def call(self, request: Any, **more: Any) -> Any:
        """Return the answer to a ModelInferRequest."""
        return ModelInferResponse.FromString(await self.bytes_call(request.SerializeToString(), **more))

    def refusal(self, request: Any, **more: Any) -> tuple[str, str]:
        """Return the code's name and the sentence of a ModelInferRequest's refusal."""
        try:
            answer = self.run(self.call(request, **more))
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"it was answered: {answer}")


def raw_request(model: str, arrays: Mapping[str, Array], **more: Any) -> Any:
    """Return a ModelInferRequest with these tensors in raw_input_contents."""
    request = ModelInferRequest(model_name=model, **more)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=datatype_of(name, array), shape=array.shape)
        request.raw_input_contents.append(bytes(packed(name, array)))
    return request


def rows(*values: list[float]) -> dict[str, Array]:
    """Return rows as the input of a doubling model."""
    return {"x": np.array(values, np.float32)}
