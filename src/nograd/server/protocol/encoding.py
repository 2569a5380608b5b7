"""The Open Inference Protocol, version 2, over JSON: from arrays to the body of an infer response.

Pure functions without HTTP or models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import orjson

from nograd.core.tensors import Array, Batch
from nograd.errors import ModelError, ProtocolError
from nograd.server.protocol.binary import BinaryAnswer, packed
from nograd.server.protocol.datatypes import datatype_of

__all__ = ["SLICE_ELEMENTS", "encode", "encode_binary", "require_finite"]

SLICE_ELEMENTS = 2**16
"""Elements of a long output that are encoded in one call with the GIL: about 3 ms."""


def encode(
    model_name: str, model_version: str, request_id: str, outputs: Mapping[str, Array], inputs: Batch | None = None
) -> bytes:
    """Return the JSON body of an infer response. Data is flat and row-major; float32 has the shortest exact digits.

    Args:
        model_name: name in the response.
        model_version: version in the response.
        request_id: id in the response.
        outputs: outputs by name.
        inputs: inputs of the request. If they contain NaN, NaN in an output is the client's error.

    Raises:
        ModelError: an output contains NaN or infinity, which JSON does not support.
        ProtocolError: an output and an input contain NaN or infinity; or an output is BF16, which JSON does not support.
    """
    listed = [_output_of(name, array) for name, array in outputs.items()]
    body = _answer(model_name, model_version, request_id, listed)
    if b"null" in body:  # orjson writes null for NaN and infinity; a search for it is cheaper than a test of every number
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
    """Return the body of an infer response with some outputs as bytes after the JSON.

    Raises:
        As for `encode`, for outputs that are not in `binary`.
    """
    listed, pieces = [], []
    for name, array in outputs.items():
        if name in binary:
            piece = packed(name, array)
            pieces.append(piece)
            parameters = {"binary_data_size": len(piece)}
            listed.append({"name": name, "datatype": datatype_of(name, array), "shape": array.shape, "parameters": parameters})
        else:
            listed.append(_output_of(name, array))
    head = _answer(model_name, model_version, request_id, listed)
    if b"null" in head:
        require_finite({name: array for name, array in outputs.items() if name not in binary}, inputs)
    return BinaryAnswer(head, tuple(pieces))


def _output_of(name: str, array: Array) -> dict[str, Any]:
    """Return an output with its data."""
    kind = datatype_of(name, array)
    if kind == "BF16":
        raise ProtocolError(f"output {name!r} is BF16, which JSON does not support; request it in binary (binary_data_output)")
    data: Any = array.ravel() if kind != "BYTES" else array.ravel().tolist()
    if array.size > SLICE_ELEMENTS:
        data = _in_slices(data)
    return {"name": name, "datatype": kind, "shape": array.shape, "data": data}


def _in_slices(data: Any) -> orjson.Fragment:
    """Return long data as JSON, encoded in slices so that other threads can run in between."""
    starts = range(0, len(data), SLICE_ELEMENTS)
    pieces = [orjson.dumps(data[at : at + SLICE_ELEMENTS], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for at in starts]
    return orjson.Fragment(b"[%b]" % b",".join(pieces))


def _answer(model_name: str, model_version: str, request_id: str, listed: list[dict[str, Any]]) -> bytes:
    answer = {"model_name": model_name, "model_version": model_version, "id": request_id, "outputs": listed}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def require_finite(outputs: Mapping[str, Array], inputs: Batch | None = None) -> None:
    """Check that JSON supports the numbers.

    Args:
        outputs: outputs by name.
        inputs: inputs of the request.

    Raises:
        ModelError: an output contains NaN or infinity.
        ProtocolError: an output and an input contain NaN or infinity.
    """
    name = _not_finite(outputs)
    if name is None:
        return
    given = _not_finite(inputs or {})
    if given is not None:
        raise ProtocolError(
            f"output {name!r} contains NaN or infinity, like input {given!r}; JSON does not support them: request it in binary"
        )
    raise ModelError(f"output {name!r} contains NaN or infinity, which JSON does not support; request it in binary")


def _not_finite(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the first array with NaN or infinity."""
    return next((name for name, each in arrays.items() if each.dtype.kind in "fV" and not _is_finite(each)), None)


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32)).all())
