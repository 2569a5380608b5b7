"""The data of one input of a JSON body, as an array. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from nograd.core.tensors import Array
from nograd.errors import ProtocolError, TooLargeError
from nograd.server.protocol.binary import BinaryTail
from nograd.server.protocol.datatypes import numpy_dtype
from nograd.server.protocol.long_data import LONG_DATA, count_byte, count_lists, decode_numbers
from nograd.server.protocol.long_texts import NotTextsError, decode_texts
from nograd.server.protocol.shapes import count_elements, reshape

__all__ = ["JsonInput", "array_of"]


class JsonInput(msgspec.Struct, frozen=True):
    """One input of a JSON body; its data is not decoded yet."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, str | int | float | bool | None] | None = None


_DECODE_LIST: dict[str, Any] = {
    "f": msgspec.json.Decoder(list[float]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "b": msgspec.json.Decoder(list[bool]),
    "O": msgspec.json.Decoder(list[str]),
}

_LISTS: dict[str, Any] = {"f": list[float], "i": list[int], "u": list[int], "b": list[bool], "O": list[str]}

_WORDS = {"f": "numbers", "i": "integers", "u": "integers", "b": "true and false", "O": "strings"}


def array_of(given: JsonInput, dtype: np.dtype[Any], octets: BinaryTail, max_text_chars: int = 2**63) -> Array:
    """Return the data of an input as an array of its shape.

    Args:
        given: the input.
        dtype: dtype of its datatype.
        octets: binary tensors, from which the input takes its own.
        max_text_chars: characters of a text, at most; long data is checked before it is decoded, other data by the caller.

    Raises:
        ProtocolError: the data do not form such an array.
        TooLargeError: a text is too long.
    """
    count, parameters = count_elements(given.name, given.shape), given.parameters or {}
    if parameters.get("binary_data_size") is not None:
        if bytes(given.data):
            raise ProtocolError(f"input {given.name!r} has data and binary_data_size; send one of them")
        return octets.take(given.name, parameters["binary_data_size"], given.shape, dtype)
    if dtype == numpy_dtype("BF16"):
        raise ProtocolError(f"input {given.name!r} is BF16, which must be binary (binary_data_size), not JSON data")
    is_long = len(memoryview(given.data)) > LONG_DATA
    if is_long and dtype.kind == "O":
        return reshape(given.name, _long_texts(given, count, dtype, max_text_chars), given.shape)
    values = _long_values(given, count, dtype) if is_long else _values(given, dtype)
    _require_count(given, count, len(values))
    return reshape(given.name, values, given.shape)


def _require_count(given: JsonInput, count: int, found: int) -> None:
    if count != found:
        raise ProtocolError(f"input {given.name!r} has shape {given.shape}, so {count} elements; its data has {found}")


def _long_texts(given: JsonInput, count: int, dtype: np.dtype[Any], max_chars: int) -> Array:
    """Return texts as a flat array, decoded in slices."""
    try:
        return _objects(decode_texts(bytes(given.data), given.shape, count=count, max_chars=max_chars))
    except NotTextsError as error:
        raise _not_such_a_list(given, dtype, error) from None
    except TooLargeError as error:
        raise TooLargeError(f"input {given.name!r}: {error}") from None
    except ProtocolError as error:
        raise ProtocolError(f"input {given.name!r} has shape {given.shape}, so {count} elements; {error}") from None


def _long_values(given: JsonInput, count: int, dtype: np.dtype[Any]) -> Array:
    """Return the data as a flat array. Elements are counted first, then decoded in slices."""
    data = bytes(given.data).strip()
    if data[:1] != b"[" or data[-1:] != b"]":
        return _values(given, dtype)
    _require_count(given, count, count_byte(data, b",") + 1)

    def convert(piece: bytes) -> Array:
        try:
            return _numbers(given, _DECODE_LIST[dtype.kind].decode(piece), dtype)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _not_such_a_list(given, dtype, error) from None

    return decode_numbers(data, given.shape, convert, dtype, lambda: ProtocolError(_ragged(given)))


def _values(given: JsonInput, dtype: np.dtype[Any]) -> Array:
    """Return the data as a flat array; nested lists are flattened if they have the given shape."""
    try:
        values = _DECODE_LIST[dtype.kind].decode(given.data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        values = _nested_values(given, dtype, error)
    return _objects(values) if dtype.kind == "O" else _numbers(given, values, dtype)


def _numbers(given: JsonInput, values: list[Any], dtype: np.dtype[Any]) -> Array:
    """Return numbers as an array.

    Raises:
        ProtocolError: a number is out of range of the dtype.
    """
    try:
        if dtype.itemsize == 8:
            return np.array(values, dtype=dtype)
        with np.errstate(over="raise"):
            return np.array(values, dtype=dtype)
    except FloatingPointError:
        raise ProtocolError(
            f"input {given.name!r} contains a number out of range of {given.datatype}, whose maximum is {np.finfo(dtype).max:g}"
        ) from None
    except OverflowError:
        limits = np.iinfo(dtype)
        worst = next(value for value in values if not limits.min <= value <= limits.max)
        raise ProtocolError(
            f"input {given.name!r} contains {worst}; {given.datatype} goes from {limits.min} to {limits.max}"
        ) from None


def _objects(values: list[str]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _nested_values(given: JsonInput, dtype: np.dtype[Any], error: Exception) -> list[Any]:
    if not bytes(given.data):
        raise ProtocolError(f"input {given.name!r} has no data") from None
    brackets = bytes(given.data).count(b"[")
    if dtype.kind != "O" and brackets > 1 and brackets != count_lists(given.shape):
        raise ProtocolError(_ragged(given)) from None  # before a list is created for each bracket
    try:
        nested = msgspec.json.decode(given.data)
        if not isinstance(nested, list) or not any(isinstance(value, list) for value in nested):
            raise _not_such_a_list(given, dtype, error)
        return list(msgspec.convert(list(_leaves(nested, given.shape)), _LISTS[dtype.kind]))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as nested_error:
        raise _not_such_a_list(given, dtype, nested_error) from None
    except _RaggedError:
        raise ProtocolError(_ragged(given)) from None


def _ragged(given: JsonInput) -> str:
    return f"input {given.name!r} is ragged: its nested lists do not have the shape {given.shape}"


def _not_such_a_list(given: JsonInput, dtype: np.dtype[Any], error: Exception) -> ProtocolError:
    what = str(error).split(" - at")[0]
    return ProtocolError(
        f"the data of input {given.name!r}, datatype {given.datatype}, must be a list of {_WORDS[dtype.kind]}, "
        f"flat or nested as its shape: {what}"
    )


class _RaggedError(Exception):
    """Nested lists do not have the announced shape."""


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
