"""Shared code of all exporters: a module with ordered tensors, an example input, and the comparison with eager.

`verified` runs the exported file and eager on inputs that differ from the example in everything that may differ (rows, lengths,
padding, values), and raises if their answers differ.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nograd.backends import Backend
from nograd.backends.coupling import accept_coupling, measured_signature, without_independence
from nograd.backends.eager import eager_backend, precision_of
from nograd.backends.loaded import check_file
from nograd.backends.modules import ModuleBackend
from nograd.core.inputs import is_tensor, to_host
from nograd.core.manifest import Manifest
from nograd.core.module import EvalMode, floating_dtype, original_of
from nograd.core.parity import EXACT, HALF, ParityReport, Tolerance, compare
from nograd.core.structure import flatten, outline
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, ExportError, ModelError
from nograd.probing.samples import Tensors, padded, resized, with_rows

if TYPE_CHECKING:
    from nograd.core.tensors import Signature

__all__ = [
    "Export",
    "FlatModule",
    "check_module",
    "example_of",
    "exporter_errors",
    "in_eval_mode",
    "manifest_of",
    "measured_manifest",
    "quiet",
    "reference_of",
    "trials",
    "verified",
    "write_verified",
]

MAX_TRIAL_SIZE = 256
"""Maximum size of a varying dimension in a trial."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file that runs without the module, and the evidence that its answers equal the module's."""

    path: Path
    parity: ParityReport
    """Comparison with eager, on inputs that differ from the example in rows, lengths, padding and values."""

    notes: tuple[str, ...] = ()
    """Decisions of the exporter, one sentence each: which exporter was used, and why."""

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def reference_of(model: nn.Module | Backend, sample: Any) -> ModuleBackend:
    """Return the eager backend that an export is made from and compared with.

    Args:
        model: a module, or a backend that holds one.
        sample: inputs that the module can run; None for a backend, which has its own samples.

    Raises:
        ConfigError: a module without a sample, or a backend without a module.
        SignatureError: the module cannot run the sample.
    """
    if isinstance(model, ModuleBackend):
        if not model.samples:
            raise ConfigError("the backend was never probed, so its inputs are unknown; make it with a sample")
        return model
    if isinstance(model, Backend):
        raise ConfigError(f"model is a backend of the kind {model.name!r}; only a torch module can be exported")
    check_module(model)
    if sample is None:
        raise ConfigError("no sample was given; an export needs inputs that the model can run")
    with quiet():
        return eager_backend(original_of(model), [sample])


def check_module(model: object) -> None:
    """Raise ConfigError if the model is not a torch module; a Predictor, for example, is not."""
    if isinstance(model, nn.Module):
        return
    if hasattr(model, "predict"):
        raise ConfigError(f"model is a {type(model).__name__}; give the torch.nn.Module that it runs, or its `.backend`")
    raise ConfigError(f"model is a {type(model).__name__}; it must be a torch.nn.Module or an eager backend")


class FlatModule(nn.Module):
    """A module with its inputs in the signature's order, and its outputs as a tuple in the signature's order."""

    def __init__(self, reference: ModuleBackend, model: nn.Module | None = None) -> None:
        super().__init__()
        self.training = False  # do not change the caller's module; `in_eval_mode` sets its mode during the export
        self.inner = reference.model if model is None else model
        self._call = reference.call
        self._inputs = tuple(spec.name for spec in reference.signature.inputs)
        self._outputs = tuple(spec.name for spec in reference.signature.outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module."""
        leaves, _ = flatten(self._call(self.inner, dict(zip(self._inputs, tensors, strict=True))), is_tensor)
        return tuple(leaves[name] for name in self._outputs)


def example_of(reference: ModuleBackend) -> Tensors:
    """Return inputs to export with: 3 rows, and every dimension that varies at 2 or more.

    Exporters treat a size of 1 as a constant (torch.export specialises 0 and 1): a model exported with one row runs only one
    row.
    """
    example = with_rows(dict(reference.samples[0]), 3)
    for dim, places in _places(reference.signature).items():
        name, axis = places[0]
        if example[name].shape[axis] < 2 and reference.signature.allowed_size(dim, 2) == 2:
            example = resized(example, places, 2)
    return example


def manifest_of(reference: ModuleBackend) -> Manifest:
    """Return the manifest of the exported file."""
    with torch.inference_mode(), EvalMode(reference.model)():
        answer = reference.call(reference.model, reference.samples[0])
    return Manifest(without_independence(reference.signature), outline(answer, is_tensor), reference.problem_type)


def measured_manifest(
    candidate: Backend, reference: ModuleBackend, *, precision: str | None = None, accept_coupled_rows: bool = False
) -> Manifest:
    """Return the manifest of an exported file, with the independence of rows measured on the file itself, not on eager.

    Args:
        candidate: runs the file.
        reference: the eager backend that it was exported from.
        precision: precision of the file's arithmetic; default: the module's.
        accept_coupled_rows: whether the user accepts that rows influence each other. The reference may also state it.
    """
    manifest = manifest_of(reference)
    batches = [{name: _host(tensor) for name, tensor in sample.items()} for sample in reference.samples]
    precision = precision or precision_of(reference.model)
    found = measured_signature(candidate.run, batches, manifest.signature, precision=precision, backend=candidate.name)
    accepts = accept_coupled_rows or reference.accepts_coupled_rows
    return replace(manifest, signature=accept_coupling(found) if accepts else found)


def trials(reference: ModuleBackend) -> list[Batch]:
    """Return inputs on which an export and eager must agree. Inputs that eager cannot run are left out.

    These are the samples; one row and five rows; short and long sizes of every varying dimension; a row padded among longer
    ones, if rows may be padded; and negated, zero and tripled values, which take the other side of a branch on values.
    """
    tried: list[Tensors] = []
    for sample in map(dict, reference.samples):
        tried += [sample, {name: tensor[:1] for name, tensor in sample.items()}, with_rows(sample, 5)]
        tried += _other_sizes(sample, reference.signature)
        tried += _other_values(sample)
    return [batch for tensors in tried if _runs(reference, batch := {k: _host(v) for k, v in tensors.items()})]


def _host(tensor: Tensor) -> Any:
    return to_host(tensor.contiguous().clone())


def _runs(reference: ModuleBackend, batch: Batch) -> bool:
    try:
        reference.run(batch)
    except ModelError:
        return False
    return True


def _places(signature: Signature) -> dict[str, list[tuple[str, int]]]:
    places: dict[str, list[tuple[str, int]]] = {}
    for spec in signature.inputs:
        for axis, size in enumerate(spec.shape, start=1):
            if isinstance(size, str):
                places.setdefault(size, []).append((spec.name, axis))
    return places


def _other_sizes(sample: Tensors, signature: Signature) -> Iterator[Tensors]:
    for dim, places in _places(signature).items():
        name, axis = places[0]
        size, smallest = sample[name].shape[axis], signature.size_range(dim)[0]
        largest = signature.allowed_size(dim, MAX_TRIAL_SIZE)
        for other in sorted({smallest, 2, size // 2, size + 1, 2 * size + 3, largest} - {size}):
            if smallest <= other <= largest:
                yield resized(sample, places, other)
        if signature.batching == "pad" and size < largest:
            yield _padded_among_longer(sample, places, signature, dim, min(2 * size, largest))


def _padded_among_longer(
    sample: Tensors, places: Sequence[tuple[str, int]], signature: Signature, dim: str, target: int
) -> Tensors:
    short = padded(sample, signature.inputs, dim, target)
    long = resized(sample, places, target)
    return {name: torch.cat([short[name], long[name]]) for name in sample}


def _other_values(sample: Tensors) -> Iterator[Tensors]:
    if any(tensor.is_floating_point() for tensor in sample.values()):
        for change in (torch.neg, torch.zeros_like, lambda tensor: 3 * tensor):
            yield {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in sample.items()}
    for name, tensor in sample.items():
        if not tensor.is_floating_point():
            flipped = ~tensor if tensor.dtype == torch.bool else torch.where(tensor > 0, tensor - 1, tensor + 1)
            yield {**sample, name: flipped}
            yield {**sample, name: torch.zeros_like(tensor)}


def tolerance_for(reference: ModuleBackend) -> Tolerance:
    """Return the tolerance of an export, which depends on the module's dtype."""
    return HALF if floating_dtype(reference.model) in (torch.float16, torch.bfloat16) else EXACT


def verified(candidate: Backend, reference: ModuleBackend, *, tolerance: Tolerance | None = None) -> ParityReport:
    """Return the comparison of an exported model with eager.

    Raises:
        ExportError: they disagree, or the export cannot run what eager runs.
    """
    _check_limits(candidate, reference.signature)
    batches = trials(reference)
    given: list[Batch] = []
    for batch in batches:
        try:
            given.append(candidate.run(batch))
        except ModelError as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in batch.items())
            raise ExportError(f"the export to {candidate.name} cannot run {shapes}, which eager runs: {error}") from error
    expected = [reference.run(batch) for batch in batches]
    report = compare(expected, given, tolerance=tolerance or tolerance_for(reference), outputs=reference.signature.outputs)
    if not report.passed:
        raise ExportError(
            f"the answers of the export to {candidate.name} differ from the model's, perhaps because the model branches on its "
            f"data: {'; '.join(report.failures)}",
            report,
        )
    return report


def write_verified(
    reference: ModuleBackend,
    path: Path,
    *,
    write: Callable[[Path, Manifest], object],
    load: Callable[[Path], Backend],
    tolerance: Tolerance | None = None,
    notes: Sequence[str] = (),
) -> Export:
    """Write a model's file, compare it with eager, and move it to its path: the part of an export that all formats share.

    Args:
        reference: the eager backend that is exported.
        path: the file; it is not written before it is verified.
        write: writes a file with the manifest in a temporary folder; files that it writes next to it are moved as well. It is
            called twice: the second manifest contains the independence of rows, measured on the first file.
        load: opens a file.
        tolerance: maximum difference from eager; default: `nograd.core.parity.EXACT`, for half precision `HALF`.
        notes: decisions of the exporter, one sentence each.

    Raises:
        ConfigError: the path cannot be written.
        ExportError: the file's answers differ from the model's.
    """
    check_file(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nograd-") as folder:
        first, final = (Path(folder) / step / path.name for step in ("first", "final"))
        first.parent.mkdir()
        write(first, manifest_of(reference))
        with load(first) as candidate:
            report = verified(candidate, reference, tolerance=tolerance)
            manifest = measured_manifest(candidate, reference)
        final.parent.mkdir()  # in another folder: a runtime may have mapped the first file
        write(final, manifest)
        for file in sorted(final.parent.iterdir(), key=lambda file: file == final):  # companions first, then the file itself
            file.replace(path.parent / file.name)
    return Export(path, report, tuple(notes))


def _check_limits(candidate: Backend, signature: Signature) -> None:
    """Raise ExportError if a file accepts a size beyond a limit: some runtimes return arbitrary numbers there.

    The file itself does not run such a size: native code may read beyond its memory. A file without a manifest is probed.
    """
    if isinstance(candidate, ModuleBackend) and candidate.samples:
        return
    for dim in signature.lengths:
        smallest, largest = signature.size_range(dim)
        for size in (smallest - 1, largest and largest + 1):
            if size and candidate.signature.allowed_size(dim, size) == size:
                raise ExportError(f"the export to {candidate.name} accepts {size} {dim}; the model takes "
                                  f"{signature.describe_sizes()}")  # fmt: skip


@contextmanager
def exporter_errors(kind: str) -> Iterator[None]:
    """Convert any error of an exporter into an ExportError of one sentence."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # torch's exporters raise about twenty kinds of errors
        raise ExportError(f"{kind} cannot export the model: {type(error).__name__}: {_first_lines(error)}") from error


def _first_lines(error: BaseException, count: int = 3) -> str:
    """Return the first lines of a message, which may be a page long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])[:500] or "no message"


@contextmanager
def in_eval_mode(reference: ModuleBackend) -> Iterator[None]:
    """Return a context for exporting: eval mode, without warnings. The module's mode is restored."""
    with EvalMode(reference.model)(), quiet():
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Return a context without the warnings of torch's exporters about deprecation, tracing and names."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
