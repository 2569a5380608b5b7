"""Programs read back from a file: run with tensors in order, answered by name, opened only when they are trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nograd.backends import FileFingerprint
from nograd.backends.modules import ModuleBackend
from nograd.errors import ConfigError, ModelLoadError
from nograd.manifest import Manifest
from nograd.module import Call
from nograd.structure import restore_from

__all__ = ["check_file", "check_trusted", "program_backend"]


def check_file(target: Path) -> None:
    """Raise ConfigError where a file cannot be written for lack of its folder."""
    if not target.parent.is_dir():
        raise ConfigError(f"path is {str(target)!r}; the folder {target.parent} does not exist")


def check_trusted(path: str | os.PathLike[str], *, trusted: bool, what: str) -> None:
    """Raise where the file is not there, or nobody says that it is trusted."""
    if not Path(path).is_file():
        raise ModelLoadError(f"there is no file {os.fspath(path)}")
    if not trusted:
        raise ConfigError(
            f"{os.fspath(path)} holds {what}: opening it runs what is in it; "
            "if you know where it comes from, open it with trusted=True (--trusted)"
        )


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
    """
    described = Manifest.loads(manifest)
    signature = described.signature
    call = Call(tuple(spec.name for spec in signature.inputs), "positional")
    module = _Program(program, tuple(spec.name for spec in signature.outputs)).eval()
    if device is None:
        tensors = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
        device = tensors[0].device if tensors else torch.device("cpu")
    return ModuleBackend(
        module, signature, call, restore_from(described.outline), name=name, device=device, has_gradients=False,
        lanes=lanes, num_threads=num_threads, file=file,
    )  # fmt: skip
