"""Size limits of one request, checked before work or memory in proportion to its size. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import TooLargeError
from nograd.server.protocol.shapes import count_elements

__all__ = ["NO_LIMITS", "RequestLimits"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of one request; errors name the setting."""

    rows: int
    """Maximum rows of each input."""

    elements: int
    """Maximum elements of each input: numbers or texts."""

    text_chars: int
    """Maximum characters of each text."""

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Check the shape of an input before its data is read.

        Raises:
            TooLargeError: the input has too many rows or elements.
            ProtocolError: as for `count_elements`.
        """
        elements = count_elements(name, shape)
        if not elements:
            return
        if shape and shape[0] > self.rows:
            raise TooLargeError(
                f"input {name!r} has {shape[0]} rows; a request may have at most {self.rows} (max_request_rows): "
                "send fewer rows per request"
            )
        if elements > self.elements:
            raise TooLargeError(
                f"input {name!r} has {elements} elements; a request may have at most {self.elements} (max_request_elements)"
            )

    def max_texts(self, inputs: Sequence[TensorSpec]) -> int:
        """Return how many texts a request with these inputs may have."""
        found = 0
        for spec in inputs:
            if spec.dtype == TEXT:
                sizes = [size for size in spec.shape if isinstance(size, int)]
                found += min(self.elements, self.rows * prod(sizes)) if len(sizes) == len(spec.shape) else self.elements
        return found

    def check_texts(self, name: str, array: Array) -> None:
        """Check the texts of an input; numbers are ignored.

        Raises:
            TooLargeError: a text is too long.
        """
        if array.dtype.kind != "O":
            return
        for index, text in enumerate(array.flat):
            if len(text) > self.text_chars:
                raise TooLargeError(
                    f"input {name!r} has a text of {len(text)} characters, item {index}; a text may have at most "
                    f"{self.text_chars} (max_text_chars)"
                )


NO_LIMITS = RequestLimits(2**63, 2**63, 2**63)
"""No limits, for callers with their own checks."""
