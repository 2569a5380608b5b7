"""Records of an input: one for each line, row or image, with its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["InputPosition", "Reader", "Record", "value_of"]


@dataclass(frozen=True, slots=True)
class InputPosition:
    """Position in the input."""

    number: int = 0
    """Number of the last record, counted from 1: its line, row or image; 0 before the first."""

    offset: int = 0
    """Decompressed bytes up to the end of that line; 0 if the input has no lines."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line, row or image that is read but not yet converted."""

    place: InputPosition
    size_bytes: int
    """Approximate size in memory."""

    columns: Mapping[str, Any]
    """Values by column. JSON values are `msgspec.Raw`, so that carried columns remain exactly as written."""

    raw: Any
    """The value for the file of bad rows."""

    fault: str = ""
    """Reason why the record cannot be used; empty if it can."""


class Reader(ABC):
    """Read the records of an input, from any place on."""

    word: str = "row"
    """The word for a record in messages: line, row, image."""

    resumable: bool = True
    """True if the input can be read again."""

    is_text: bool = False
    """True if every value is text, including numbers."""

    columns: tuple[str, ...] | None = None
    """The columns of all records; None if each record has its own."""

    hidden: frozenset[str] = frozenset()
    """Columns that can be the model's input but are never carried through."""

    @abstractmethod
    def read(self, after: InputPosition) -> Iterator[Record]:
        """Yield the records after a place; the records are the same for every place.

        Raises:
            JobError: the input cannot be read any further.
        """

    @abstractmethod
    def fraction(self, place: InputPosition) -> float | None:
        """Return the share of the input before a place, 0 to 1; None if unknown."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return the properties that identify the input, with values that users can read."""

    def close(self) -> None:  # noqa: B027  some readers hold no resources
        """Close open files."""


def value_of(value: Any) -> Any:
    """Return a column's value; raw JSON is decoded."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
