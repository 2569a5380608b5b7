"""Detection of out-of-memory errors, which each library reports differently."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error or its causes report out of memory: from torch, ONNX Runtime, OpenVINO or Python."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if isinstance(cause, RuntimeError) and any(words in str(cause).lower() for words in _NO_MEMORY):
            return True
        cause = cause.__cause__
    return False
