"""Make requests for a model from its metadata, and compare responses. Pure functions of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from nograd.client.http import Answer, ServerSubject

__all__ = ["example_request", "numbers", "request_of", "rows_of", "same_numbers", "tiled", "varied", "with_input"]

FREE_SIZE = 4
"""Size of a dimension that may have any size."""


def request_of(server: ServerSubject) -> Mapping[str, Any] | None:
    """Return a request that the model should answer: the server's own example, or one made from its metadata."""
    return server.example or (example_request(server.metadata) if server.metadata.get("inputs") else None)


def example_request(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request of one row that fits a model's metadata."""
    return {"inputs": [_example(each) for each in metadata.get("inputs", [])]}


def _example(spec: Mapping[str, Any]) -> dict[str, Any]:
    rows, row = spec["shape"][:1], [size if size > 0 else FREE_SIZE for size in spec["shape"][1:]]
    shape = [*(size if size > 0 else 1 for size in rows), *row]  # a fixed first dimension is not a batch dimension
    return {"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": _data(spec, prod(shape))}


def _data(spec: Mapping[str, Any], count: int) -> list[Any]:
    if spec["datatype"] == "BYTES":
        return ["A man is eating food."] * count
    if spec["datatype"] == "BOOL":
        return [True] * count
    return [1] * count if "INT" in spec["datatype"] else [0.5] * count


def tiled(request: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Return the request with its rows repeated `rows` times."""
    return {"inputs": [{**each, "shape": [each["shape"][0] * rows, *each["shape"][1:]], "data": each["data"] * rows}
                       for each in request["inputs"]]}  # fmt: skip


def varied(request: Mapping[str, Any], index: float) -> dict[str, Any]:
    """Return another request of the same shape: numbers differ slightly, texts by a word; ids and masks are rotated."""
    return {"inputs": [{**each, "data": _varied(each, index)} for each in request["inputs"]]}


def _varied(tensor: Mapping[str, Any], index: float) -> list[Any]:
    data = list(tensor["data"])
    if tensor["datatype"] == "BYTES":
        return [f"{text} {index}" for text in data]
    if tensor["datatype"] in ("FP16", "FP32", "FP64"):
        return [round(float(value) * (1 + index / 8) + index / 16, 4) for value in data]
    turn = int(index) % len(data) if data else 0
    return data[turn:] + data[:turn]


def with_input(request: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the request with its first input changed."""
    first, *rest = request["inputs"]
    return {"inputs": [{**first, **changes}, *rest]}


def rows_of(request: Mapping[str, Any]) -> int:
    """Return the number of rows of a request."""
    return int(request["inputs"][0]["shape"][0])


def numbers(answer: Any) -> dict[str, np.ndarray[Any, Any]] | None:
    """Return the outputs of an infer response as flat arrays by name; None if it is not an infer response."""
    try:
        return {each["name"]: np.asarray(_flat(each["data"])) for each in answer["outputs"]}
    except (TypeError, KeyError, ValueError):
        return None


def _flat(data: Sequence[Any]) -> list[Any]:
    return [leaf for each in data for leaf in (_flat(each) if isinstance(each, list) else [each])]


def same_numbers(first: Answer, second: Answer, tolerance: float = 1e-3) -> bool:
    """Return True if two infer responses contain the same numbers up to rounding."""
    a, b = numbers(first.json), numbers(second.json)
    if a is None or b is None or a.keys() != b.keys():
        return False
    return all(_same(a[name], b[name], tolerance) for name in a)


def _same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype.kind in "OUSb":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a).max(initial=0))
    return bool(np.abs(a.astype(float) - b.astype(float)).max(initial=0) <= tolerance * scale)
