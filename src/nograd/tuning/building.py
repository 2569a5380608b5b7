"""Building a variant into a file, and opening it as a backend. Runs in a candidate's own process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nograd.exports import KINDS, export_model, open_file
from nograd.parity import Tolerance

if TYPE_CHECKING:
    from nograd.backends import Backend
    from nograd.backends.modules import ModuleBackend
    from nograd.exports import Kind
    from nograd.tensors import Batch
    from nograd.transforms.precision import HalfDtype
    from nograd.tuning.values import Candidate

__all__ = ["build", "file_of", "open_candidate", "size_of"]

FILE_KINDS: dict[str, Kind] = {"onnx": "onnx", "openvino": "openvino", "aot": "pt2", "torchscript": "torchscript"}
"""Backend -> the kind of file that it runs. The others run the module itself."""


def file_of(candidate: Candidate, folder: Path) -> Path | None:
    """Return the file of a candidate's variant; None where there is none."""
    kind = FILE_KINDS.get(candidate.backend)
    return None if kind is None else folder / candidate.variant.replace(" ", "-") / f"model{KINDS[kind]}"


def size_of(path: Path | None) -> int | None:
    """Return the bytes of a variant's files."""
    return None if path is None else sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def build(
    candidate: Candidate, reference: ModuleBackend, proof: Sequence[Batch], tolerance: Tolerance, path: Path | None,
    *, accept_coupled_rows: bool = False,
) -> tuple[str, ...]:  # fmt: skip
    """Write the file of a candidate's variant; return what was decided on the way, one sentence each.

    Args:
        candidate: what to build; its layout plays no part.
        reference: the eager backend.
        proof: batches of the user's own rows: 8-bit recipes are compared and calibrated with them.
        tolerance: how far 8-bit answers may be off.
        path: the file; None: nothing is built.
        accept_coupled_rows: whether an 8-bit file whose rows influence each other declares that they may be batched.

    Raises:
        ExportError: the model cannot be built so, or the file does not answer as the model does.
    """
    if path is None:
        return ()
    path.parent.mkdir(parents=True, exist_ok=True)
    if candidate.precision.startswith("int8"):
        notes = _build_int8(candidate, reference, proof, tolerance, path, accept_coupled_rows=accept_coupled_rows)
    else:
        notes = export_model(reference, path, to=FILE_KINDS[candidate.backend]).notes
    if path.suffix == ".onnx":
        from nograd.backends.onnx.graph import load_graph, save_mapped

        save_mapped(load_graph(path), path)  # as in a bundle, so that what is measured is what will be served
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
    """Return a candidate as a backend, laid out as it says.

    Raises:
        NogradError: it cannot be opened.
    """
    lanes, num_threads = candidate.lanes, candidate.num_threads
    if candidate.backend == "onnx":
        from nograd.backends.onnx import OnnxBackend

        return OnnxBackend(cast("Path", path), device="cpu", lanes=lanes, num_threads=num_threads, spins=False)
    if candidate.backend == "openvino":
        from nograd.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(cast("Path", path), device="cpu", lanes=lanes, num_threads=num_threads)
    if path is not None:
        return open_file(path, trusted=True)
    if candidate.backend == "compiled":
        from nograd.backends.compiled import optimize_model_compile

        return optimize_model_compile(reference)
    return _module(candidate, reference)


def _module(candidate: Candidate, reference: ModuleBackend) -> Backend:
    from nograd.backends.eager import eager_backend
    from nograd.backends.modules import ModuleBackend

    if candidate.precision != "float32":
        from nograd.transforms.precision import to_half

        halved = to_half(reference.model, cast("HalfDtype", candidate.precision))
        return eager_backend(halved, reference.samples, lanes=candidate.lanes, num_threads=candidate.num_threads)
    return ModuleBackend(
        reference.model, reference.signature, reference.call, reference.restore, samples=reference.samples,
        lanes=candidate.lanes, num_threads=candidate.num_threads,
    )  # fmt: skip
