"""The protocol's messages, made from the descriptor beside this file, in a pool of their own.

Other packages (tritonclient, kserve) define the same names in protobuf's default pool, where a second definition is an
error; and code that protoc generates is for some versions of protobuf only, which a descriptor is not (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from nograd.errors import ProtocolError

__all__ = [
    "POOL",
    "SERVICE",
    "ModelConfigRequest",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStatisticsRequest",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryModelLoadRequest",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadRequest",
    "RepositoryModelUnloadResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
    "filled",
    "parse",
]

SERVICE = "inference.GRPCInferenceService"

POOL = descriptor_pool.DescriptorPool()
"""Holds the protocol's file."""

for _file in descriptor_pb2.FileDescriptorSet.FromString(files(__package__).joinpath("inference.binpb").read_bytes()).file:
    POOL.Add(_file)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest, ServerLiveResponse = _message("ServerLiveRequest"), _message("ServerLiveResponse")
ServerReadyRequest, ServerReadyResponse = _message("ServerReadyRequest"), _message("ServerReadyResponse")
ModelReadyRequest, ModelReadyResponse = _message("ModelReadyRequest"), _message("ModelReadyResponse")
ServerMetadataRequest, ServerMetadataResponse = _message("ServerMetadataRequest"), _message("ServerMetadataResponse")
ModelMetadataRequest, ModelMetadataResponse = _message("ModelMetadataRequest"), _message("ModelMetadataResponse")
ModelInferRequest, ModelInferResponse = _message("ModelInferRequest"), _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")
ModelConfigRequest, ModelConfigResponse = _message("ModelConfigRequest"), _message("ModelConfigResponse")
ModelStatisticsRequest, ModelStatisticsResponse = _message("ModelStatisticsRequest"), _message("ModelStatisticsResponse")

RepositoryIndexRequest, RepositoryIndexResponse = _message("RepositoryIndexRequest"), _message("RepositoryIndexResponse")
RepositoryModelLoadRequest = _message("RepositoryModelLoadRequest")
RepositoryModelLoadResponse = _message("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = _message("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = _message("RepositoryModelUnloadResponse")


def filled(kind: Any, value: Mapping[str, Any]) -> Any:
    """Return a message of one of the kinds above with what a JSON object of the same fields says."""
    return json_format.ParseDict(value, kind())


def parse(kind: Any, body: bytes) -> Any:
    """Return a message of one of the kinds above.

    Raises:
        ProtocolError: the bytes are none.
    """
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise ProtocolError(f"the message is not a {kind.DESCRIPTOR.name}: {error}") from None
