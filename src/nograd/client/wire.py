"""Messages of the Open Inference Protocol, version 2, as a client writes and reads them. Pure; no sockets.

Tensors travel as JSON, or as bytes after the JSON (extension binary_tensor_data): numbers in little-endian, row-major order,
text after its length as uint32.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import ml_dtypes
import numpy as np
import orjson

from nograd.core.tensors import Array
from nograd.errors import (
    DeadlineError,
    ForbiddenError,
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

__all__ = [
    "DTYPES", "Message", "Response", "embeddings_message", "error_of", "infer_message", "model_path", "read_embeddings",
    "read_json", "read_outputs", "retry_after_s",
]  # fmt: skip

JSON_LENGTH = "inference-header-content-length"
"""Header with the bytes of JSON in front of binary tensors."""

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"), "BYTES": np.dtype(object),
}  # fmt: skip
"""Datatype of the protocol -> dtype of its arrays; text is an array of objects."""

_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

_ERRORS: dict[int, type[NogradError]] = {
    401: UnauthorizedError, 403: ForbiddenError, 404: ModelNotFoundError, 413: TooLargeError, 500: ModelError,
    501: UnsupportedError, 504: DeadlineError,
}  # fmt: skip


class Message(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    """Path below the server's address, with the first slash."""

    headers: Mapping[str, str] = {}
    body: bytes = b""
    timeout_s: float | None = None
    """Seconds that this attempt may take."""


class Response(NamedTuple):
    """One HTTP response."""

    status: int
    headers: Mapping[str, str]
    """Headers by lower-case name."""

    body: bytes


def model_path(model: str, version: str | None = None) -> str:
    """Return the path of a model, `/v2/models/NAME[/versions/VERSION]`."""
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def infer_message(
    path: str,
    arrays: Mapping[str, Array],
    *,
    outputs: Sequence[str] | None = None,
    request_id: str | None = None,
    parameters: Mapping[str, str | int | float | bool] | None = None,
    binary: bool = True,
) -> Message:
    """Return an infer request.

    Args:
        path: of the model.
        arrays: inputs by name, `[rows, ...]`; objects are str or bytes.
        outputs: names of the outputs to return; None returns all.
        request_id: repeated in the response.
        parameters: of the request, such as `priority`.
        binary: send and receive tensors as bytes after the JSON.

    Raises:
        ProtocolError: the protocol has no datatype for an array.
    """
    inputs, tail = [], []
    for name, array in arrays.items():
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": _datatype_of(name, array)}
        if binary:
            piece = _octets(array)
            tensor["parameters"] = {"binary_data_size": len(piece)}
            tail.append(piece)
        else:
            tensor["data"] = _values(array)
        inputs.append(tensor)
    document: dict[str, Any] = {"inputs": inputs}
    if request_id is not None:
        document["id"] = request_id
    if outputs is not None:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    given = {**(parameters or {}), **({"binary_data_output": True} if binary and outputs is None else {})}
    if given:
        document["parameters"] = given
    head = orjson.dumps(document)
    headers = {"content-type": "application/octet-stream" if binary else "application/json"}
    if binary:
        headers[JSON_LENGTH] = str(len(head))
    return Message("POST", f"{path}/infer", headers, b"".join([head, *tail]))


def read_outputs(reply: Response) -> dict[str, Array]:
    """Return the outputs of an infer response, by name, each `[rows, ...]`; text is an array of str.

    Raises:
        ProtocolError: the body is not an infer response.
    """
    found: dict[str, Array] = {}
    try:
        head = reply.body[: int(reply.headers.get(JSON_LENGTH, len(reply.body)))]
        rest = memoryview(reply.body)[len(head) :]
        for tensor in orjson.loads(head)["outputs"]:
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            dtype, shape = DTYPES[tensor["datatype"]], tensor["shape"]
            if size is None:
                values = np.array(_flat(tensor["data"]), dtype=dtype)
            else:
                values = _read_octets(rest[:size], dtype)
                rest = rest[size:]
            found[tensor["name"]] = values.reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(
            f"the response is not an infer response of the protocol: {type(error).__name__}: {error}"
        ) from error
    return found


def embeddings_message(
    model: str, texts: Sequence[str], *, dimensions: int | None = None, output: str | None = None
) -> Message:
    """Return a request of OpenAI's embeddings API; vectors come back as base64 of little-endian float32."""
    document: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "base64"}
    document |= {name: value for name, value in (("dimensions", dimensions), ("output", output)) if value is not None}
    return Message("POST", "/v1/embeddings", {"content-type": "application/json"}, orjson.dumps(document))


def read_embeddings(reply: Response) -> Array:
    """Return the vectors of an embeddings response, `[texts, dimensions]` float32, in the order of the texts.

    Raises:
        ProtocolError: the body is not an embeddings response.
    """
    try:
        rows = sorted(orjson.loads(reply.body)["data"], key=lambda row: row["index"])
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the response is not an embeddings response: {type(error).__name__}: {error}") from error


def read_json(reply: Response) -> Any:
    """Return the JSON value of a body.

    Raises:
        ProtocolError: the body is not JSON.
    """
    try:
        return orjson.loads(reply.body)
    except ValueError as error:
        raise ProtocolError(f"the response is not JSON: {error}") from error


def retry_after_s(reply: Response) -> float | None:
    """Return the seconds of `Retry-After`; None without it, or if it is a date."""
    given = reply.headers.get("retry-after", "")
    return float(given) if given.isdigit() else None


def error_of(reply: Response) -> NogradError:
    """Return the error for a response whose status is not 2xx; its message is the server's."""
    message = f"{_sentence(reply)} (HTTP {reply.status})"
    wait_s = retry_after_s(reply)
    if reply.status in (429, 503):
        return UnavailableError(message) if wait_s is None else OverloadedError(message, wait_s)
    if reply.status == 405:
        return MethodError(message, tuple(reply.headers.get("allow", "").replace(" ", "").split(",")))
    kind = _ERRORS.get(reply.status) or (ProtocolError if 400 <= reply.status < 500 else UnavailableError)
    return kind(message)


def _sentence(reply: Response) -> str:
    try:
        found = orjson.loads(reply.body)["error"]
        return str(found["message"] if isinstance(found, dict) else found)
    except (KeyError, TypeError, ValueError):
        text = " ".join(reply.body[:200].decode("utf-8", "replace").split())
        return text or "the server gave no reason"


def _datatype_of(name: str, array: Array) -> str:
    dtype = np.dtype(object) if array.dtype.kind in "OSU" else array.dtype.newbyteorder("<")
    if dtype not in _DATATYPES:
        raise ProtocolError(f"input {name!r} is {array.dtype}; the protocol has {', '.join(DTYPES)}")
    return _DATATYPES[dtype]


def _octets(array: Array) -> bytes:
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    pieces = []
    for value in array.ravel():
        octets = value if isinstance(value, bytes) else str(value).encode()
        pieces += [len(octets).to_bytes(4, "little"), octets]
    return b"".join(pieces)


def _values(array: Array) -> list[Any]:
    """Return the elements as JSON values; the protocol has no JSON form of half precision, so it is written as numbers."""
    if array.dtype.kind in "OSU":
        return [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    flat = array.ravel()
    found: list[Any] = (flat.astype(np.float32) if _datatype_of("", array) == "BF16" else flat).tolist()
    return found


def _read_octets(piece: memoryview, dtype: np.dtype[Any]) -> Array:
    if dtype.kind != "O":
        return np.frombuffer(piece, dtype).copy()  # writable, and independent of the body
    texts, start = [], 0
    while start < len(piece):
        end = start + 4 + int.from_bytes(piece[start : start + 4], "little")
        texts.append(bytes(piece[start + 4 : end]).decode("utf-8", "surrogateescape"))
        start = end
    return np.array(texts, dtype=object)


def _flat(data: Any) -> list[Any]:
    return [leaf for each in data for leaf in (_flat(each) if isinstance(each, list) else [each])]
