"""8-bit quantization: try several recipes and keep the fastest one that agrees with the model."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nograd.backends import Backend
from nograd.backends.exporting import check_module, manifest_of, measured_manifest, reference_of
from nograd.backends.loaded import check_file
from nograd.backends.modules import ModuleBackend
from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx.export import export_to_onnx
from nograd.backends.onnx.graph import finish, load_graph, save_graph, write_manifest
from nograd.backends.timing import in_turn_s
from nograd.core.independence import Independence
from nograd.core.inputs import by_name, to_host
from nograd.core.module import num_required, original_of
from nograd.core.parity import INT8, ParityReport, Tolerance, compare
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, ExportError, NogradError
from nograd.transforms.int8 import Recipe, dynamic_recipes, prepared, saturates, static_recipes, weighted_nodes, write
from nograd.transforms.int8_modules import faster_of, measure_on, module_over, row_scaled
from nograd.transforms.quantized import QuantizedModel

__all__ = ["QuantizedFile", "RecipeResult", "quantize_dynamic", "quantize_static"]

OPERATORS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("MatMul", "Gemm"), nn.LSTM: ("LSTM",), nn.Embedding: ("Gather",), nn.Conv1d: ("Conv",), nn.Conv2d: ("Conv",),
}  # fmt: skip
"""Class of layer -> graph operators of that layer."""


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """The result of trying a recipe."""

    recipe: str
    seconds: float | None
    """Seconds of one run of the first evaluation batch; None: not measured."""

    parity: ParityReport | None
    reason: str = ""
    """Why the recipe was rejected; empty if it was a candidate."""

    num_bytes: int = 0
    kept_float: tuple[str, ...] = ()
    """Graph nodes that stayed in float."""


@dataclass(frozen=True, slots=True)
class QuantizedFile:
    """An 8-bit file, and how it was chosen."""

    path: Path
    chosen: RecipeResult
    tried: tuple[RecipeResult, ...]
    float_s: float
    """Seconds of the same run of the same graph in float32."""

    float_bytes: int
    saturates: bool
    """Whether 8-bit products saturate on this processor (see `nograd.transforms.int8.saturates`)."""

    sensitivity: tuple[tuple[str, float], ...] = field(default=())
    """Nodes with the smallest cosine when only that node is quantized, worst first; empty if not needed."""

    independence: Independence | None = None
    """How far rows influence each other in the file; None: not measurable."""

    @property
    def parity(self) -> ParityReport:
        """Comparison of the chosen file with eager."""
        if self.chosen.parity is None:
            raise ExportError("the chosen recipe was not compared")
        return self.chosen.parity

    @property
    def speedup(self) -> float:
        """Speed relative to float32 in the same runtime."""
        return self.float_s / (self.chosen.seconds or float("inf"))

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        lines = [
            f"{self.chosen.recipe}: {self.float_bytes / 1e6:.1f} -> {self.chosen.num_bytes / 1e6:.1f} MB, "
            f"{self.speedup:.2f} times float32's speed",
            str(self.parity),
        ]
        if self.chosen.kept_float:
            lines.append(f"left in float: {', '.join(self.chosen.kept_float)}")
        if self.independence is not None:
            lines.append(str(self.independence))
        lines += [f"not taken: {each.recipe}: {each.reason}" for each in self.tried if each.reason]
        return "\n".join(lines)


def quantize_dynamic(  # noqa: PLR0913
    model: nn.Module | Backend,
    layers: Collection[type[nn.Module]] = (nn.Linear, nn.LSTM),
    dtype: torch.dtype = torch.qint8,
    *,
    path: str | os.PathLike[str] | None = None,
    sample: Any = None,
    evaluation: Iterable[Any] = (),
    tolerance: Tolerance = INT8,
    accept_coupled_rows: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> QuantizedModel:
    """Quantize weights to 8 bits and scale activations at run time: for models of matrix products, without calibration data.

    The result is a module that is called like the model and saved by its state dict, with a `report`. A `Linear` scales
    activations row by row, so that rows do not influence each other. Other layers have 8-bit weights and compute in float32.
    With a sample, or at the first call, the result is compared with the model and timed. The faster kernel is chosen, and
    layers with too large an error become float again. The model must not change before that call.

    With `path`, an ONNX file is written, and the result runs it. Each recipe is built, compared with eager and timed, and the
    fastest within the tolerance is chosen. If no recipe is within the tolerance, layers are left in float one by one, those
    with the largest errors first. ONNX Runtime scales activations over the whole batch, so that rows influence each other. The
    report states by how much. If rows change by more than 1e-5 of an output's largest value, the file declares that each
    request runs alone. Convolutions scaled at run time are slower than in float: use `quantize_static` for them.

    Args:
        model: a module, or an eager backend.
        layers: classes of the layers to quantize, from Linear, LSTM, Embedding, Conv1d and Conv2d.
        dtype: `torch.qint8`; others raise.
        path: target `.onnx` file; None: no file.
        sample: inputs that the module can run; required with `path`, except for a backend.
        evaluation: with `path`, batches of inputs to compare and time; default: the sample.
        tolerance: limits for differences from the model's answers.
        accept_coupled_rows: with `path`, whether the file declares that rows may be batched although they influence each other.
        clock: returns the time in seconds.

    Raises:
        ExportError: no recipe agrees with the model, or the model cannot be exported to ONNX; no file is written.
        ConfigError: a layer class cannot be quantized, the dtype or the path is not allowed, or `model` is not a module.
    """
    _check_layers(layers)
    if dtype not in (torch.qint8, torch.int8):
        raise ConfigError(f"dtype is {dtype}; it must be torch.qint8: for half precision use nograd.to_half")
    if path is None:
        return _as_module(model, layers, sample, tolerance, clock)
    reference = reference_of(model, sample)
    operators = tuple(dict.fromkeys(operator for layer in layers for operator in OPERATORS[layer]))
    lossy = saturates()
    recipes = dynamic_recipes(operators, seven_bits=lossy)
    batches = [_checked(reference, each) for each in evaluation] or _of_samples(reference)
    made = _quantized(
        reference, Path(path), recipes, batches, (), tolerance, clock, lossy=lossy, accept_coupled_rows=accept_coupled_rows
    )
    return module_over(made, reference, batches[0])


def _check_layers(layers: Collection[type[nn.Module]]) -> None:
    unknown = [layer.__name__ for layer in layers if layer not in OPERATORS]
    if unknown or not layers:
        known = ", ".join(layer.__name__ for layer in OPERATORS)
        raise ConfigError(f"layers are {unknown or 'none'}; those that can be quantized are {known}")


def _as_module(
    model: nn.Module | Backend, layers: Collection[type[nn.Module]], sample: Any, tolerance: Tolerance,
    clock: Callable[[], float],
) -> QuantizedModel:  # fmt: skip
    """Quantize now; measure with the sample, or at the first call."""
    if isinstance(model, Backend):
        reference = reference_of(model, None)
        made = row_scaled(reference.model, layers, tolerance, clock, is_strict=True)
        measure_on(made, reference, reference.samples[0], "the sample")
        return made
    check_module(model)
    made = row_scaled(original_of(model), layers, tolerance, clock, is_strict=sample is not None)
    if sample is not None:
        reference = reference_of(model, sample)
        measure_on(made, reference, reference.samples[0], "the sample")
    return made


def quantize_static(  # noqa: PLR0913
    model: nn.Module | Backend,
    calibration_loader: Iterable[Any],
    *,
    path: str | os.PathLike[str] | None = None,
    sample: Any = None,
    evaluation: Iterable[Any] = (),
    tolerance: Tolerance = INT8,
    max_batches: int = 64,
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> QuantizedModel:
    """Quantize weights and activations to 8 bits, with activation ranges from calibration: for convolutions.

    This differs from `quantize_dynamic` in the activation ranges, which are constants, so that rows do not influence each
    other. Values outside of the calibrated range are clipped, so use at least 16 inputs like those in production. ONNX Runtime
    runs the graph inside a module. Without a path, the graph is timed against the kernel of `quantize_dynamic`, which scales
    each row at run time, and the faster one is chosen. If ONNX Runtime cannot run the model, that kernel is used.

    Args:
        model: a module, or an eager backend.
        calibration_loader: yields batches of the model's inputs. Additional values of a tuple or list, such as labels, are
            ignored and mentioned in the report.
        path: target `.onnx` file; None: no file.
        sample: inputs to probe with; default: the first of the loader.
        evaluation: inputs to compare and time; default: every fourth batch of the loader, which is then not used for
            calibration; all batches if there are fewer than four.
        tolerance: limits for differences from the model's answers.
        max_batches: maximum number of batches from the loader.
        progress: whether to show a progress bar while the loader is read.
        clock: returns the time in seconds.

    Raises:
        ExportError: no recipe agrees with the model; with a path also: the model cannot be exported to ONNX.
        ConfigError: the loader yields no batch, `model` is not a module, or the path is not allowed.
    """
    target = None if path is None else Path(path)
    if target is not None:
        check_file(target, ".onnx")
    if not isinstance(model, Backend):
        check_module(model)
    taken, notes = _inputs_of(model, list(_take_batches(calibration_loader, max_batches, progress=progress)))
    reference = reference_of(model, None if isinstance(model, Backend) else taken[0] if sample is None else sample)
    batches = [_checked(reference, each) for each in taken]
    held_back = [_checked(reference, each) for each in evaluation]
    if not held_back and len(batches) >= 4:
        held_back, batches = batches[::4], [batch for index, batch in enumerate(batches) if index % 4]
    data = _Data(held_back or batches, batches, tolerance, clock)
    made = _static(reference, data, target) if target is not None else _best_static(reference, data)
    return made.with_notes(*notes)


@dataclass(frozen=True, slots=True)
class _Data:
    """The data and settings of `quantize_static`."""

    evaluation: Sequence[Batch]
    calibration: Sequence[Batch]
    tolerance: Tolerance
    clock: Callable[[], float]


def _static(reference: ModuleBackend, data: _Data, target: Path) -> QuantizedModel:
    lossy = saturates()
    recipes = static_recipes(("Conv", "MatMul", "Gemm", "Add", "AveragePool", "GlobalAveragePool"), seven_bits=lossy)
    made = _quantized(reference, target, recipes, data.evaluation, data.calibration, data.tolerance, data.clock, lossy=lossy)
    return module_over(made, reference, data.evaluation[0])


def _best_static(reference: ModuleBackend, data: _Data) -> QuantizedModel:
    """Time the graph against the kernel that scales each row; return the faster one, with the reason in its report."""
    by_row: QuantizedModel | None = None
    try:
        by_row = row_scaled(reference.model, (nn.Linear,), data.tolerance, data.clock, is_strict=True)
        measure_on(by_row, reference, data.evaluation[0], "the calibration data")
    except NogradError:
        by_row = None
    try:
        with tempfile.TemporaryDirectory(prefix="nograd-") as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "8-bit integers take")  # the report contains it
            graph = _static(reference, data, Path(folder) / "model.onnx").without_file()
    except NogradError as error:
        if by_row is None or by_row.report.num_bytes >= by_row.report.float_bytes:
            raise
        return by_row.with_notes(f"ONNX Runtime was not used: {error}")
    return graph if by_row is None else faster_of(graph, by_row, reference, data.evaluation[0], data.clock)


def _inputs_of(model: nn.Module | Backend, taken: Sequence[Any]) -> tuple[list[Any], tuple[str, ...]]:
    """Return the model's inputs of each batch, and a note if other values, such as labels, were ignored.

    Raises:
        ConfigError: there is no batch.
    """
    if not taken:
        raise ConfigError("the calibration loader yields nothing; it must yield at least one batch")
    if isinstance(model, ModuleBackend):
        count = len(model.signature.inputs)
    else:
        count = num_required(model) if isinstance(model, nn.Module) else 1
    found = [_without_labels(batch, count) for batch in taken]
    first = taken[0]
    if not isinstance(first, list | tuple) or not any(cut for _, cut in found):
        return [inputs for inputs, _ in found], ()
    note = f"the loader yields {len(first)} values per batch; the first {count} are the model's inputs, the rest is ignored"
    if isinstance(first[0], list | tuple | dict):
        note = f"the loader yields {len(first)} values per batch; all but the first are ignored"
    return [inputs for inputs, _ in found], (note,)


def _without_labels(batch: Any, count: int) -> tuple[Any, bool]:
    """Return the inputs of a batch, and whether other values were ignored."""
    if not isinstance(batch, list | tuple) or not batch:
        return batch, False
    if isinstance(batch[0], dict):
        return batch[0], len(batch) > 1
    if isinstance(batch[0], list | tuple):
        return tuple(batch[0]), len(batch) > 1
    return tuple(batch[:count]), len(batch) > count


def _take_batches(loader: Iterable[Any], most: int, *, progress: bool) -> Iterator[Any]:
    if progress:
        from rich.progress import track

        loader = track(loader, "reading calibration data")
    for index, each in enumerate(loader):
        if index == most:
            return
        yield each


def _checked(reference: ModuleBackend, inputs: Any) -> Batch:
    signature = reference.signature
    if isinstance(inputs, list | tuple):
        inputs = tuple(inputs[: len(signature.inputs)])
    return signature.check(by_name(to_host(inputs), signature))


def _of_samples(reference: ModuleBackend) -> list[Batch]:
    whole = [to_host(dict(sample)) for sample in reference.samples]
    return [*whole, *({name: array[:1] for name, array in batch.items()} for batch in whole)]


@dataclass(slots=True)
class _RecipeTrials:
    """The data shared by all recipes of one model."""

    reference: ModuleBackend
    folder: Path
    source: Path
    evaluation: Sequence[Batch]
    calibration: Sequence[Batch]
    tolerance: Tolerance
    expected: list[Batch]

    def build(self, recipe: Recipe, name: str, **nodes: Sequence[str]) -> Path:
        target = self.folder / f"{name}.onnx"
        write(recipe, self.source, target, calibration=self.calibration, **nodes)
        graph = load_graph(target)
        finish(graph, {}, {}, manifest_of(self.reference))
        save_graph(graph, target, weight_bytes=target.stat().st_size)
        return target

    def compared(self, path: Path) -> ParityReport:
        with OnnxBackend(path, device="cpu") as backend:
            given = [backend.run(batch) for batch in self.evaluation]
            return compare(self.expected, given, tolerance=self.tolerance, outputs=self.reference.signature.outputs)


def _quantized(  # noqa: PLR0913
    reference: ModuleBackend, target: Path, recipes: Sequence[Recipe], evaluation: Sequence[Batch],
    calibration: Sequence[Batch], tolerance: Tolerance, clock: Callable[[], float], *, lossy: bool,
    accept_coupled_rows: bool = False,
) -> QuantizedFile:  # fmt: skip
    check_file(target, ".onnx")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nograd-") as temporary:
        folder = Path(temporary)
        floating = _float_graph(reference, folder / "float.onnx")
        prepared(floating, folder / "prepared.onnx")
        expected = [reference.run(batch) for batch in evaluation]
        trials = _RecipeTrials(reference, folder, folder / "prepared.onnx", evaluation, calibration, tolerance, expected)
        built = [_try_recipe(trials, recipe, index) for index, recipe in enumerate(recipes)]
        sensitivity: tuple[tuple[str, float], ...] = ()
        if not any(tried.parity is not None and not tried.reason for tried, _ in built):
            rescued, sensitivity = _with_float_layers(trials, recipes, built)
            built.append(rescued)
        passing = {str(index): path for index, (tried, path) in enumerate(built) if not tried.reason}
        seconds = _timed(floating, passing, evaluation[0], clock)
        best = min(passing, key=lambda index: seconds[index])
        tried = tuple(_with_seconds(each, seconds.get(str(index)), str(index) == best) for index, (each, _) in enumerate(built))
        independence = _note_independence(reference, passing[best], accept_coupled_rows=accept_coupled_rows)
        passing[best].replace(target)
        made = QuantizedFile(
            target, tried[int(best)], tried, seconds["float"], floating.stat().st_size, lossy, sensitivity, independence
        )  # fmt: skip
    if made.speedup < 1:
        warnings.warn(
            f"8-bit integers take {(made.chosen.seconds or 0) * 1000:.3g} ms a run here, float32 {made.float_s * 1000:.3g} ms; "
            "the file is smaller, not faster", stacklevel=3,
        )  # fmt: skip
    return made


def _note_independence(reference: ModuleBackend, path: Path, *, accept_coupled_rows: bool) -> Independence | None:
    """Measure how far rows influence each other in the 8-bit file, and record it in the file, because it differs from eager."""
    with OnnxBackend(path, device="cpu") as backend:
        manifest = measured_manifest(backend, reference, precision="int8", accept_coupled_rows=accept_coupled_rows)
    write_manifest(path, manifest)
    return manifest.signature.independence


def _float_graph(reference: ModuleBackend, path: Path) -> Path:
    """Export the float graph. The legacy exporter is preferred: its matrix products suit the quantizer (MiniLM: 125 instead
    of 108 sentences per second).
    """
    try:
        return export_to_onnx(reference, None, path, exporter="legacy").path
    except ExportError:
        return export_to_onnx(reference, None, path, exporter="dynamo").path


def _try_recipe(trials: _RecipeTrials, recipe: Recipe, index: int) -> tuple[RecipeResult, Path]:
    """Build a recipe and compare it; any error becomes its reason."""
    path = trials.folder / f"recipe_{index}.onnx"
    try:
        path = trials.build(recipe, f"recipe_{index}")
        report = trials.compared(path)
    except NogradError as error:
        return RecipeResult(recipe.name, None, None, str(error)), path
    except Exception as error:  # noqa: BLE001  the quantizer raises arbitrary errors
        return RecipeResult(recipe.name, None, None, f"{type(error).__name__}: {error}"), path
    reason = "" if report.passed else "; ".join(report.failures)
    return RecipeResult(recipe.name, None, report, reason, path.stat().st_size), path


def _with_float_layers(
    trials: _RecipeTrials, recipes: Sequence[Recipe], built: Sequence[tuple[RecipeResult, Path]]
) -> tuple[tuple[RecipeResult, Path], tuple[tuple[str, float], ...]]:
    """Leave the layers with the largest errors in float, twice as many each time, until the answers agree."""
    scored = [(tried.parity.min_cosine, recipe) for (tried, _), recipe in zip(built, recipes, strict=True) if tried.parity]
    reasons = "; ".join(f"{tried.recipe}: {tried.reason}" for tried, _ in built)
    if not scored:
        raise ExportError(f"no recipe for 8-bit integers works; {reasons}")
    recipe = max(scored, key=lambda each: each[0])[1]
    nodes = weighted_nodes(trials.source, recipe.operators)
    alone = [(name, trials.compared(trials.build(recipe, "alone", only=[name])).min_cosine) for name in nodes]
    worst_first = sorted(alone, key=lambda each: each[1])
    count = 1
    while count < len(nodes):
        skipped = tuple(name for name, _ in worst_first[:count])
        path = trials.build(recipe, f"rescued_{count}", skip=skipped)
        report = trials.compared(path)
        if report.passed:
            name = f"{recipe.name}, {count} of {len(nodes)} layers in float"
            return (RecipeResult(name, None, report, "", path.stat().st_size, skipped), path), tuple(worst_first)
        count *= 2
    raise ExportError(f"no recipe for 8-bit integers answers as the model does; {reasons}", built[0][0].parity)


def _timed(floating: Path, paths: dict[str, Path], batch: Batch, clock: Callable[[], float]) -> dict[str, float]:
    backends = {name: OnnxBackend(path, device="cpu") for name, path in {"float": floating, **paths}.items()}
    try:
        return in_turn_s({name: partial(backend.run, batch) for name, backend in backends.items()}, clock=clock)
    finally:
        for backend in backends.values():
            backend.close()


def _with_seconds(tried: RecipeResult, seconds: float | None, is_best: bool) -> RecipeResult:  # noqa: FBT001
    reason = tried.reason or ("" if is_best else "another was faster")
    return RecipeResult(tried.recipe, seconds, tried.parity, reason, tried.num_bytes, tried.kept_float)
