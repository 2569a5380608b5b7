"""Names, datatypes and shapes of tensors in the Open Inference Protocol. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ModelError, ProtocolError, UnsupportedError
from nograd.server.protocol.conversion import can_convert, convert

__all__ = [
    "DATATYPES",
    "convert_input",
    "datatype",
    "datatype_of",
    "numpy_dtype",
    "require_datatypes",
    "require_inputs",
    "require_outputs",
    "spec_of",
    "tensor_metadata",
]

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64", TEXT: "BYTES",
}  # fmt: skip

_NUMPY = {dtype: np.dtype(object if dtype == TEXT else dtype) for dtype in _DATATYPES}

_DATATYPE_OF = {_NUMPY[dtype]: name for dtype, name in _DATATYPES.items()}

_DTYPES = {name: dtype for dtype, name in _DATATYPES.items()}

DATATYPES = tuple(_DTYPES)
"""The protocol's names of datatypes."""


def datatype(spec: TensorSpec) -> str:
    """Return the protocol's name for a tensor's dtype, such as `FP32`."""
    return _DATATYPES[spec.dtype]


def require_datatypes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that the protocol has a name for every tensor's dtype.

    Raises:
        UnsupportedError: it has none for a dtype, such as complex numbers.
    """
    for what, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.dtype not in _DATATYPES:
                raise UnsupportedError(f"{what} {spec.name!r} is {spec.dtype}; the protocol supports {', '.join(_DATATYPES)}")


def tensor_metadata(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Return name, datatype and shape of tensors; rows and other varying dimensions are -1."""
    return [
        {"name": spec.name, "datatype": datatype(spec), "shape": [-1, *(n if isinstance(n, int) else -1 for n in spec.shape)]}
        for spec in specs
    ]


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)


def require_inputs(count: int, inputs: Sequence[TensorSpec]) -> None:
    """Raise ProtocolError if a request has no inputs."""
    if not count:
        raise ProtocolError(f"inputs is empty; the model takes {_names(inputs)}")


def spec_of(name: str, kind: str, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the model's spec for an input with this name and datatype, or a convertible one (see `conversion`).

    Raises:
        ProtocolError: the input is unknown, or its datatype differs.
    """
    for spec in inputs:
        if spec.name == name:
            break
    else:
        raise ProtocolError(f"unknown input {name!r}; the model takes {_names(inputs)}")
    if kind not in _DTYPES:
        raise ProtocolError(f"input {name!r} has datatype {kind!r}; datatypes are {', '.join(_DTYPES)}")
    if kind != datatype(spec) and not can_convert(_NUMPY[_DTYPES[kind]], _NUMPY[spec.dtype]):
        raise ProtocolError(f"input {name!r} has datatype {kind}; the model takes {datatype(spec)}")
    return spec


def numpy_dtype(kind: str) -> np.dtype[Any]:
    """Return the dtype of arrays of one of the DATATYPES; object for text."""
    return _NUMPY[_DTYPES[kind]]


def convert_input(name: str, values: Array, spec: TensorSpec) -> Array:
    """Return an input's values in the dtype of the model's tensor; errors as for `conversion.convert`."""
    return convert(name, values, _NUMPY[spec.dtype])


def datatype_of(name: str, array: Array) -> str:
    """Return an output's datatype.

    Raises:
        ModelError: the protocol has no datatype for it.
    """
    kind = _DATATYPE_OF.get(array.dtype)
    if kind is None:
        raise ModelError(f"output {name!r} is {array.dtype.name}, which the protocol has no datatype for")
    return kind


def require_outputs(wanted: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    """Check the names of requested outputs.

    Raises:
        ProtocolError: an output is unknown.
    """
    known = {spec.name for spec in specs} if wanted else ()
    for name in wanted:
        if name not in known:
            raise ProtocolError(f"unknown output {name!r}; the model returns {_names(specs)}")
