"""The extension binary_tensor_data: tensors as bytes after a JSON object. Pure functions without HTTP or models.

Numbers are little-endian, row-major, without padding. Each element of BYTES follows its length, a uint32. Specification:
Triton, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ModelError, ProtocolError
from nograd.server.protocol.shapes import count_elements, reshape, shorten

__all__ = ["MOST_DIGITS", "BinaryAnswer", "BinaryTail", "packed", "raw_input", "tail_offset", "tensor", "text"]

LENGTH_BYTES = 4
"""Bytes of the length before each element of BYTES."""


MOST_DIGITS = 18
"""Maximum digits of a length in a header: no body is longer, and parsing millions of digits takes minutes."""


class BinaryAnswer(NamedTuple):
    """The body of a response with some or all tensors after its JSON."""

    json: bytes
    tensors: tuple[memoryview | bytes, ...]
    """Bytes of each tensor, in the model's memory: not copied."""

    @property
    def body(self) -> bytes:
        """The whole body, as a copy."""
        return b"".join((self.json, *self.tensors))


class BinaryTail:
    """The bytes after a request's JSON, consumed from the start.

    Args:
        data: the bytes; numeric tensors are views of them if they are aligned.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._taken = 0

    @property
    def left(self) -> int:
        """Number of bytes that are not consumed yet."""
        return len(self._data) - self._taken

    def take(self, name: str, size: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return the next tensor.

        Args:
            name: name of the input, for errors.
            size: the request's `binary_data_size`.
            shape: shape of the tensor.
            dtype: dtype of the tensor; object is text.

        Raises:
            ProtocolError: the bytes do not form such a tensor, or are too few.
        """
        if type(size) is not int or size < 0:
            raise ProtocolError(f"input {name!r} has binary_data_size {shorten(size)}; it must be a number of bytes, 0 or more")
        if size > self.left:
            raise ProtocolError(f"input {name!r} has binary_data_size {size}; the body has {self.left} bytes for it")
        piece = self._data[self._taken : self._taken + size]
        self._taken += size
        return tensor(name, piece, shape, dtype)

    def require_empty(self) -> None:
        """Raise ProtocolError if bytes are left."""
        if self.left:
            raise ProtocolError(f"the body has {self.left} bytes more than the sum of its inputs' binary_data_size")


def tensor(name: str, piece: memoryview, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return bytes as a tensor, as a view if they are aligned. Arguments and errors as for `take`."""
    count = count_elements(name, shape)
    if dtype.kind == "O":
        values = _texts(name, piece, count)
    else:
        expected = count * dtype.itemsize
        if len(piece) != expected:
            raise ProtocolError(f"input {name!r} has {len(piece)} bytes; {dtype.name} of shape {list(shape)} has {expected}")
        values = _numbers(name, piece, dtype)
    return reshape(name, values, shape)


def _numbers(name: str, piece: memoryview, dtype: np.dtype[Any]) -> Array:
    """Return a view of the bytes, or a copy if they are not aligned to an element's size."""
    if dtype.kind == "b":
        octets = np.frombuffer(piece, np.uint8)
        if octets.size and octets.max() > 1:
            raise ProtocolError(f"input {name!r} contains the byte {octets.max()}; BOOL is 0 or 1")
        return octets.view(np.bool_)
    values: Array = np.frombuffer(piece, dtype)
    return values if values.flags.aligned else values.copy()


def _texts(name: str, piece: memoryview, count: int) -> Array:
    """Return `count` elements of BYTES as strings."""
    if count > len(piece) // LENGTH_BYTES:  # before memory is allocated for them
        raise ProtocolError(f"input {name!r} has {len(piece)} bytes, too few for the lengths of {count} elements of BYTES")
    texts = np.empty(count, dtype=object)
    start = 0
    for index in range(count):
        end = start + LENGTH_BYTES
        size = int.from_bytes(piece[start:end], "little")
        if end > len(piece) or size > len(piece) - end:
            raise ProtocolError(
                f"input {name!r}: element {index} of BYTES has the length {size}; {max(0, len(piece) - end)} bytes are left"
            )
        texts[index] = text(name, piece[end : end + size])
        start = end + size
    if start != len(piece):
        raise ProtocolError(f"input {name!r} has {len(piece) - start} bytes more than its {count} elements of BYTES")
    return texts


def text(name: str, octets: memoryview) -> str:
    """Return an element of BYTES as a string.

    Raises:
        ProtocolError: it is not UTF-8.
    """
    try:
        return str(octets, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"input {name!r} contains bytes that are not UTF-8, and the model takes text: {error}") from None


def raw_input(data: memoryview, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the single input of a raw request, which contains only the bytes of one row.

    Raises:
        ProtocolError: the model takes several inputs, the shape cannot be derived from the size, or the size is wrong.
    """
    required = [spec for spec in inputs if spec.default is None] or list(inputs)
    if len(required) != 1:
        names = ", ".join(repr(spec.name) for spec in required)
        raise ProtocolError(f"a request without JSON is for models with one input; this one takes {names}")
    (spec,) = required
    if spec.dtype == TEXT and not spec.shape:
        row = np.empty(1, dtype=object)
        row[0] = text(spec.name, data)
        return {spec.name: row}
    varying = sum(isinstance(size, str) for size in spec.shape)
    if varying > 1 or spec.dtype == TEXT:
        raise ProtocolError(
            f"the shape of input {spec.name!r}, {spec}, cannot be derived from a request without JSON; send JSON first"
        )
    dtype = np.dtype(spec.dtype)
    step = dtype.itemsize * prod(size for size in spec.shape if isinstance(size, int))
    if not data or not step or len(data) % step or (not varying and len(data) != step):
        wanted = f"a multiple of {step}" if varying else str(step)
        raise ProtocolError(f"the body has {len(data)} bytes; one row of input {spec.name!r}, {spec}, has {wanted}")
    shape = [1, *(len(data) // step if isinstance(size, str) else size for size in spec.shape)]
    return {spec.name: tensor(spec.name, data, shape, dtype)}


def packed(name: str, array: Array) -> memoryview | bytes:
    """Return an output's bytes: numbers as in memory if they are row-major; text elements after their lengths.

    Raises:
        ModelError: a text cannot be encoded as UTF-8.
    """
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    pieces: list[bytes] = []
    for value in array.ravel():
        try:
            octets = value if isinstance(value, bytes) else str(value).encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"output {name!r} contains text that cannot be encoded as UTF-8: {error}") from None
        pieces += (len(octets).to_bytes(LENGTH_BYTES, "little"), octets)
    return b"".join(pieces)


def tail_offset(header: bytes) -> int:
    """Return the offset of the tensors: the value of `Inference-Header-Content-Length`.

    Raises:
        ProtocolError: it is not a number of bytes.
    """
    if not header.isdigit() or len(header) > MOST_DIGITS:
        given = header.decode("latin-1")
        raise ProtocolError(f"Inference-Header-Content-Length is {given!r}; it must be the JSON's number of bytes, 0 or more")
    return int(header)
