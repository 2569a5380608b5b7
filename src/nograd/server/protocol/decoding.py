"""The Open Inference Protocol, version 2, over JSON: from the body of an infer call to arrays. Pure functions without HTTP or
models.

Specification: kserve/open-inference-protocol, specification/protocol/inference_rest.md and open_inference_rest.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, prod

import msgspec
import numpy as np

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ProtocolError
from nograd.server.protocol.binary import BinaryTail, raw_input
from nograd.server.protocol.datatypes import convert_input, numpy_dtype, require_inputs, spec_of
from nograd.server.protocol.json_arrays import JsonInput, array_of
from nograd.server.protocol.long_data import LONG_DATA, hollow, mark, require_short_rest
from nograd.server.protocol.long_texts import hollow_texts
from nograd.server.protocol.request import InferRequest, Parameters, priority_of, timeout_of
from nograd.server.protocol.request_limits import NO_LIMITS, RequestLimits
from nograd.server.protocol.shapes import MAX_DIMENSIONS, shorten

__all__ = ["FLOAT32_MAX", "SHORT_BODY", "Decoder", "decode"]

FLOAT32_MAX = float(np.finfo(np.float32).max)

SHORT_BODY = 4096
"""Maximum bytes of a body for the fast path; parsing a longer one twice costs more."""


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, str | int | float | bool | None] | None = None


class _Request(msgspec.Struct, frozen=True):
    inputs: list[JsonInput]
    outputs: list[_Output] | None = None
    id: str | None = None
    parameters: dict[str, str | int | float | bool | None] | None = None


_DECODE = msgspec.json.Decoder(_Request)


class _FlatNumbers(msgspec.Struct, frozen=True):
    """An input whose data is a flat list of numbers, parsed in one pass with the rest of the body."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[float]
    parameters: dict[str, str | int | float | bool | None] | None = None


class _FlatRequest(msgspec.Struct, frozen=True):
    inputs: list[_FlatNumbers]
    outputs: list[_Output] | None = None
    id: str | None = None
    parameters: dict[str, str | int | float | bool | None] | None = None


_DECODE_FLAT = msgspec.json.Decoder(_FlatRequest)


class Decoder:
    """`decode` for one model, with a fast path for the most frequent requests: flat lists of a few numbers.

    Args:
        inputs: the tensors that the model takes.
        limits: limits of one request.
    """

    def __init__(self, inputs: Sequence[TensorSpec], limits: RequestLimits = NO_LIMITS) -> None:
        self._inputs = inputs
        self._limits = limits
        self._short_elements = min(limits.rows, limits.elements)
        self._float32 = frozenset(spec.name for spec in inputs if spec.dtype == "float32")
        self._is_float32 = len(self._float32) == len(inputs)

    def __call__(self, body: bytes, tail: memoryview | None = None) -> InferRequest:
        """Return the request in an infer call's body; arguments and errors as for `decode`."""
        if tail is None and self._is_float32 and len(body) <= SHORT_BODY and (request := self._short(body)) is not None:
            return request
        return decode(body, self._inputs, tail, self._limits)

    def _short(self, body: bytes) -> InferRequest | None:
        """Return the request; None if it is unusual, so that `decode` must handle it."""
        try:
            request = _DECODE_FLAT.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        arrays: dict[str, Array] = {}
        for given in request.inputs:
            values, shape = given.data, given.shape
            usual = given.datatype == "FP32" and given.name in self._float32 and not given.parameters
            # the norm of all numbers bounds each number, and the number of elements bounds each size
            if (
                not usual
                or not hypot(*values) <= FLOAT32_MAX
                or not _is_filled(shape, len(values))
                or len(values) > self._short_elements
            ):
                return None
            arrays[given.name] = np.array(values, dtype=np.float32).reshape(shape)
        parameters = request.parameters or {}
        if len(arrays) != len(request.inputs) or not arrays or "binary_data_output" in parameters:
            return None
        if request.outputs and any(output.parameters for output in request.outputs):
            return None
        wanted = tuple([output.name for output in request.outputs]) if request.outputs else ()
        if not parameters:
            return InferRequest(arrays, wanted, request.id)
        timeout_s, priority = timeout_of(parameters.get("timeout")), priority_of(parameters.get("priority"))
        return InferRequest(arrays, wanted, request.id, timeout_s, priority=priority)


def _is_filled(shape: Sequence[int], count: int) -> bool:
    """Return whether the number of elements fills a shape without zeros, in time that does not depend on the sizes."""
    sizes_fit = len(shape) <= MAX_DIMENSIONS and min(shape, default=1) >= 1 and max(shape, default=1) <= count
    return sizes_fit and prod(shape) == count


def decode(
    body: bytes, inputs: Sequence[TensorSpec], tail: memoryview | None = None, limits: RequestLimits = NO_LIMITS
) -> InferRequest:
    """Return the request in an infer call's body.

    Args:
        body: UTF-8 JSON; empty if the tail is a raw request (the bytes of the single input).
        inputs: the tensors that the model takes; datatypes are compared with them, shapes are not.
        tail: the bytes after the JSON, if the request announces them.
        limits: of one request; rows and elements are checked before the data is decoded.

    Raises:
        ProtocolError: the body violates the protocol, or a datatype differs from the model's. The message names the tensor.
        TooLargeError: an input exceeds a limit.
    """
    if tail is not None and not body:
        raw = raw_input(tail, inputs)
        for name, array in raw.items():
            limits.check_shape(name, array.shape)
            limits.check_texts(name, array)
        return InferRequest(raw, is_binary=True)
    long: list[bytes] = []
    if len(body) > LONG_DATA:
        has_texts = any(spec.dtype == TEXT for spec in inputs)
        body, long = hollow_texts(body, b'"data"', max_texts=limits.max_texts(inputs)) if has_texts else hollow(body)
        require_short_rest(body)
    try:
        request = _DECODE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the body is not an inference request: {error}") from None
    require_inputs(len(request.inputs), inputs)
    arrays: dict[str, Array] = {}
    octets = BinaryTail(tail if tail is not None else memoryview(b""))
    for given in request.inputs:
        if given.name in arrays:
            raise ProtocolError(f"input {given.name!r} is given twice")
        spec = spec_of(given.name, given.datatype, inputs)
        limits.check_shape(given.name, given.shape)
        values = array_of(_filled(given, long), numpy_dtype(given.datatype), octets, limits.text_chars)
        arrays[given.name] = convert_input(given.name, values, spec)
        limits.check_texts(given.name, arrays[given.name])
    octets.require_empty()
    wanted = tuple(output.name for output in request.outputs) if request.outputs else ()
    parameters = request.parameters or {}
    is_binary = bool(_flag(parameters, "binary_data_output"))
    formats = [(output.name, _flag(output.parameters or {}, "binary_data")) for output in request.outputs or ()]
    by_name = {name: flag for name, flag in formats if flag is not None}
    timeout_s, priority = timeout_of(parameters.get("timeout")), priority_of(parameters.get("priority"))
    return InferRequest(arrays, wanted, request.id, timeout_s, is_binary, by_name, priority)


def _filled(given: JsonInput, long: Sequence[bytes]) -> JsonInput:
    """Return an input of a hollow body with its removed array."""
    if long and bytes(memoryview(given.data)[:7]) == mark(0)[:7]:
        for position, array in enumerate(long):
            if bytes(given.data) == mark(position):
                return msgspec.structs.replace(given, data=msgspec.Raw(array))
    return given


def _flag(parameters: Parameters, name: str) -> bool | None:
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise ProtocolError(f"parameters.{name} is {shorten(flag)}; it must be true or false")
    return flag
