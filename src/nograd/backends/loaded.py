"""Programs read back from a file: run with tensors in order, answered by name, opened only when they are trusted."""

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
    """Raise ConfigError if the file cannot be written: its ending, its folder, or the permissions do not allow it."""
    if suffix and target.suffix != suffix:
        raise ConfigError(f"path is {str(target)!r}; it must end in {suffix}")
    if target.is_dir():
        raise ConfigError(f"path is {str(target)!r}, which is a folder; give the name of a file in it")
    if not target.parent.is_dir():
        raise ConfigError(f"path is {str(target)!r}; the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"path is {str(target)!r}; this user may not write into the folder {target.parent}")


def check_trusted(path: str | os.PathLike[str], *, trusted: bool, what: str) -> None:
    """Raise where the file is not there, or nobody says that it is trusted."""
    if not Path(path).is_file():
        raise ModelLoadError(f"there is no file {os.fspath(path)}")
    if not trusted:
        raise ConfigError(
            f"{os.fspath(path)} holds {what}: opening it runs what is in it; "
            "if you know where it comes from, open it with trusted=True (--trusted)"
        )


class _Native(nn.Module):
    """A program that is called as the module it was made from, and returns what that module returns."""

    def __init__(self, program: Callable[..., Any], call: ModuleCall) -> None:
        super().__init__()
        self._program = [program]  # in a list, as in `_Program`
        self._call = call

    def forward(self, *tensors: Tensor) -> Any:
        """Run the program; tensors come in the signature's order."""
        named = dict(zip(self._call.names, (tensor.contiguous() for tensor in tensors), strict=True))
        return self._call(cast("nn.Module", self._program[0]), named)


class _Program(nn.Module):
    """A program that takes tensors in order, as a module that answers by name."""

    def __init__(self, program: Callable[..., Any], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self._program = [program]  # in a list: a module would become a child, and a frozen one has no mode to set
        self._outputs = outputs

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Run the program; inputs in C order, which is what it was compiled for."""
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
    """Return a backend over a program that nograd exported, as its manifest describes it.

    Args:
        program: takes tensors in the signature's order, returns a tuple in the signature's order.
        manifest: what the file says of itself.
        name: the backend's.
        device: where the program runs; None: where the parameters of the program, a module, are.
        file: of the file that it was read from.
        lanes: calls to `run` that may go on side by side.
        num_threads: threads that one of them computes with, on a CPU; default: as torch is set.
        native: how to call a program that takes and returns what the module did; None: tensors in order, a tuple.
    """
    described = Manifest.loads(manifest)
    signature = described.signature
    call = ModuleCall(tuple(spec.name for spec in signature.inputs), "positional")
    outputs = tuple(spec.name for spec in signature.outputs)
    module = _Program(program, outputs).eval() if native is None else _Native(program, native).eval()
    if device is None:
        tensors = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
        device = tensors[0].device if tensors else torch.device("cpu")
    return ModuleBackend(
        module, signature, call, restore_from(described.outline), name=name, device=device, has_gradients=False,
        lanes=lanes, num_threads=num_threads, file=file, problem_type=described.problem_type,
    )  # fmt: skip
