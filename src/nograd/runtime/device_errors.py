"""Errors of memory and of devices, which each library reports differently."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nograd.errors import DeviceLostError

__all__ = ["device_lost", "is_device_lost", "is_out_of_memory", "release_frames"]

NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)

LOST_CODES = frozenset((3, 4, 46, 100, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999))
"""Values of `cudaError_t` after which all calls of the process fail: errors of kernels that ran, of the hardware and of the
driver. Other values, such as 1 (invalid value), 9 (invalid configuration) or 209 (no kernel for this GPU), refuse one call.
Source: the CUDA Runtime API, section "Data types used by CUDA Runtime".
"""

LOST = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid address space",
    "invalid program counter",
    "hardware stack error",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ecc error",
    "context is destroyed",
    "driver shutting down",
    "busy or unavailable",
    "no cuda-capable device",
    "initialization error",
    "cuda error: unknown error",
)
"""The same errors as text, for versions of torch whose errors have no `error_code`."""

CODE = re.compile(r"cuda (?:failure|error) (\d+)", re.IGNORECASE)
"""ONNX Runtime writes `CUDA failure 700: an illegal memory access was encountered`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error or its causes report out of memory: from torch, ONNX Runtime, OpenVINO or Python."""
    return any(
        isinstance(cause, MemoryError)
        or type(cause).__name__ == "OutOfMemoryError"
        or (_is_of_a_runtime(cause) and _says(cause, NO_MEMORY))
        for cause in _causes(error)
    )


def is_device_lost(error: BaseException) -> bool:
    """Return whether CUDA's context is broken: every later call fails with the same error until the process ends."""
    return any(_is_of_a_runtime(cause) and not is_out_of_memory(cause) and _is_lost(cause) for cause in _causes(error))


def device_lost(error: BaseException) -> DeviceLostError:
    """Return the error for what a lost device raised."""
    return DeviceLostError(f"the device is lost: {error}")


def release_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error, its causes and contexts. Their frames keep the tensors of a failed run alive."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            found.__traceback__ = None
            waiting += [found.__cause__, found.__context__]


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_of_a_runtime(error: BaseException) -> bool:
    """Return whether torch, OpenVINO or ONNX Runtime raised it; the errors of ONNX Runtime are not RuntimeErrors."""
    return isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] == "onnxruntime"


def _is_lost(error: BaseException) -> bool:
    code = getattr(error, "error_code", None)
    if code is None and (match := CODE.search(str(error))):
        code = int(match[1])
    return code in LOST_CODES if code is not None else _says(error, LOST)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)
