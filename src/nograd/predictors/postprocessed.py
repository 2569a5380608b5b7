"""The contract of `postprocess`: its first answer fixes keys, types and ranks; all later answers must have the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson

from nograd.core.inputs import to_host
from nograd.core.tensors import TEXT, Array
from nograd.errors import ModelError

__all__ = ["ANSWER", "AnswerFields"]

ANSWER = "answer"
"""Name of the output if `postprocess` does not return a dict."""

SENT = "numbers, text, bytes, arrays of these, lists and dicts"

_Kind: TypeAlias = Literal["numbers", "text", "json"]

_EXACT_INTS = range(-(2**53), 2**53 + 1)
"""Largest integer up to which float64 is exact."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Type and rank of all values of one field."""

    name: str
    kind: _Kind
    dtype: str
    rank: int

    def __str__(self) -> str:
        if self.kind == "json":
            return "a list or dict"
        word = "text" if self.kind == "text" else self.dtype
        return word if not self.rank else f"{word} of rank {self.rank}"


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """Keys, types and ranks of the answers of one `postprocess`."""

    fields: tuple[_Field, ...]
    has_keys: bool

    @classmethod
    def of(cls, answer: Any) -> AnswerFields:
        """Return the fields of the first answer.

        Raises:
            ModelError: it contains a value that nograd cannot send; the message names the field.
        """
        values = _by_name(answer)
        fields = tuple(_field(name, _read(name, value)) for name, value in values.items())
        return cls(fields, isinstance(answer, Mapping))

    def check(self, answer: Any) -> dict[str, Any]:
        """Return an answer's values by name: arrays, or JSON text.

        Raises:
            ModelError: a key, a type or a rank differs from the first answer; the message names the field.
        """
        if isinstance(answer, Mapping) is not self.has_keys:
            given, wanted = ("a dict", "no dict") if isinstance(answer, Mapping) else (_word(answer), "a dict")
            raise ModelError(f"postprocess returned {given}; its first answer was {wanted}, and every answer must be alike")
        values = _by_name(answer)
        names = [field.name for field in self.fields]
        for name in [*values, *names]:
            if (name in values) is not (name in names):
                what = "is new" if name in values else "is missing"
                known = ", ".join(map(repr, names)) or "none"
                raise ModelError(f"key {name!r} {what} in an answer of postprocess; its first answer had {known}")
        return {field.name: _fitted(field, values[field.name]) for field in self.fields}

    def columns(self, answers: Sequence[Any]) -> dict[str, Array]:
        """Return answers as tensors `[rows, ...]`, in the order of the first answer's keys.

        Raises:
            ModelError: as for `check`, or the shapes of the rows differ.
        """
        rows = [self.check(answer) for answer in answers]
        return {field.name: _stacked(field, [row[field.name] for row in rows]) for field in self.fields}


def _by_name(answer: Any) -> dict[str, Any]:
    return {str(key): value for key, value in answer.items()} if isinstance(answer, Mapping) else {ANSWER: answer}


def _field(name: str, value: Any) -> _Field:
    if isinstance(value, str):
        return _Field(name, "json", TEXT, 0)
    return _Field(name, "text" if value.dtype == object else "numbers", _dtype(value), value.ndim)


def _read(name: str, value: Any) -> Any:
    """Return a value as an array of numbers or text, or as JSON text (`str`)."""
    value = to_host(value)
    if isinstance(value, str | bytes):
        return _texts(name, np.array(value, dtype=object))
    if isinstance(value, np.ndarray | np.generic):
        return _array(name, np.asarray(value))
    if isinstance(value, bool | int | float):
        return _array(name, np.asarray(value))
    if isinstance(value, list | tuple) and (numbers := _numbers(value)) is not None:
        return numbers
    return _json(name, value)


def _array(name: str, array: Array) -> Array:
    if array.dtype.kind in "US":
        return _texts(name, array.astype(object))
    if array.dtype == object:
        if array.size and all(isinstance(item, str | bytes) for item in array.flat):
            return _texts(name, array)
        raise ModelError(f"{name!r} of postprocess's answer is an array of objects or a larger integer; nograd sends {SENT}")
    if array.dtype.kind in "fiub" and array.dtype.name != "float128":
        return array
    if "float" in array.dtype.name and array.dtype.name not in ("float128", "longdouble"):  # bfloat16 and the 8-bit kinds
        return array.astype(np.float32)
    raise ModelError(f"{name!r} of postprocess's answer is {array.dtype}; nograd sends {SENT}")


def _texts(name: str, array: Array) -> Array:
    """Return text as strings; bytes must be UTF-8, the encoding of JSON."""
    found = np.empty(array.shape, dtype=object)
    for place in np.ndindex(array.shape):
        item: object = array[place]
        try:
            found[place] = item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError:
            raise ModelError(
                f"{name!r} of postprocess's answer contains bytes that are not UTF-8; encode them, for example as base64"
            ) from None
    return found


def _numbers(value: Any) -> Array | None:
    """Return lists of numbers of equal length as an array."""
    try:
        array = np.asarray([to_host(item) for item in value])
    except ValueError:  # lists of several lengths
        return None
    return array if array.dtype.kind in "fiub" and array.size else None


def _json(name: str, value: Any) -> str:
    try:
        return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{name!r} of postprocess's answer is {_word(value)} ({error}); nograd sends {SENT}") from error


def _plain(value: Any) -> Any:
    """Convert a value that JSON lacks."""
    value = to_host(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return (array.astype(np.float32) if array.dtype.kind == "V" or "bfloat16" in array.dtype.name else array).tolist()
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"it contains a {type(value).__name__}")


def _fitted(field: _Field, given: Any) -> Any:
    """Return a value with the type and rank of its field. Python's integers fit into floats, and any list into JSON."""
    if field.kind == "json" and (given is None or isinstance(given, list | tuple | Mapping)):
        return _json(field.name, given)
    value = _read(field.name, given)
    found = _field(field.name, value)
    if found == field:
        return value
    is_int = found.kind == "numbers" and found.dtype == "int64" and found.rank == field.rank == 0
    if is_int and field.dtype == "float64" and int(value) in _EXACT_INTS:
        return value.astype(np.float64)
    raise ModelError(
        f"{field.name!r} of postprocess's answer is {found}; in its first answer it was {field}, and every answer must be alike"
    )


def _stacked(field: _Field, values: Sequence[Any]) -> Array:
    if field.kind == "json":
        texts = np.empty(len(values), dtype=object)
        texts[:] = values
        return texts
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        found = " and ".join(map(str, map(list, sorted(shapes)[:2])))
        raise ModelError(
            f"the shapes of {field.name!r} in postprocess's answers differ in one request: {found}; return one shape, or text "
            "(json.dumps) for what varies"
        )
    return np.stack(values)


def _dtype(array: Array) -> str:
    return TEXT if array.dtype == object else array.dtype.name


def _word(value: Any) -> str:
    return f"a {type(value).__name__}"
