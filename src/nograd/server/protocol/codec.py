"""The Open Inference Protocol, version 2, over JSON: bytes to arrays and back. Pure functions; no HTTP, no models.

The texts: kserve/open-inference-protocol, specification/protocol/inference_rest.md and open_inference_rest.yaml.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import hypot, prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from nograd.core.tensors import TEXT, Array, Batch, TensorSpec
from nograd.errors import (
    DeadlineError,
    ForbiddenError,
    InputSizeError,
    MethodError,
    ModelError,
    ModelNotFoundError,
    NogradError,
    OverloadedError,
    ProtocolError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)
from nograd.server.protocol.binary import BinaryAnswer, Tail, packed, raw_input
from nograd.server.protocol.conversion import can_convert, convert
from nograd.server.protocol.long_data import LONG_DATA, count_byte, count_lists, decode_numbers, hollow, mark
from nograd.server.protocol.request_limits import NO_LIMITS, RequestLimits
from nograd.server.protocol.shapes import MAX_DIMENSIONS, MAX_SIZE, count_elements, reshape, shorten

__all__ = [
    "DATATYPES",
    "DEFAULT_PRIORITY",
    "PRIORITY_LEVELS",
    "Decoder",
    "InferRequest",
    "Parameters",
    "convert_input",
    "datatype",
    "datatype_of",
    "decode",
    "encode",
    "encode_binary",
    "numpy_dtype",
    "priority_of",
    "require_datatypes",
    "require_finite",
    "require_inputs",
    "require_outputs",
    "shorter",
    "spec_of",
    "status_of",
    "tensor_metadata",
    "timeout_of",
]

Parameters = Mapping[str, str | int | float | bool | None]

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64", TEXT: "BYTES",
}  # fmt: skip
FLOAT32_MAX = float(np.finfo(np.float32).max)

PRIORITY_LEVELS = 5
"""`parameters.priority` goes from 1, the first, to this, the last."""

DEFAULT_PRIORITY = 3
"""Of a request that names none, or 0: some may go before it, and some behind it."""

SLICE_ELEMENTS = 2**16
"""Elements of a long output that are encoded in one call, which holds the GIL: about 3 ms."""

SHORT_BODY = 4096
"""Bytes of a body that may go the short way: a longer one costs more to look through twice."""

_NUMPY = {dtype: np.dtype(object if dtype == TEXT else dtype) for dtype in _DATATYPES}
_DATATYPE_OF = {_NUMPY[dtype]: name for dtype, name in _DATATYPES.items()}
_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}

DATATYPES = tuple(_DTYPES)
"""The protocol's names of datatypes."""

_STATUS: tuple[tuple[type[NogradError], int], ...] = (
    (InputSizeError, 400),
    (UnauthorizedError, 401),
    (ForbiddenError, 403),
    (ModelNotFoundError, 404),
    (MethodError, 405),
    (TooLargeError, 413),
    (UnsupportedError, 501),
    (OverloadedError, 503),
    (UnavailableError, 503),
    (DeadlineError, 504),
    (ModelError, 500),
)
"""The one table of errors and HTTP codes; any other NogradError is the caller's: 400."""


def status_of(error: Exception) -> int:
    """Return the HTTP status for an error: 400 for what the caller can mend, 500 for what nobody foresaw."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 400 if isinstance(error, NogradError) else 500


# `null` for an optional field means that the client did not set it: generated clients send it so.


class _Input(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, str | int | float | bool | None] | None = None


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, str | int | float | bool | None] | None = None


class _Request(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: str | None = None
    parameters: dict[str, str | int | float | bool | None] | None = None


_DECODE = msgspec.json.Decoder(_Request)
_DECODE_LIST: dict[str, Any] = {
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "b": msgspec.json.Decoder(list[bool]),
    "O": msgspec.json.Decoder(list[str]),
}
_LISTS: dict[str, Any] = {"f": list[float], "i": list[int], "u": list[int], "b": list[bool], "O": list[str]}
_WORDS = {"f": "numbers", "i": "integers", "u": "integers", "b": "true and false", "O": "strings"}


class _FlatNumbers(msgspec.Struct, frozen=True):
    """An input whose data is a flat list of numbers: read in the same pass as the rest."""

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


class InferRequest(NamedTuple):
    """What a client asks for."""

    inputs: Batch
    outputs: tuple[str, ...] = ()
    """Names, in the order wanted; empty for all."""

    id: str | None = None
    timeout_s: float | None = None
    """From `parameters.timeout`, which is in microseconds."""

    is_binary: bool = False
    """Whether outputs come in binary where `binary_by_name` does not say."""

    binary_by_name: Mapping[str, bool] = {}
    priority: int = DEFAULT_PRIORITY - 1
    """Its class, as the batcher counts: 0 goes first. From `parameters.priority`, which counts from 1."""

    def binary_of(self, names: Iterable[str]) -> frozenset[str]:
        """Return which of these outputs are to come in binary."""
        if not self.is_binary and not self.binary_by_name:
            return frozenset()
        return frozenset(name for name in names if self.binary_by_name.get(name, self.is_binary))


def datatype(spec: TensorSpec) -> str:
    """Return the protocol's name for a tensor's dtype, such as `FP32`."""
    return _DATATYPES[spec.dtype]


def require_datatypes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that the protocol has a name for every tensor's dtype.

    Raises:
        UnsupportedError: it has none, as complex numbers have none.
    """
    for what, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.dtype not in _DATATYPES:
                raise UnsupportedError(f"{what} {spec.name!r} is {spec.dtype}; the protocol knows {', '.join(_DATATYPES)}")


def tensor_metadata(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Return name, datatype and shape of tensors; rows and other varying dimensions are -1."""
    return [
        {"name": spec.name, "datatype": datatype(spec), "shape": [-1, *(n if isinstance(n, int) else -1 for n in spec.shape)]}
        for spec in specs
    ]


class Decoder:
    """`decode` for one model, with a short way for what clients of most models send: flat lists of a few numbers.

    Args:
        inputs: the tensors that the model takes.
        limits: of one request.
    """

    def __init__(self, inputs: Sequence[TensorSpec], limits: RequestLimits = NO_LIMITS) -> None:
        self._inputs = inputs
        self._limits = limits
        self._short_elements = min(limits.rows, limits.elements)
        self._float32 = frozenset(spec.name for spec in inputs if spec.dtype == "float32")
        self._is_float32 = len(self._float32) == len(inputs)

    def __call__(self, body: bytes, tail: memoryview | None = None) -> InferRequest:
        """Return the request in an infer call's body; arguments and errors as `decode`."""
        if tail is None and self._is_float32 and len(body) <= SHORT_BODY and (request := self._short(body)) is not None:
            return request
        return decode(body, self._inputs, tail, self._limits)

    def _short(self, body: bytes) -> InferRequest | None:
        """Return the request, or None where anything is unusual: `decode` finds out what."""
        try:
            request = _DECODE_FLAT.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        arrays: dict[str, Array] = {}
        for given in request.inputs:
            values, shape = given.data, given.shape
            usual = given.datatype == "FP32" and given.name in self._float32 and not given.parameters
            # no number is larger than the length of the vector of all, and no size than the number of elements
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
    """Return whether so many elements fill a shape without zeros, in time that does not depend on the sizes."""
    sizes_fit = len(shape) <= MAX_DIMENSIONS and min(shape, default=1) >= 1 and max(shape, default=1) <= count
    return sizes_fit and prod(shape) == count


def decode(
    body: bytes, inputs: Sequence[TensorSpec], tail: memoryview | None = None, limits: RequestLimits = NO_LIMITS
) -> InferRequest:
    """Return the request in an infer call's body.

    Args:
        body: UTF-8 JSON; empty where the tail is a raw request, the bytes of the one input.
        inputs: the tensors that the model takes; datatypes are compared with them, shapes are not.
        tail: the bytes after the JSON, if the request says that there may be some.
        limits: of one request; rows and elements are checked before the data is decoded.

    Raises:
        ProtocolError: the body is not the protocol's, or a datatype is not the model's. Names the tensor and both sides.
        TooLargeError: an input is beyond a limit.
    """
    if tail is not None and not body:
        raw = raw_input(tail, inputs)
        for name, array in raw.items():
            limits.check_shape(name, array.shape)
            limits.check_texts(name, array)
        return InferRequest(raw, is_binary=True)
    long: list[bytes] = []
    if len(body) > LONG_DATA and all(spec.dtype != TEXT for spec in inputs):
        body, long = hollow(body)
    try:
        request = _DECODE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the body is not an inference request: {error}") from None
    require_inputs(len(request.inputs), inputs)
    arrays: dict[str, Array] = {}
    octets = Tail(tail if tail is not None else memoryview(b""))
    for given in request.inputs:
        if given.name in arrays:
            raise ProtocolError(f"input {given.name!r} is given twice")
        spec = spec_of(given.name, given.datatype, inputs)
        limits.check_shape(given.name, given.shape)
        values = _array(_filled(given, long), numpy_dtype(given.datatype), octets)
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


def _filled(given: _Input, long: Sequence[bytes]) -> _Input:
    """Return an input of a hollow body with the array that was cut out of it."""
    if long and bytes(memoryview(given.data)[:7]) == mark(0)[:7]:
        for position, array in enumerate(long):
            if bytes(given.data) == mark(position):
                return msgspec.structs.replace(given, data=msgspec.Raw(array))
    return given


def _flag(parameters: Parameters, name: str) -> bool | None:
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise ProtocolError(f"parameters.{name} is {shorten(flag)}; it is true or false")
    return flag


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


def require_inputs(count: int, inputs: Sequence[TensorSpec]) -> None:
    """Raise ProtocolError where a request has no inputs."""
    if not count:
        raise ProtocolError(f"inputs is empty; the model takes {_names(inputs)}")


def spec_of(name: str, kind: str, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the model's tensor for an input of this name and datatype, or of one that `conversion` converts.

    Raises:
        ProtocolError: there is no such input, or its datatype is another.
    """
    for spec in inputs:
        if spec.name == name:
            break
    else:
        raise ProtocolError(f"there is no input {name!r}; the model takes {_names(inputs)}")
    if kind not in _DTYPES:
        raise ProtocolError(f"input {name!r} has datatype {kind!r}; datatypes are {', '.join(_DTYPES)}")
    if kind != datatype(spec) and not can_convert(_NUMPY[_DTYPES[kind]], _NUMPY[spec.dtype]):
        raise ProtocolError(f"input {name!r} has datatype {kind}; the model takes {datatype(spec)}")
    return spec


def numpy_dtype(kind: str) -> np.dtype[Any]:
    """Return the dtype of arrays of one of the DATATYPES; object for text."""
    return _NUMPY[_DTYPES[kind]]


def convert_input(name: str, values: Array, spec: TensorSpec) -> Array:
    """Return an input's values in the dtype of the model's tensor; errors as `conversion.convert`."""
    return convert(name, values, _NUMPY[spec.dtype])


def timeout_of(timeout: object) -> float | None:
    """Return the seconds of `parameters.timeout`; None if it is 0 or not set.

    Raises:
        ProtocolError: it is not a whole number of microseconds, below 2^63.
    """
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout <= MAX_SIZE:
        raise ProtocolError(f"parameters.timeout is {shorten(timeout)}; it is a whole number of microseconds, 0 for none")
    return timeout / 1e6 or None


def shorter(a: float | None, b: float | None) -> float | None:
    """Return the shorter of two time-outs, either of which may be none."""
    return a if b is None else b if a is None else min(a, b)


def priority_of(priority: object) -> int:
    """Return the class, as the batcher counts them, of `parameters.priority`; 0 or None is the default.

    Raises:
        ProtocolError: there is no such class.
    """
    if priority is None:
        priority = 0
    if type(priority) is not int or not 0 <= priority <= PRIORITY_LEVELS:
        raise ProtocolError(
            f"parameters.priority is {shorten(priority)}; it goes from 1, the first, to {PRIORITY_LEVELS}, the last; "
            f"0 or none is {DEFAULT_PRIORITY}"
        )
    return (priority or DEFAULT_PRIORITY) - 1


def _array(given: _Input, dtype: np.dtype[Any], octets: Tail) -> Array:
    count, parameters = count_elements(given.name, given.shape), given.parameters or {}
    if parameters.get("binary_data_size") is not None:
        if bytes(given.data):
            raise ProtocolError(f"input {given.name!r} has data and binary_data_size; it has one of them")
        return octets.take(given.name, parameters["binary_data_size"], given.shape, dtype)
    if dtype == _NUMPY["bfloat16"]:
        raise ProtocolError(f"input {given.name!r} is BF16, which comes in binary only (binary_data_size), not as JSON data")
    is_long = len(memoryview(given.data)) > LONG_DATA
    values = _long_values(given, count, dtype) if is_long else _values(given, dtype)
    _require_count(given, count, len(values))
    return reshape(given.name, values, given.shape)


def _require_count(given: _Input, count: int, found: int) -> None:
    if count != found:
        raise ProtocolError(f"input {given.name!r} has shape {given.shape}, so {count} elements; its data has {found}")


def _long_values(given: _Input, count: int, dtype: np.dtype[Any]) -> Array:
    """Return the data as a flat array, decoded in slices after its elements were counted."""
    data = bytes(given.data).strip()
    if dtype.kind == "O":
        quotes = count_byte(data, b'"') - count_byte(data, b'\\"')
        if quotes > 2 * count:  # each text has two, and at most one of them looks escaped
            raise ProtocolError(
                f"input {given.name!r} has shape {given.shape}, so {count} elements; its data has at least {quotes // 2}"
            )
        return _values(given, dtype)
    if data[:1] != b"[" or data[-1:] != b"]":
        return _values(given, dtype)
    _require_count(given, count, count_byte(data, b",") + 1)

    def convert(piece: bytes) -> Array:
        try:
            return _numbers(given, _DECODE_LIST[dtype.kind].decode(piece), dtype)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _not_such_a_list(given, dtype, error) from None

    return decode_numbers(data, given.shape, convert, dtype, lambda: ProtocolError(_ragged(given)))


def _values(given: _Input, dtype: np.dtype[Any]) -> Array:
    """Return the data as a flat array; nested lists are flattened where they have the given shape."""
    try:
        values = _DECODE_LIST[dtype.kind].decode(given.data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        values = _nested_values(given, dtype, error)
    return _objects(values) if dtype.kind == "O" else _numbers(given, values, dtype)


def _numbers(given: _Input, values: list[Any], dtype: np.dtype[Any]) -> Array:
    """Return numbers as an array.

    Raises:
        ProtocolError: one of them is beyond the dtype.
    """
    try:
        if dtype.itemsize == 8:
            return np.array(values, dtype=dtype)
        with np.errstate(over="raise"):
            return np.array(values, dtype=dtype)
    except FloatingPointError:
        raise ProtocolError(
            f"input {given.name!r} holds a number beyond {given.datatype}, whose largest is {np.finfo(dtype).max:g}"
        ) from None
    except OverflowError:
        limits = np.iinfo(dtype)
        worst = next(value for value in values if not limits.min <= value <= limits.max)
        raise ProtocolError(
            f"input {given.name!r} holds {worst}; {given.datatype} goes from {limits.min} to {limits.max}"
        ) from None


def _objects(values: list[str]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _nested_values(given: _Input, dtype: np.dtype[Any], error: Exception) -> list[Any]:
    if not bytes(given.data):
        raise ProtocolError(f"input {given.name!r} has no data") from None
    brackets = bytes(given.data).count(b"[")
    if dtype.kind != "O" and brackets > 1 and brackets != count_lists(given.shape):
        raise ProtocolError(_ragged(given)) from None  # before a list is made for each bracket
    try:
        nested = msgspec.json.decode(given.data)
        if not isinstance(nested, list) or not any(isinstance(value, list) for value in nested):
            raise _not_such_a_list(given, dtype, error)
        return list(msgspec.convert(list(_leaves(nested, given.shape)), _LISTS[dtype.kind]))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as nested_error:
        raise _not_such_a_list(given, dtype, nested_error) from None
    except _RaggedError:
        raise ProtocolError(_ragged(given)) from None


def _ragged(given: _Input) -> str:
    return f"input {given.name!r} is ragged: its nested lists do not have the shape {given.shape}"


def _not_such_a_list(given: _Input, dtype: np.dtype[Any], error: Exception) -> ProtocolError:
    what = str(error).split(" - at")[0]
    return ProtocolError(
        f"the data of input {given.name!r}, datatype {given.datatype}, must be a list of {_WORDS[dtype.kind]}, "
        f"flat or nested as its shape: {what}"
    )


class _RaggedError(Exception):
    """Nested lists do not have the shape they should have."""


def _leaves(nested: list[Any], shape: Sequence[int]) -> Iterator[Any]:
    """Yield the elements of nested lists of exactly this shape, in row-major order."""
    if not shape or len(nested) != shape[0]:
        raise _RaggedError
    if len(shape) == 1:
        if any(isinstance(value, list) for value in nested):
            raise _RaggedError
        yield from nested
        return
    for part in nested:
        if not isinstance(part, list):
            raise _RaggedError
        yield from _leaves(part, shape[1:])


def encode(
    model_name: str, model_version: str, request_id: str, outputs: Mapping[str, Array], inputs: Batch | None = None
) -> bytes:
    """Return the JSON body of an infer answer; data is flat, row-major, float32 in the shortest digits that read back the same.

    Args:
        model_name: of the answer.
        model_version: of the answer.
        request_id: of the answer.
        outputs: by name.
        inputs: of the request: NaN that comes from NaN is the client's.

    Raises:
        ModelError: an output holds NaN or infinity, which JSON cannot carry.
        ProtocolError: the same, and an input holds such a number, too; or an output is BF16, which JSON cannot carry either.
    """
    listed = [_listed(name, array) for name, array in outputs.items()]
    body = _answer(model_name, model_version, request_id, listed)
    if b"null" in body:  # orjson's word for NaN and infinity; a search for it is cheaper than a test of every number
        require_finite(outputs, inputs)
    return body


def encode_binary(
    model_name: str,
    model_version: str,
    request_id: str,
    outputs: Mapping[str, Array],
    binary: Collection[str],
    inputs: Batch | None = None,
) -> BinaryAnswer:
    """Return the body of an infer answer some of whose outputs are bytes behind the JSON.

    Raises:
        As `encode`, for the outputs that are not named in `binary`.
    """
    listed, pieces = [], []
    for name, array in outputs.items():
        if name in binary:
            piece = packed(name, array)
            pieces.append(piece)
            parameters = {"binary_data_size": len(piece)}
            listed.append({"name": name, "datatype": datatype_of(name, array), "shape": array.shape, "parameters": parameters})
        else:
            listed.append(_listed(name, array))
    head = _answer(model_name, model_version, request_id, listed)
    if b"null" in head:
        require_finite({name: array for name, array in outputs.items() if name not in binary}, inputs)
    return BinaryAnswer(head, tuple(pieces))


def datatype_of(name: str, array: Array) -> str:
    """Return an output's datatype.

    Raises:
        ModelError: the protocol has none for it.
    """
    kind = _DATATYPE_OF.get(array.dtype)
    if kind is None:
        raise ModelError(f"output {name!r} is {array.dtype.name}, which the protocol has no datatype for")
    return kind


def _listed(name: str, array: Array) -> dict[str, Any]:
    """Return an output with its data."""
    kind = datatype_of(name, array)
    if kind == "BF16":
        raise ProtocolError(f"output {name!r} is BF16, which JSON cannot carry; ask for it in binary (binary_data_output)")
    data: Any = array.ravel() if kind != "BYTES" else array.ravel().tolist()
    if array.size > SLICE_ELEMENTS:
        data = _in_slices(data)
    return {"name": name, "datatype": kind, "shape": array.shape, "data": data}


def _in_slices(data: Any) -> orjson.Fragment:
    """Return long data as JSON that was encoded in slices: other threads run between two of them."""
    starts = range(0, len(data), SLICE_ELEMENTS)
    pieces = [orjson.dumps(data[at : at + SLICE_ELEMENTS], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for at in starts]
    return orjson.Fragment(b"[%b]" % b",".join(pieces))


def _answer(model_name: str, model_version: str, request_id: str, listed: list[dict[str, Any]]) -> bytes:
    answer = {"model_name": model_name, "model_version": model_version, "id": request_id, "outputs": listed}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def require_finite(outputs: Mapping[str, Array], inputs: Batch | None = None) -> None:
    """Check that JSON can carry the numbers.

    Args:
        outputs: by name.
        inputs: of the request.

    Raises:
        ModelError: an output holds NaN or infinity.
        ProtocolError: an output holds NaN or infinity, and so does an input.
    """
    name = _not_finite(outputs)
    if name is None:
        return
    given = _not_finite(inputs or {})
    if given is not None:
        raise ProtocolError(
            f"output {name!r} holds NaN or infinity, as input {given!r} does, and JSON cannot carry it; request it in binary"
        )
    raise ModelError(f"output {name!r} holds NaN or infinity, which JSON cannot carry; ask for it in binary")


def _not_finite(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the first array that holds NaN or infinity."""
    return next((name for name, each in arrays.items() if each.dtype.kind in "fV" and not _is_finite(each)), None)


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32)).all())


def require_outputs(wanted: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    """Check the names of the outputs that a request asks for.

    Raises:
        ProtocolError: there is no output of a name.
    """
    known = {spec.name for spec in specs} if wanted else ()
    for name in wanted:
        if name not in known:
            raise ProtocolError(f"there is no output {name!r}; the model gives {_names(specs)}")
