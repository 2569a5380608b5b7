"""Whether memory ran out: every library says so in its own way."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """True where an error, or what caused it, says that memory ran out: torch's, ONNX Runtime's, OpenVINO's or Python's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if isinstance(cause, RuntimeError) and any(words in str(cause).lower() for words in _NO_MEMORY):
            return True
        cause = cause.__cause__
    return False
