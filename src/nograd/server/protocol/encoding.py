"""The Open Inference Protocol, version 2, over JSON: arrays to the body of an infer answer. Pure; no HTTP, no models."""

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
"""Elements of a long output that are encoded in one call, which holds the GIL: about 3 ms."""


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
