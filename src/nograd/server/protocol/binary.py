"""The extension binary_tensor_data: tensors as the bytes behind a JSON object. Pure functions; no HTTP, no models.

Numbers are little-endian, row-major, without padding. BYTES are elements behind their lengths, as uint32. The text: Triton,
docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ModelError, ProtocolError
from nograd.server.protocol.shapes import count_elements, reshape, shorten

__all__ = ["MOST_DIGITS", "BinaryAnswer", "Tail", "packed", "raw_input", "tail_offset", "tensor", "text"]

LENGTH_BYTES = 4
"""Bytes of the length before each element of BYTES."""


MOST_DIGITS = 18
"""Of a length in a header: no body is longer, and a number of millions of digits takes minutes to read."""


class BinaryAnswer(NamedTuple):
    """The body of an answer whose tensors are, some or all, behind its JSON."""

    json: bytes
    tensors: tuple[memoryview | bytes, ...]
    """Each one's bytes, where the model left them: not copied."""

    @property
    def body(self) -> bytes:
        """The whole, copied."""
        return b"".join((self.json, *self.tensors))


class Tail:
    """The bytes behind a request's JSON, taken from the front.

    Args:
        data: not copied; numeric tensors are views of it where they lie as numpy needs them.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._taken = 0

    @property
    def left(self) -> int:
        """Bytes that nobody has taken."""
        return len(self._data) - self._taken

    def take(self, name: str, size: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return the next tensor.

        Args:
            name: of the input, for errors.
            size: the request's `binary_data_size`.
            shape: of the tensor.
            dtype: of the tensor; object is text.

        Raises:
            ProtocolError: the bytes are not those of such a tensor, or there are too few.
        """
        if type(size) is not int or size < 0:
            raise ProtocolError(f"input {name!r} has binary_data_size {shorten(size)}; it is a number of bytes, 0 or more")
        if size > self.left:
            raise ProtocolError(f"input {name!r} has binary_data_size {size}; the body has {self.left} bytes for it")
        piece = self._data[self._taken : self._taken + size]
        self._taken += size
        return tensor(name, piece, shape, dtype)

    def require_empty(self) -> None:
        """Raise ProtocolError where bytes are left."""
        if self.left:
            raise ProtocolError(f"the body has {self.left} bytes more than its inputs' binary_data_size add up to")


def tensor(name: str, piece: memoryview, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return the tensor that bytes are; a view of them where they lie as numpy needs them. Arguments and errors as `take`."""
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
    """Return a view of the bytes; a copy where they do not lie at a multiple of an element's size."""
    if dtype.kind == "b":
        octets = np.frombuffer(piece, np.uint8)
        if octets.size and octets.max() > 1:
            raise ProtocolError(f"input {name!r} holds a byte {octets.max()}; BOOL is 0 or 1")
        return octets.view(np.bool_)
    values: Array = np.frombuffer(piece, dtype)
    return values if values.flags.aligned else values.copy()


def _texts(name: str, piece: memoryview, count: int) -> Array:
    """Return `count` elements of BYTES as strings."""
    if count > len(piece) // LENGTH_BYTES:  # before room is made for them
        raise ProtocolError(f"input {name!r} has {len(piece)} bytes, too few for the lengths of {count} elements of BYTES")
    texts = np.empty(count, dtype=object)
    start = 0
    for index in range(count):
        end = start + LENGTH_BYTES
        size = int.from_bytes(piece[start:end], "little")
        if end > len(piece) or size > len(piece) - end:
            raise ProtocolError(
                f"input {name!r}: element {index} of BYTES says that it has {size} bytes; {max(0, len(piece) - end)} are left"
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
        raise ProtocolError(f"input {name!r} holds bytes that are not UTF-8, and the model takes text: {error}") from None


def raw_input(data: memoryview, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return the one input of a raw request: its bytes alone, without JSON; one row.

    Raises:
        ProtocolError: the model takes several inputs, or a shape that a number of bytes does not tell, or other sizes.
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
        raise ProtocolError(f"a request without JSON cannot tell the shape of input {spec.name!r}, {spec}; send JSON before it")
    dtype = np.dtype(spec.dtype)
    step = dtype.itemsize * prod(size for size in spec.shape if isinstance(size, int))
    if not data or not step or len(data) % step or (not varying and len(data) != step):
        wanted = f"a multiple of {step}" if varying else str(step)
        raise ProtocolError(f"the body has {len(data)} bytes; one row of input {spec.name!r}, {spec}, has {wanted}")
    shape = [1, *(len(data) // step if isinstance(size, str) else size for size in spec.shape)]
    return {spec.name: tensor(spec.name, data, shape, dtype)}


def packed(name: str, array: Array) -> memoryview | bytes:
    """Return an output's bytes: numbers as they lie in memory, where that is row-major; text behind lengths.

    Raises:
        ModelError: text that has no UTF-8.
    """
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    pieces: list[bytes] = []
    for value in array.ravel():
        try:
            octets = value if isinstance(value, bytes) else str(value).encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"output {name!r} holds text that has no UTF-8: {error}") from None
        pieces += (len(octets).to_bytes(LENGTH_BYTES, "little"), octets)
    return b"".join(pieces)


def tail_offset(header: bytes) -> int:
    """Return where the tensors begin: the value of `Inference-Header-Content-Length`.

    Raises:
        ProtocolError: it is no number of bytes.
    """
    if not header.isdigit() or len(header) > MOST_DIGITS:
        told = header.decode("latin-1")
        raise ProtocolError(f"Inference-Header-Content-Length is {told!r}; it is the JSON's number of bytes, 0 or more")
    return int(header)
