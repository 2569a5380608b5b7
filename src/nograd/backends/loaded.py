"""Exported programs that were loaded from trusted files: they take tensors in order and return outputs by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nograd.backends import FileFingerprint
from nograd.backends.modules import ModuleBackend
from nograd.core.manifest import Manifest
from nograd.core.module import ModuleCall
from nograd.core.structure import restore_from
from nograd.errors import ConfigError, ModelLoadError

__all__ = ["check_file", "check_trusted", "program_backend"]


def check_file(target: Path, suffix: str = "") -> None:
    """Raise ConfigError if the file cannot be written: wrong extension, missing folder, or no permission."""
    if suffix and target.suffix != suffix:
        raise ConfigError(f"path is {str(target)!r}; it must end in {suffix}")
    if target.is_dir():
        raise ConfigError(f"path is {str(target)!r}, which is a folder; give the name of a file in it")
    if not target.parent.is_dir():
        raise ConfigError(f"path is {str(target)!r}; the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"path is {str(target)!r}; this user may not write into the folder {target.parent}")


def check_trusted(path: str | os.PathLike[str], *, trusted: bool, what: str) -> None:
    """Raise if the file does not exist, or if the caller does not trust it."""
    if not Path(path).is_file():
        raise ModelLoadError(f"there is no file {os.fspath(path)}")
    if not trusted:
        raise ConfigError(
            f"{os.fspath(path)} contains {what}, and opening it runs that code; "
            "if you trust its source, open it with trusted=True (--trusted)"
        )


class _NativeProgram(nn.Module):
    """A program with the arguments and the output structure of the module that it was made from."""

    def __init__(self, program: Callable[..., Any], call: ModuleCall) -> None:
        super().__init__()
        self._program = [program]  # in a list, as in `_Program`
        self._call = call

    def forward(self, *tensors: Tensor) -> Any:
        """Run the program; tensors come in the signature's order."""
        named = dict(zip(self._call.names, (tensor.contiguous() for tensor in tensors), strict=True))
        return self._call(cast("nn.Module", self._program[0]), named)


class _Program(nn.Module):
    """A program that takes tensors in order, as a module that returns outputs by name."""

    def __init__(self, program: Callable[..., Any], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self._program = [program]  # in a list: a module would become a child, and a frozen one has no mode
        self._outputs = outputs

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Run the program with inputs in C order, for which it was compiled."""
        answer = self._program[0](*(tensor.contiguous() for tensor in tensors))
        answers = answer if isinstance(answer, tuple | list) else (answer,)
        return dict(zip(self._outputs, answers, strict=True))


def program_backend(
    program: Callable[..., Any],
    manifest: str,
    *,
    name: str,
    device: torch.device | None,
    file: FileFingerprint,
    lanes: int = 1,
    num_threads: int | None = None,
    native: ModuleCall | None = None,
) -> ModuleBackend:
    """Return a backend over a program that nograd exported, described by its manifest.

    Args:
        program: takes tensors in the signature's order, returns a tuple in the signature's order.
        manifest: manifest of the file.
        name: name of the backend.
        device: device on which the program runs; None: the device of its parameters (the program is a module).
        file: fingerprint of the file.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads per call on a CPU; default: torch's setting.
        native: call of a program that has the module's arguments and outputs; None: tensors in order, and a tuple.
    """
    described = Manifest.loads(manifest)
    signature = described.signature
    call = ModuleCall(tuple(spec.name for spec in signature.inputs), "positional")
    outputs = tuple(spec.name for spec in signature.outputs)
    module = _Program(program, outputs).eval() if native is None else _NativeProgram(program, native).eval()
    if device is None:
        tensors = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
        device = tensors[0].device if tensors else torch.device("cpu")
    return ModuleBackend(
        module, signature, call, restore_from(described.outline), name=name, device=device, has_gradients=False,
        lanes=lanes, num_threads=num_threads, file=file, problem_type=described.problem_type,
    )  # fmt: skip
