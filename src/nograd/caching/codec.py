"""Encoding of arrays as bytes. Decoding never executes content.

    value   = "NG", version, number of arrays, length of the header; header; arrays, each aligned to 16 bytes
    header  = for each array: lengths of name and dtype, number of dimensions; the dimensions; name; dtype

Numbers are little-endian. Values that leave the process are sealed with a checksum of key and value, which detects values that
were damaged, truncated or moved to another key.
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from math import prod
from zlib import crc32

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np

from nograd.core.tensors import Array, Batch, dtype_name
from nograd.errors import UnsupportedError

__all__ = ["FORMAT", "CorruptValueError", "decode", "encode", "seal", "unseal"]

FORMAT = 1
"""Version of the format; values of other versions are rejected."""

_HEAD = struct.Struct("<2sBBI")
_ARRAY = struct.Struct("<HBB")
_SEAL = struct.Struct("<6sBxI")
_ALIGNMENT = 16
_MOST_DIMS = 64  # numpy's own limit


class CorruptValueError(ValueError):
    """The bytes are not a value, or not the value that was stored under this key."""


def encode(arrays: Batch) -> bytes:
    """Encode arrays as bytes. The result is a copy and references no other memory.

    Raises:
        UnsupportedError: an array contains text or other objects.
    """
    contents = {name: _as_stored(name, array) for name, array in arrays.items()}
    header = _header(tuple((name, dtype_name(array.dtype), array.shape) for name, array in contents.items()))
    pieces: list[bytes | memoryview] = [header]
    for array in contents.values():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data  # copied once, by the join
        pieces += (data, bytes(-len(data) % _ALIGNMENT))
    return b"".join(pieces)


def decode(value: bytes) -> dict[str, Array]:
    """Decode the arrays of a value, as read-only views of it.

    Raises:
        CorruptValueError: the bytes are not a value of this format.
    """
    try:
        magic, version, _, size = _HEAD.unpack_from(value)
        if magic != b"NG" or version != FORMAT:
            raise CorruptValueError(f"the value begins with {value[:4]!r}; it is not of format {FORMAT}")
        layout, end = _layout(value[:size])
    except (struct.error, UnicodeDecodeError, TypeError) as error:
        raise CorruptValueError(f"the value's header cannot be read: {error}") from error
    if len(value) != end:
        raise CorruptValueError(f"the value has {len(value)} bytes; its header announces {end}")
    arrays = {name: np.ndarray(shape, dtype, value, offset) for name, dtype, shape, offset in layout}
    if sys.byteorder == "big":
        arrays = {name: array.byteswap() for name, array in arrays.items()}
    return arrays


def seal(key: bytes, value: bytes) -> bytes:
    """Return a value with a checksum of key and value."""
    return _SEAL.pack(b"nograd", FORMAT, crc32(value, crc32(key))) + value


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Check the seal and return the value.

    Raises:
        CorruptValueError: the checksum is missing or wrong.
    """
    if len(sealed) < _SEAL.size:
        raise CorruptValueError(f"the value has {len(sealed)} bytes, fewer than its seal")
    magic, version, checksum = _SEAL.unpack_from(sealed)
    if magic != b"nograd" or version != FORMAT:
        raise CorruptValueError(f"the value begins with {sealed[:8]!r}; it is not sealed in format {FORMAT}")
    value = sealed[_SEAL.size :]
    if crc32(value, crc32(key)) != checksum:
        raise CorruptValueError("the value's checksum is wrong")
    return value


def _as_stored(name: str, array: Array) -> Array:
    if array.dtype.hasobject:
        raise UnsupportedError(f"output {name!r} contains {array.dtype.name}; only numbers are cached")
    return array.byteswap() if sys.byteorder == "big" and array.dtype.isnative else array


@lru_cache(maxsize=1024)
def _header(specs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    pieces = []
    for name, dtype, shape in specs:
        label = name.encode()
        pieces.append(_ARRAY.pack(len(label), len(dtype), len(shape)) + struct.pack(f"<{len(shape)}Q", *shape))
        pieces.append(label + dtype.encode())
    body = b"".join(pieces)
    size = _aligned(_HEAD.size + len(body))
    return (_HEAD.pack(b"NG", FORMAT, len(specs), size) + body).ljust(size, b"\0")


@lru_cache(maxsize=1024)
def _layout(header: bytes) -> tuple[list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]], int]:
    """Return name, dtype, shape and offset of each array, and the end of the last one."""
    _, _, count, size = _HEAD.unpack_from(header)
    if size != len(header) or size % _ALIGNMENT:
        raise CorruptValueError(f"the header has {len(header)} bytes; its length field is {size}")
    found = []
    position, offset = _HEAD.size, size
    for _ in range(count):
        label, word, dims = _ARRAY.unpack_from(header, position)
        if dims > _MOST_DIMS:
            raise CorruptValueError(f"an array of {dims} dimensions")
        position += _ARRAY.size
        shape = struct.unpack_from(f"<{dims}Q", header, position)
        position += 8 * dims
        name = header[position : position + label].decode()
        dtype = np.dtype(header[position + label : position + label + word].decode())
        if dtype.hasobject or not dtype.itemsize:
            raise CorruptValueError(f"dtype {dtype} is not a number type")
        position += label + word
        found.append((name, dtype, shape, offset))
        offset = _aligned(offset + dtype.itemsize * prod(shape))
    return found, offset


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
