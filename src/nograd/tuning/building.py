"""Write a variant's model file and open it as a backend. Runs in the candidate's own process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nograd.backends.kinds import LoadOptions
from nograd.backends.opening import open_backend, pack_file, wrap_module
from nograd.core.parity import Tolerance
from nograd.exports import export_model, halved

if TYPE_CHECKING:
    from nograd.backends import Backend
    from nograd.backends.modules import ModuleBackend
    from nograd.core.tensors import Batch
    from nograd.exports import Precision
    from nograd.tuning.values import Candidate

__all__ = ["build", "file_of", "open_candidate", "size_of"]


def file_of(candidate: Candidate, folder: Path) -> Path | None:
    """Return the path of a variant's model file; None if the backend runs the module itself."""
    kind = candidate.kind
    return None if kind.runs_module else folder / candidate.variant.replace(" ", "-") / f"model{kind.suffix}"


def size_of(path: Path | None) -> int | None:
    """Return the total size of a variant's files in bytes; None without a file."""
    return None if path is None else sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def build(
    candidate: Candidate, reference: ModuleBackend, proof: Sequence[Batch], tolerance: Tolerance, path: Path | None,
    *, accept_coupled_rows: bool = False,
) -> tuple[str, ...]:  # fmt: skip
    """Write the model file of a candidate's variant; return the decisions that were made, one sentence each.

    Args:
        candidate: the variant to build; its layout is ignored.
        reference: the eager backend.
        proof: batches of the user's own rows. 8-bit recipes are calibrated and compared with them.
        tolerance: maximum difference of 8-bit answers from eager's.
        path: the file to write; None builds nothing.
        accept_coupled_rows: mark an 8-bit file as batchable even if its rows influence each other.

    Raises:
        ExportError: the model cannot be built in this form, or the file's answers differ from the model's.
    """
    if path is None:
        return ()
    path.parent.mkdir(parents=True, exist_ok=True)
    if candidate.precision.startswith("int8"):
        notes = _build_int8(candidate, reference, proof, tolerance, path, accept_coupled_rows=accept_coupled_rows)
    else:
        precision = cast("Precision", candidate.precision)
        notes = export_model(reference, path, to=candidate.kind.target, precision=precision).notes
    pack_file(candidate.kind, path, path)  # as in a bundle, so that the measured file is the served file
    return notes


def _build_int8(
    candidate: Candidate, reference: ModuleBackend, proof: Sequence[Batch], tolerance: Tolerance, path: Path,
    *, accept_coupled_rows: bool,
) -> tuple[str, ...]:  # fmt: skip
    from nograd.transforms.quantize import quantize_dynamic, quantize_static

    if candidate.precision == "int8-dynamic":
        made = quantize_dynamic(
            reference, path=path, evaluation=proof, tolerance=tolerance, accept_coupled_rows=accept_coupled_rows
        )
    else:
        calibration = proof[1::2] or proof
        made = quantize_static(reference, calibration, path=path, evaluation=proof[::2], tolerance=tolerance)
    return (f"{made.chosen.recipe}, {made.speedup:.2f} times the speed of float32 in ONNX Runtime",)


def open_candidate(candidate: Candidate, reference: ModuleBackend, path: Path | None) -> Backend:
    """Return a candidate as a backend, with the candidate's lanes and threads.

    Raises:
        NogradError: the backend cannot be opened.
    """
    options = LoadOptions(device="cpu", lanes=candidate.lanes, num_threads=candidate.num_threads, trusted=True, spins=False)
    if path is not None:
        return open_backend(candidate.kind, path, options)
    module = reference if candidate.precision == "float32" else halved(reference, candidate.precision)
    return wrap_module(candidate.kind, module, options)
