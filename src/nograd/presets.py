"""Predictors for a purpose. Each chooses its backend with a sample or with the first input."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nograd.backends import Backend
from nograd.backends.coupling import accept_coupling
from nograd.backends.timing import fastest, in_turn_s
from nograd.core.inputs import each_item, to_host
from nograd.core.model_kinds import check_module
from nograd.core.parity import HALF, compare
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, ExportError, MissingExtraError
from nograd.predictors.as_predictor import parts_of
from nograd.predictors.bulk import BatchPredictor
from nograd.predictors.predictor import Predictor
from nograd.runtime.cores import processors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nograd.backends.learning import Learner
    from nograd.backends.modules import ModuleBackend
    from nograd.transforms.precision import HalfDtype

__all__ = ["FP16Predictor", "HighThroughputPredictor", "LowLatencyPredictor", "ONNXPredictor"]

CHOICE_S = 0.2
"""Seconds for comparing backends with short runs. On a busy machine, the median of seven runs was off by 50 %."""

Layouts: TypeAlias = tuple[tuple[int, int | None], ...]
"""Lanes, and threads of each lane; None: as torch is set."""

CUDA = re.compile(r"cuda(:\d+)?")


class ONNXPredictor(Predictor):
    """A Predictor that runs an ONNX file of any origin. Does not need torch.

    Args:
        path: the ONNX file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. If CUDA is not available, the model runs on the CPU with a warning.
        lanes: maximum number of concurrent calls to `run`.
        num_threads: threads per run; default: the processors, shared among the lanes.
        preprocess: as for `Predictor`; `postprocess` likewise.
        sample: inputs that the model can run. They determine how rows may be batched if the file does not record it.
        accept_coupled_rows: batch rows that influence each other, as in dynamic 8-bit files; default: run them alone.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelLoadError: the file cannot be read.
        ConfigError: `path` is not a path, or the device is not allowed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | torch.device = "auto",
        *,
        lanes: int = 1,
        num_threads: int | None = None,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        sample: Any = None,
        accept_coupled_rows: bool = False,
    ) -> None:
        from nograd.backends.onnx import OnnxBackend

        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"path is {type(path).__name__}; it must be the path of an ONNX file: see nograd.export_to_onnx")
        rows = sample if preprocess is None else None
        opened = partial(OnnxBackend, path, lanes=lanes, num_threads=num_threads, sample=rows)
        try:
            backend = opened(device=str(device))
        except ConfigError as error:
            if not CUDA.fullmatch(str(device)):
                raise
            warnings.warn(
                f"CUDAExecutionProvider is not available, and the model runs on CPUExecutionProvider: {error}", stacklevel=2
            )
            backend = opened(device="cpu")
        if accept_coupled_rows:
            backend.signature = accept_coupling(backend.signature)
        super().__init__(backend, preprocess=preprocess, postprocess=postprocess, sample=sample)


class FP16Predictor(Predictor):
    """A Predictor in half precision with float32 inputs and outputs; integer inputs stay integers.

    Half precision and float32 are compared and timed with the sample, or with the first input. A warning reports answers that
    differ by more than rounding, such as an overflow, and another one if half precision is slower. The predictor runs in half
    precision in either case.

    Args:
        model: a module.
        device_or_sample: `device`, or `sample` for compatibility with earlier versions.
        device: as for `Predictor`.
        sample: inputs that the module can run; default: the first input.
        dtype: `float16` or `bfloat16`.
        accept_coupled_rows: batch rows that influence each other by more than 2e-3; default: run them alone.

    Raises:
        ConfigError: `model` is not a module, a parameter exceeds the range of the dtype, or the device does not exist.
    """

    half_s: float = 0.0
    """Measured seconds per row in half precision; 0 before the first input."""

    float32_s: float = 0.0
    """Measured seconds per row in float32; 0 before the first input."""

    def __init__(
        self,
        model: nn.Module,
        device_or_sample: Any = None,
        /,
        *,
        device: str | torch.device = "auto",
        sample: Any = None,
        dtype: HalfDtype = "float16",
        accept_coupled_rows: bool = False,
    ) -> None:
        check_module(model, wanted="a torch.nn.Module")
        from nograd.backends.learning import Learner
        from nograd.transforms.precision import to_half

        device, sample = _device_and_sample(device_or_sample, device, sample)
        build = partial(self._measured, model, dtype)
        learner = Learner(to_half(model, dtype), device, partial(_accepted, build) if accept_coupled_rows else build)
        super().__init__(learner, sample=sample)

    def _measured(self, model: nn.Module, dtype: HalfDtype, half: nn.Module, samples: Sequence[Any]) -> Backend:
        """Return the half-precision backend after comparing and timing it against float32 with the first row."""
        from nograd.backends.eager import eager_backend, unprobed_backend
        from nograd.transforms.precision import half_support, slower_sentence

        backend = eager_backend(half, samples, device=self.device)
        full = unprobed_backend(model, samples[0], device=self.device)
        row = _of_rows(backend, 1)
        found = compare([full.run(row)], [backend.run(row)], tolerance=HALF, outputs=backend.signature.outputs)
        if not found.passed:
            advice = "bfloat16 has the range of float32" if dtype == "float16" else "use float32"
            warnings.warn(f"{dtype} changes the answers: {'; '.join(found.failures)}; {advice}", stacklevel=2)
        seconds = in_turn_s({"half": partial(backend.run, row), "float32": partial(full.run, row)})
        self.half_s, self.float32_s = seconds["half"], seconds["float32"]
        if slower := slower_sentence(dtype, self.half_s, self.float32_s, half_support(dtype, backend.device)):
            warnings.warn(slower, stacklevel=2)
        return backend


class LowLatencyPredictor(Predictor):
    """A Predictor with the backend that ran one row fastest on this machine: eager, or ONNX Runtime if its answers agree with
    eager. For a bundle, it uses the backend that `nograd tune` chose, with its measured cost curve.

    The backend is chosen and warmed up immediately if there is a sample, otherwise with the first input.

    Args:
        model: a module, or the path of a bundle, which contains all other options.
        device_or_sample: `device`, or `sample` for compatibility with earlier versions.
        device: as for `Predictor`.
        sample: inputs that the module can run; with `preprocess`, a list of items.
        preprocess: as for `Predictor`; `postprocess` likewise.
        trusted: True confirms that you trust the source of a bundle with code.
        accept_coupled_rows: batch rows that influence each other by more than the tolerance; default: run them alone.

    Raises:
        ConfigError: `model` is neither a module nor a bundle, a bundle is combined with a sample, a bundle is not trusted, or
            the device does not exist.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        device_or_sample: Any = None,
        /,
        *,
        device: str | torch.device = "auto",
        sample: Any = None,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        trusted: bool = False,
        accept_coupled_rows: bool = False,
    ) -> None:
        device, sample = _device_and_sample(device_or_sample, device, sample)
        if isinstance(model, str | os.PathLike):
            opened = _open_bundle(
                model, "latency", (sample, preprocess, postprocess), device=str(device), trusted=trusted,
                accept_coupled_rows=accept_coupled_rows,
            )  # fmt: skip
            super().__init__(**parts_of(opened))
            self.cost = opened.cost
            return
        source = _chooser(model, device, rows=1, layouts=((1, None),), accept_coupled_rows=accept_coupled_rows)
        super().__init__(source, preprocess=preprocess, postprocess=postprocess, sample=sample)


class HighThroughputPredictor(Predictor):
    """A Predictor with the backend that ran the most rows per second: eager or ONNX Runtime, with one lane of all threads or
    one single-threaded lane per processor. For a bundle, it uses the backend that `nograd tune` chose, with its measured cost
    curve.

    The backend is chosen and warmed up immediately if there is a sample, otherwise with the first input.

    Args:
        model: a module, or the path of a bundle, which contains all other options.
        device_or_sample: `device`, or `sample` for compatibility with earlier versions.
        device: as for `Predictor`.
        batch_size: rows per run, also while backends are compared.
        sample: inputs that the module can run; with `preprocess`, a list of items.
        preprocess: as for `Predictor`; `postprocess` likewise.
        trusted: True confirms that you trust the source of a bundle with code.
        accept_coupled_rows: batch rows that influence each other by more than the tolerance; default: run them alone.

    Raises:
        ConfigError: `model` is neither a module nor a bundle, a bundle is combined with a sample, a bundle is not trusted, or
            the device does not exist.
    """

    def __init__(  # noqa: PLR0913  as many options as LowLatencyPredictor, and batch_size
        self,
        model: nn.Module | str | os.PathLike[str],
        device_or_sample: Any = None,
        /,
        *,
        device: str | torch.device = "auto",
        batch_size: int = 32,
        sample: Any = None,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        trusted: bool = False,
        accept_coupled_rows: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size = batch_size
        device, sample = _device_and_sample(device_or_sample, device, sample)
        if isinstance(model, str | os.PathLike):
            opened = _open_bundle(
                model, "throughput", (sample, preprocess, postprocess), device=str(device), trusted=trusted,
                accept_coupled_rows=accept_coupled_rows,
            )  # fmt: skip
            super().__init__(**parts_of(opened))
            self.cost = opened.cost
            return
        source = _chooser(model, device, rows=batch_size, layouts=None, accept_coupled_rows=accept_coupled_rows)
        super().__init__(source, preprocess=preprocess, postprocess=postprocess, sample=sample)

    def predict_batch(self, items: Iterable[Any]) -> list[Any]:
        """Return one answer per item, in order. Tensors produce CPU tensors.

        Args:
            items: inputs of `preprocess`; without `preprocess`, rows without dimension 0: tensors, arrays, or tuples or dicts
                of them.

        Raises:
            SignatureError: `items` is a string or a dict of columns.
            ItemError: an item could not be prepared, or the model raised on it.
        """
        rows = list(each_item(items))
        return BatchPredictor(self, batch_size=self.batch_size).predict_each(rows) if rows else []


def _device_and_sample(second: Any, device: Any, sample: Any) -> tuple[Any, Any]:
    """Distinguish a device from a sample in the second position."""
    if second is None:
        return device, sample
    if isinstance(second, str) or type(second).__name__ == "device":
        if str(device) not in ("auto", str(second)):
            raise ConfigError(f"device is {str(second)!r} and {str(device)!r}; give one of them")
        return second, sample
    if sample is not None:
        raise ConfigError("the sample is given twice, by position and by name; give one of them")
    return device, second


def _chooser(model: Any, device: Any, *, rows: int, layouts: Layouts | None, accept_coupled_rows: bool) -> Learner:
    """Return a source that chooses the backend when inputs are known."""
    check_module(model, wanted="a torch.nn.Module, or the path of a bundle")
    from nograd.backends.learning import Learner

    build = partial(_best, rows=rows, layouts=layouts)
    return Learner(model, device, partial(_accepted, build) if accept_coupled_rows else build)


def _accepted(build: Callable[[nn.Module, Sequence[Any]], Backend], model: nn.Module, samples: Sequence[Any]) -> Backend:
    """Return the backend that is built, whose user accepts that rows influence each other."""
    backend = build(model, samples)
    backend.signature = accept_coupling(backend.signature)
    return backend


def _open_bundle(
    path: str | os.PathLike[str], goal: str, given: tuple[Any, ...], *, device: str, trusted: bool, accept_coupled_rows: bool
) -> Predictor:
    """Open the predictor of a bundle."""
    from nograd.bundle import Bundle

    if any(value is not None for value in given):
        raise ConfigError(f"{os.fspath(path)} is a bundle, which contains sample, preprocess and postprocess; do not give them")
    with Bundle.read(path) as bundle:
        tuned_for = bundle.settings.goal
        if tuned_for and tuned_for != goal:
            warnings.warn(f"{os.fspath(path)} was tuned for {tuned_for}; this predictor is for {goal}", stacklevel=3)
        return bundle.open(device=device, trusted=trusted, accept_coupled_rows=accept_coupled_rows)


def _best(
    model: nn.Module,
    samples: Sequence[Any],
    *,
    rows: int,
    layouts: Layouts | None,
) -> Backend:
    """Return the backend and layout with the least time per row, and close the others. Eager wins unless another is clearly
    faster.
    """
    from nograd.backends.eager import eager_backend
    from nograd.core.module import module_device

    reference = eager_backend(model, samples, device=module_device(model))
    layouts = layouts or throughput_layouts(reference.device, processors())
    candidates: list[Backend] = [reference if layout == (1, None) else _laned(reference, *layout) for layout in layouts]
    candidates += _onnx(reference, layouts)
    runs = {str(index): _timed_call(backend, reference, rows) for index, backend in enumerate(candidates)}
    seconds = in_turn_s(runs, budget_s=CHOICE_S)
    best = int(fastest({name: taken / candidates[int(name)].lanes for name, taken in seconds.items()}, preferred="0"))
    for index, backend in enumerate(candidates):
        if index != best:
            backend.close()
    return candidates[best]


def _timed_call(backend: Backend, reference: ModuleBackend, rows: int) -> Callable[[], object]:
    """Return the call to time: `predict` on tensors for one row, as users call it; one run per lane for several rows."""
    if rows > 1:
        return partial(_run_all_lanes, backend, _of_rows(reference, rows))
    tensors = {name: tensor[:1].cpu() for name, tensor in reference.samples[0].items()}
    alone = next(iter(tensors.values())) if len(tensors) == 1 and reference.call.style != "mapping" else tensors
    return partial(Predictor(backend).predict, alone)


def _laned(reference: ModuleBackend, lanes: int, num_threads: int | None) -> Backend:
    from nograd.backends.modules import ModuleBackend

    return ModuleBackend(
        reference.model, reference.signature, reference.call, reference.restore, samples=reference.samples, lanes=lanes,
        num_threads=num_threads,
    )  # fmt: skip


def throughput_layouts(device: str, count: int) -> Layouts:
    """Return lanes and threads of each layout to measure: one, or one per processor; on a GPU, up to three."""
    return ((1, None), (2, None), (3, None)) if device.startswith("cuda") else ((1, None), (count, 1))


def _onnx(reference: ModuleBackend, layouts: Layouts) -> list[Backend]:
    """Return ONNX Runtime backends; none if it is not installed, lacks the device, or the export disagrees."""
    try:
        from nograd.backends.onnx import OnnxBackend
        from nograd.backends.onnx.export import export_to_onnx

        with tempfile.TemporaryDirectory(prefix="nograd-") as folder:
            made = export_to_onnx(reference, None, Path(folder) / "model.onnx")
            return [OnnxBackend(made, device=reference.device, lanes=lanes, num_threads=threads) for lanes, threads in layouts]
    except (ConfigError, ExportError, MissingExtraError) as error:
        warnings.warn(f"ONNX Runtime was skipped: {error}", stacklevel=2)
        return []


def _of_rows(reference: ModuleBackend, rows: int) -> Batch:
    arrays = to_host(dict(reference.samples[0]))
    return {name: np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:]))) for name, array in arrays.items()}


def _run_all_lanes(backend: Backend, batch: Batch) -> None:
    if backend.lanes == 1:
        backend.run(batch)
        return
    with ThreadPoolExecutor(backend.lanes) as lanes:
        for running in [lanes.submit(backend.run, batch) for _ in range(backend.lanes)]:
            running.result()
