"""Infer calls over gRPC: conversion of messages to arrays and back. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nograd.core.tensors import Array, TensorSpec
from nograd.errors import ProtocolError
from nograd.server.grpc.messages import ModelInferResponse
from nograd.server.protocol.binary import packed, tensor, text
from nograd.server.protocol.datatypes import convert_input, datatype_of, numpy_dtype, require_inputs, spec_of
from nograd.server.protocol.request import InferRequest, priority_of, shorter, timeout_of
from nograd.server.protocol.request_limits import NO_LIMITS, RequestLimits
from nograd.server.protocol.shapes import count_elements, reshape, shorten

__all__ = ["message", "read", "write"]

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Message field of each datatype's elements; FP16 and BF16 have none."""

SLICE = 2**15
"""Elements that are converted at a time: about 2 ms."""


def read(request: Any, inputs: Sequence[TensorSpec], left_s: float | None, limits: RequestLimits = NO_LIMITS) -> InferRequest:
    """Read an infer call.

    Args:
        request: a ModelInferRequest.
        inputs: specs of the model's inputs; datatypes are compared with them, shapes are not.
        left_s: seconds until the call's deadline, if it has one; a shorter `parameters.timeout` has precedence.
        limits: limits of one request; rows and elements are checked before the data is read.

    Raises:
        ProtocolError: the message violates the protocol, or a datatype does not match the model; the message says which.
        TooLargeError: an input exceeds a limit.
    """
    given_inputs, raw = request.inputs, request.raw_input_contents
    require_inputs(len(given_inputs), inputs)
    if raw and len(raw) != len(given_inputs):
        raise ProtocolError(
            f"raw_input_contents has {len(raw)} entries for {len(given_inputs)} inputs; there is one for each, or none at all"
        )
    arrays: dict[str, Array] = {}
    for index, given in enumerate(given_inputs):
        name = given.name
        if name in arrays:
            raise ProtocolError(f"input {name!r} is given twice")
        spec = spec_of(name, given.datatype, inputs)
        limits.check_shape(name, given.shape)
        if not raw:
            arrays[name] = convert_input(name, _typed(given, numpy_dtype(given.datatype)), spec)
            continue
        if given.HasField("contents"):
            raise ProtocolError(f"input {name!r} has contents, and there are raw_input_contents; a request has one of them")
        values = tensor(name, memoryview(raw[index]), list(given.shape), numpy_dtype(given.datatype))
        arrays[name] = convert_input(name, values, spec)
    for name, array in arrays.items():
        limits.check_texts(name, array)
    wanted = tuple([output.name for output in request.outputs])
    timeout_s = shorter(timeout_of(_parameter(request, "timeout")), left_s)
    priority = priority_of(_parameter(request, "priority"))
    return InferRequest(arrays, wanted, request.id or None, timeout_s, is_binary=_wants_raw(request), priority=priority)


def write(request: InferRequest, model_name: str, model_version: str, request_id: str, outputs: Mapping[str, Array]) -> bytes:
    """Return the serialized ModelInferResponse; see `message`."""
    done: bytes = message(request, model_name, model_version, request_id, outputs).SerializeToString()
    return done


def message(request: InferRequest, model_name: str, model_version: str, request_id: str, outputs: Mapping[str, Array]) -> Any:
    """Return the ModelInferResponse, with raw contents if the request wants that or a datatype requires it.

    Raises:
        ModelError: the protocol has no datatype for an output, or a text is not valid UTF-8.
    """
    answer = ModelInferResponse(model_name=model_name, model_version=model_version, id=request_id)
    kinds = {name: datatype_of(name, array) for name, array in outputs.items()}
    is_raw = request.is_binary or not all(kind in CONTENTS for kind in kinds.values())
    for name, array in outputs.items():
        kind = kinds[name]
        output = answer.outputs.add(name=name, datatype=kind, shape=array.shape)
        if is_raw:
            answer.raw_output_contents.append(bytes(packed(name, array)))
        else:
            _extend(getattr(output.contents, CONTENTS[kind]), array)
    return answer


def _wants_raw(request: Any) -> bool:
    """Return whether outputs come in raw contents: as HTTP's parameter says, or else if the inputs do."""
    if "binary_data_output" not in request.parameters:
        return bool(request.raw_input_contents)
    given = _parameter(request, "binary_data_output")
    if given is not None and not isinstance(given, bool):
        raise ProtocolError(f"parameters.binary_data_output is {shorten(given)}; it is true or false")
    return bool(given)


def _parameter(request: Any, name: str) -> Any:
    """Return a parameter's value; 0 if it is missing."""
    if name not in request.parameters:  # indexing a protobuf map would create the entry
        return 0
    given = request.parameters[name]
    choice = given.WhichOneof("parameter_choice")
    return getattr(given, choice) if choice else None


def _typed(given: Any, dtype: np.dtype[Any]) -> Array:
    """Return the tensor in a request's `contents`."""
    name, kind, shape = given.name, given.datatype, list(given.shape)
    if kind not in CONTENTS:
        raise ProtocolError(f"input {name!r} is {kind}, which must be in raw_input_contents")
    for field, _ in given.contents.ListFields():
        if field.name != CONTENTS[kind]:
            raise ProtocolError(f"input {name!r} has {field.name}; {kind} must be in {CONTENTS[kind]}")
    values, count = getattr(given.contents, CONTENTS[kind]), count_elements(name, shape)
    if count != len(values):
        raise ProtocolError(f"input {name!r} has shape {shape}, so {count} elements; its contents have {len(values)}")
    return reshape(name, _array(name, kind, values, dtype), shape)


def _array(name: str, kind: str, values: Any, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        texts = np.empty(len(values), dtype=object)
        texts[:] = [text(name, memoryview(value)) for value in values]
        return texts
    if dtype.kind not in "iu" or dtype.itemsize >= 4:
        return _numbers(values, dtype)
    wide, limits = _numbers(values, np.dtype(np.int64)), np.iinfo(dtype)
    beyond = wide[(wide < limits.min) | (wide > limits.max)]
    if beyond.size:
        raise ProtocolError(f"input {name!r} contains {beyond[0]}; {kind} goes from {limits.min} to {limits.max}")
    return wide.astype(dtype)


def _numbers(values: Any, dtype: np.dtype[Any]) -> Array:
    """Return numbers as an array, converted in slices: one call in C would hold the GIL for its whole time."""
    if len(values) <= SLICE:
        return np.fromiter(values, dtype, len(values))
    array = np.empty(len(values), dtype)
    for at in range(0, len(values), SLICE):
        piece = values[at : at + SLICE]
        array[at : at + SLICE] = np.fromiter(piece, dtype, len(piece))
    return array


def _extend(field: Any, array: Array) -> None:
    """Add an output's elements to its field, in slices."""
    flat = array.ravel()
    for at in range(0, max(1, flat.size), SLICE):
        field.extend(_elements(flat[at : at + SLICE]))


def _elements(array: Array) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    return [value if isinstance(value, bytes) else str(value).encode() for value in array]
