"""What is read: one record for each line, row or image of the input, with its place there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["Place", "Reader", "Record", "value_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """How far the input has been read."""

    number: int = 0
    """Of the last record, counted from 1: its line, row or image; 0 before the first."""

    offset: int = 0
    """Bytes up to the end of that line, decompressed; 0 where the input has no lines."""


@dataclass(frozen=True, slots=True)
class Record:
    """A line, row or image, read but not yet understood."""

    place: Place
    size_bytes: int
    """What it holds in memory, about."""

    columns: Mapping[str, Any]
    """Values by column; of JSON as `msgspec.Raw`, so that what is carried through stays as it was written."""

    raw: Any
    """What is written to the file of bad rows."""

    fault: str = ""
    """Why it cannot be used; empty where it can."""


class Reader(ABC):
    """Gives the records of an input, from any place on."""

    word: str = "row"
    """What a record is called in sentences: line, row, image."""

    resumable: bool = True
    """Whether it can be read again."""

    is_text: bool = False
    """True where every value is text, numbers too."""

    columns: tuple[str, ...] | None = None
    """The columns of all records; None where each has its own."""

    hidden: frozenset[str] = frozenset()
    """Columns that can be the model's input, but are never carried through."""

    @abstractmethod
    def read(self, after: Place) -> Iterator[Record]:
        """Yield the records behind a place; always the same ones, whatever the place.

        Raises:
            JobError: the input cannot be read any further.
        """

    @abstractmethod
    def fraction(self, place: Place) -> float | None:
        """Return which share of the input lies before a place, 0 to 1; None where that is not known."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return by what it is told whether this is the same input: words and their values, as users are shown them."""

    def close(self) -> None:  # noqa: B027  some hold nothing
        """Give back what is held open."""


def value_of(value: Any) -> Any:
    """Return a column's value: JSON that was kept as it was written is read now."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
