"""Predictors for a purpose. Constructors only: what they build, the backends and transforms make."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.backends import Backend
from nograd.backends.timing import in_turn_s
from nograd.errors import ConfigError, ExportError, MissingExtraError
from nograd.inputs import each_item, one_row, to_host
from nograd.predictor import Predictor
from nograd.tensors import Batch
from nograd.threads import in_own_thread

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends.modules import ModuleBackend
    from nograd.transforms.precision import HalfDtype

__all__ = ["FP16Predictor", "HighThroughputPredictor", "LowLatencyPredictor", "ONNXPredictor"]


class ONNXPredictor(Predictor):
    """A Predictor over an ONNX file, also one that never was a torch model. Needs no torch.

    Args:
        path: the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        lanes: runs side by side.
        num_threads: threads of one run; default: the processors, shared among the lanes.
        preprocess: as for `Predictor`; `postprocess` likewise.
        sample: inputs that the model can run; they tell how its rows may be batched, where the file does not.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelLoadError: the file cannot be read.
        ConfigError: the device is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        lanes: int = 1,
        num_threads: int | None = None,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        sample: Any = None,
    ) -> None:
        from nograd.backends.onnx import OnnxBackend

        rows = sample if preprocess is None else None
        backend = OnnxBackend(path, device=device, lanes=lanes, num_threads=num_threads, sample=rows)
        super().__init__(backend, preprocess=preprocess, postprocess=postprocess, sample=sample)


class FP16Predictor(Predictor):
    """A Predictor in half precision, that takes and gives float32; never float32 in silence.

    Half precision and float32 are both measured on the sample; where half precision is slower a warning says so, with both
    figures.

    Args:
        model: a module.
        sample: inputs that it can run.
        dtype: `float16` or `bfloat16`.
        device: `auto`, or a torch device.

    Raises:
        ConfigError: a parameter is beyond the range of the dtype.
    """

    def __init__(self, model: nn.Module, sample: Any, *, dtype: HalfDtype = "float16", device: str = "auto") -> None:
        from nograd.transforms.precision import half_support, slower_sentence, to_half

        super().__init__(to_half(model, dtype), device=device, sample=sample)
        full = Predictor(model, device=device, sample=sample)
        runs = {"half": partial(self.run, self.example_part), "float32": partial(full.run, full.example_part)}
        seconds = in_own_thread(partial(in_turn_s, runs)).result()
        self.half_s, self.float32_s = seconds["half"], seconds["float32"]
        if told := slower_sentence(dtype, self.half_s, self.float32_s, half_support(dtype, self.backend.device)):
            warnings.warn(told, stacklevel=2)


class LowLatencyPredictor(Predictor):
    """A Predictor whose backend answered one row fastest, here and now: eager, or ONNX Runtime where it agrees with eager. Of a
    bundle, what `nograd tune` found, with its measured cost curve.

    Args:
        model: a module; or the path of a bundle, which brings all else.
        sample: inputs that the module can run; with `preprocess`, a list of items.
        preprocess: as for `Predictor`; `postprocess` likewise.
        trusted: for a bundle that holds or names code: that you know where it comes from.

    Raises:
        ConfigError: a module without a sample, a bundle with one, or one that is not trusted.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        sample: Any = None,
        *,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        trusted: bool = False,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            opened = _opened(model, "latency", (sample, preprocess, postprocess), trusted=trusted)
            super().__init__(**_parts_of(opened))
            self.cost = opened.cost
            return
        _check_sample(sample)
        made = in_own_thread(partial(_best, model, sample, preprocess, rows=1, layouts=((1, None),))).result()
        super().__init__(made, preprocess=preprocess, postprocess=postprocess, sample=sample)


class HighThroughputPredictor(Predictor):
    """A Predictor whose backend answered the most rows a second: eager or ONNX Runtime, in one lane with all threads or in
    a lane of one thread for each processor. Of a bundle, what `nograd tune` found, with its measured cost curve.

    Args:
        model: a module; or the path of a bundle, which brings all else.
        sample: inputs that the module can run; with `preprocess`, a list of items.
        batch_size: rows of one run, at which it is measured.
        preprocess: as for `Predictor`; `postprocess` likewise.
        trusted: for a bundle that holds or names code: that you know where it comes from.

    Raises:
        ConfigError: a module without a sample, a bundle with one, or one that is not trusted.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        sample: Any = None,
        *,
        batch_size: int = 32,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        trusted: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        if isinstance(model, str | os.PathLike):
            opened = _opened(model, "throughput", (sample, preprocess, postprocess), trusted=trusted)
            super().__init__(**_parts_of(opened))
            self.cost = opened.cost
            return
        _check_sample(sample)
        layouts = ((1, None), (len(os.sched_getaffinity(0)), 1))
        made = in_own_thread(partial(_best, model, sample, preprocess, rows=batch_size, layouts=layouts)).result()
        super().__init__(made, preprocess=preprocess, postprocess=postprocess, sample=sample)


def _check_sample(sample: Any) -> None:
    if sample is None:
        raise ConfigError("no sample was given; a module is measured on inputs that it can run")


def _opened(path: str | os.PathLike[str], goal: str, given: tuple[Any, ...], *, trusted: bool) -> Predictor:
    """Return what a bundle holds."""
    from nograd.bundle import Bundle

    if any(value is not None for value in given):
        raise ConfigError(f"{os.fspath(path)} is a bundle; it brings its own sample, preprocess and postprocess: give none")
    with Bundle.read(path) as bundle:
        tuned_for = bundle.settings.goal
        if tuned_for and tuned_for != goal:
            warnings.warn(f"{os.fspath(path)} was tuned for {tuned_for}; this predictor is for {goal}", stacklevel=3)
        return bundle.open(trusted=trusted)


def _parts_of(predictor: Predictor) -> dict[str, Any]:
    """Return what another Predictor like this one is made of."""
    sample = [predictor.example] if predictor.has_preprocess else predictor.example
    return {
        "model": predictor.backend, "preprocess": predictor.preprocess, "postprocess": predictor.postprocess, "sample": sample,
        "item": predictor.item,
    }  # fmt: skip


def _best(
    model: nn.Module,
    sample: Any,
    preprocess: Callable[[Any], Any] | None,
    *,
    rows: int,
    layouts: tuple[tuple[int, int | None], ...],
) -> Backend:
    """Return the backend and layout with the least seconds for each row; every other is closed."""
    from nograd.backends.eager import eager_backend

    samples = [sample] if preprocess is None else [one_row(preprocess(item)) for item in each_item(sample)]
    reference = eager_backend(model, samples)
    candidates: list[Backend] = [reference if layout == (1, None) else _laned(reference, *layout) for layout in layouts]
    candidates += _onnx(reference, layouts)
    batch = _of_rows(reference, rows)
    runs = {str(index): partial(_run_all_lanes, backend, batch) for index, backend in enumerate(candidates)}
    seconds = in_turn_s(runs)
    best = min(range(len(candidates)), key=lambda index: seconds[str(index)] / candidates[index].lanes)
    for index, backend in enumerate(candidates):
        if index != best:
            backend.close()
    return candidates[best]


def _laned(reference: ModuleBackend, lanes: int, num_threads: int | None) -> Backend:
    from nograd.backends.modules import ModuleBackend

    return ModuleBackend(
        reference.model, reference.signature, reference.call, reference.restore, samples=reference.samples, lanes=lanes,
        num_threads=num_threads,
    )  # fmt: skip


def _onnx(reference: ModuleBackend, layouts: tuple[tuple[int, int | None], ...]) -> list[Backend]:
    """Return nothing where ONNX Runtime is not installed, or the export does not agree: then eager is what there is."""
    try:
        from nograd.backends.onnx import OnnxBackend
        from nograd.backends.onnx.export import export_to_onnx

        with tempfile.TemporaryDirectory(prefix="nograd-") as folder:
            made = export_to_onnx(reference, None, Path(folder) / "model.onnx")
            return [OnnxBackend(made, lanes=lanes, num_threads=threads) for lanes, threads in layouts]
    except (ExportError, MissingExtraError) as error:
        warnings.warn(f"ONNX Runtime is no candidate: {error}", stacklevel=5)
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
