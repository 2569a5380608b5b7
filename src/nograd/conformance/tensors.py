"""Encode and decode binary tensors in requests and responses. Pure functions."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nograd.client.http import Answer

__all__ = ["HEADER", "packed", "parts", "request", "unpacked"]

HEADER = "Inference-Header-Content-Length"

TYPES: Mapping[str, str] = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""Datatype -> NumPy's name of it, little-endian."""


def packed(datatype: str, data: Sequence[Any]) -> bytes:
    r"""Return flat data as the extension's bytes.

    >>> packed("BYTES", ["ab"])
    b'\x02\x00\x00\x00ab'
    """
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(each)) + each for each in (str(text).encode() for text in data))
    return np.asarray(data, dtype=TYPES[datatype]).tobytes()


def unpacked(datatype: str, body: bytes) -> list[Any]:
    """Return the extension's bytes as flat data.

    Raises:
        ValueError: the bytes are not in the extension's format.
    """
    if datatype != "BYTES":
        values: list[Any] = np.frombuffer(body, dtype=TYPES[datatype]).tolist()
        return values
    found, at = [], 0
    while at < len(body):
        if at + 4 > len(body):
            raise ValueError("a length is truncated")
        end = at + 4 + struct.unpack_from("<I", body, at)[0]
        if end > len(body):
            raise ValueError("an element is truncated")
        found.append(body[at + 4 : end].decode("utf-8", "replace"))
        at = end
    return found


def request(inputs: Iterable[Mapping[str, Any]], binary: Iterable[int], **rest: Any) -> tuple[dict[str, Any], bytes]:
    """Return a request's JSON and the bytes that follow it; inputs at the given positions are in binary."""
    chosen = set(binary)
    listed, tail = [], b""
    for at, each in enumerate(inputs):
        if at not in chosen:
            listed.append(dict(each))
            continue
        body = packed(each["datatype"], each["data"])
        listed.append(
            {**{key: each[key] for key in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": len(body)}}
        )
        tail += body
    return {"inputs": listed, **rest}, tail


def parts(answer: Answer) -> tuple[dict[str, Any], bytes]:
    """Return a response's JSON and the bytes that follow it.

    Raises:
        ValueError: the response does not start with a JSON object.
    """
    length = answer.headers.get(HEADER.lower(), "")
    if length.isdigit():
        found = json.loads(answer.body[: int(length)])
        rest = answer.body[int(length) :]
    else:
        text = answer.body.decode("latin-1")
        found, end = json.JSONDecoder().raw_decode(text)
        rest = answer.body[end:]
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return found, rest
