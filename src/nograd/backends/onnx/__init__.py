"""The onnx backend: ONNX Runtime runs any ONNX file. Nothing here imports torch; `export` does. Extra: onnx."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, FileFingerprint, check_lanes
from nograd.backends.coupling import how_to_batch, measured_signature
from nograd.backends.onnx_data import data_files
from nograd.core.independence import HALF_PRECISIONS
from nograd.core.inputs import by_name, to_host
from nograd.core.manifest import KEY, Manifest, graph_outputs
from nograd.core.structure import Restore, restore_from
from nograd.core.tensors import TEXT, Array, Batch, Signature, TensorSpec, num_rows
from nograd.errors import ConfigError, MissingExtraError, ModelError, ModelLoadError
from nograd.runtime.cores import processors
from nograd.runtime.fingerprint import Fingerprint

try:
    import onnxruntime
except ImportError:
    raise MissingExtraError("onnxruntime", "onnx") from None

if TYPE_CHECKING:
    from nograd.backends.kinds import LoadOptions

__all__ = ["OnnxBackend", "load_file"]

DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "bytes",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}  # fmt: skip
"""ONNX Runtime's name of an element type -> nograd's."""


HALF_DTYPES = (np.dtype("float16"), np.dtype("bfloat16"))


def load_file(path: Path, options: LoadOptions) -> OnnxBackend:
    """Return a backend over an ONNX file."""
    return OnnxBackend(
        path, device=options.device, lanes=options.lanes, num_threads=options.num_threads, spins=options.spins,
        digest=options.digest,
    )  # fmt: skip


class OnnxBackend(Backend):
    """Runs an ONNX file, also one that never was a torch model.

    A file that nograd exported says itself what it takes and how its rows may be batched. Of any other, names, dtypes and
    shapes are read from the graph; how its rows may be batched is found out by running a sample, and without one nothing is
    batched. Of a graph whose inputs or outputs are not all `[rows, ...]` (a scalar setting, a state of `[layers, rows, ...]`) a
    row is all that one call takes: inputs get one dimension in front, and the calls are made one by one.

    Args:
        path: the file.
        device: `auto` is the first GPU where ONNX Runtime has CUDA, else the CPU; or `cpu`, `cuda`, `cuda:1`.
        lanes: calls to `run` that may go on side by side, each with threads of its own.
        num_threads: threads of one run; default: the processors, shared among the lanes.
        spins: whether threads that wait burn their processor to be quick. It costs whatever else computes in this process
            dearly (a torch operation took 43 ms instead of 17), and saves up to a fifth of a lone request's time. Default:
            only with one lane, in a process that has not imported torch.
        sample: inputs that the model can run.
        digest: of the files, where it is known; else they are read for the fingerprint.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelLoadError: the file is not there, cannot be read, or takes or gives what is no tensor.
        ConfigError: the device is not there, or a setting is out of its range.
    """

    name = "onnx"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        lanes: int = 1,
        num_threads: int | None = None,
        spins: bool | None = None,
        sample: Any = None,
        digest: str = "",
    ) -> None:
        check_lanes(lanes, num_threads)
        self.lanes = lanes
        self.num_threads = num_threads or max(1, processors() // lanes)
        spins = lanes == 1 and "torch" not in sys.modules if spins is None else spins
        self._file = FileFingerprint(Path(path), data_files, known=digest)
        wanted, provider_options = providers_for(device, onnxruntime.get_available_providers())
        options = _options(self.num_threads, spins=spins)
        # A session with one thread runs in the caller's, so that one session serves all lanes.
        # On a GPU one session serves them too, because each has a copy of the weights there.
        is_shared = self.num_threads == 1 or wanted[0] != "CPUExecutionProvider"
        count = 1 if is_shared else lanes
        self._all = [_session(Path(path), options, wanted, provider_options) for _ in range(count)]
        self.providers: tuple[str, ...] = tuple(self._all[0].get_providers())
        """What ONNX Runtime runs the graph with, first choice first."""

        self.device = _device_in_use(device, wanted, self.providers, provider_options)
        self._free: SimpleQueue[Any] = SimpleQueue()
        for session in self._all:
            self._free.put(session)
        self._shared = self._all[0] if is_shared else None
        self._fixed_rows = 0
        self._row_is_a_call = False
        self._restore: Restore | None = None
        self._problem_type = ""
        self.signature = self._described(sample)

    def _described(self, sample: Any) -> Signature:
        session = self._all[0]
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is not None:
            manifest = Manifest.loads(text)
            self._restore = restore_from(manifest.outline)
            self._problem_type = manifest.problem_type
            self._set_outputs(graph_outputs(manifest.signature))
            return self._measured(manifest.signature, sample)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self._row_is_a_call = not _have_rows(inputs, outputs)
        size = inputs[0].shape[0] if inputs and inputs[0].shape else None
        self._fixed_rows = size if isinstance(size, int) and not self._row_is_a_call else 0
        signature = _read_signature(inputs, outputs, row_is_a_call=self._row_is_a_call)
        self._set_outputs({spec.name: spec.name for spec in signature.outputs})
        if sample is None:
            return signature
        given = signature.check(by_name(to_host(sample), signature))
        if self._row_is_a_call:
            self.run(given)
            return signature
        return how_to_batch(self.run, given, signature, precision=_precision(signature), backend=self.name)

    def _set_outputs(self, in_graph: Mapping[str, str]) -> None:
        self._outputs, self._graph_outputs = list(in_graph), list(in_graph.values())

    def _measured(self, signature: Signature, sample: Any) -> Signature:
        """Measure a file of an older nograd, which says nothing of independence, if there is a sample to measure it with."""
        if sample is None or signature.independence is not None:
            return signature
        given = signature.check(by_name(to_host(sample), signature))
        return measured_signature(self.run, [given], signature, precision=_precision(signature), backend=self.name)

    @property
    def problem_type(self) -> str:
        return self._problem_type

    def fingerprint(self) -> Fingerprint:
        return self._file.of(self.name, onnxruntime.__version__, *self.providers)

    def run(self, batch: Batch) -> Batch:
        rows = num_rows(batch)
        if self._row_is_a_call:
            return self._call_for_each(batch)
        if not self._fixed_rows or rows == self._fixed_rows:
            return self._run(batch)
        if rows % self._fixed_rows:
            raise ModelError(f"the model was exported for {self._fixed_rows} rows and takes no others; {rows} were given")
        starts = range(0, rows, self._fixed_rows)
        parts = [
            self._run({name: array[start : start + self._fixed_rows] for name, array in batch.items()}) for start in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call_for_each(self, batch: Batch) -> Batch:
        calls = [self._call({name: array[row, ...] for name, array in batch.items()}) for row in range(num_rows(batch))]
        for name in calls[0]:
            shapes = sorted({call[name].shape for call in calls})
            if len(shapes) > 1:
                told = " and ".join(str(list(shape)) for shape in shapes[:2])
                raise ModelError(f"output {name!r} is {told} for different rows of one batch: run them one by one")
        return {name: np.stack([call[name] for call in calls]) for name in calls[0]}

    def _call(self, batch: Batch) -> Batch:
        """Run the graph once on just these arrays."""
        shared = self._shared
        session = shared if shared is not None else self._free.get()
        try:
            arrays = self._run_on_gpu(session, batch) if self.device != "cpu" else session.run(self._graph_outputs, batch)
        except Exception as error:  # ONNX Runtime raises a dozen kinds, none of them public
            given = ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in batch.items())
            raise ModelError(f"the model raised {type(error).__name__} on {given}: {error}") from error
        finally:
            if shared is None:
                self._free.put(session)
        return dict(zip(self._outputs, map(_as_float32, arrays), strict=True))

    def _run_on_gpu(self, session: Any, batch: Batch) -> list[Array]:
        """Run with outputs that stay on the GPU until all are ready; text, which no GPU holds, takes the plain way."""
        if any(spec.dtype == TEXT for spec in (*self.signature.inputs, *self.signature.outputs)):
            return cast("list[Array]", session.run(self._graph_outputs, batch))
        return run_bound(session, batch, self._graph_outputs, int(self.device.partition(":")[2] or 0))

    def _run(self, batch: Batch) -> Batch:
        outputs, rows = self._call(batch), num_rows(batch)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                raise ModelError(
                    f"output {name!r} is {array.dtype.name} {list(array.shape)} for {rows} rows; "
                    "every output must be [rows, ...]"
                )
        return outputs

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        if self._restore:
            return self._restore(outputs)
        return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)

    def close(self) -> None:
        self._all.clear()
        self._shared = None
        while not self._free.empty():
            self._free.get()


CUDA_OPTIONS = {
    "use_tf32": "0",  # its default is 10 bits of mantissa for float32, also in matrix products: answers differ by 1e-3
    "cudnn_conv_algo_search": "HEURISTIC",  # the default measures all algorithms for each new shape
    "arena_extend_strategy": "kSameAsRequested",  # the default doubles the memory
}
"""Options of ONNX Runtime's CUDA provider."""


def providers_for(device: str, available: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the providers to ask ONNX Runtime for, first choice first, and their options.

    Raises:
        ConfigError: the device is none of `auto`, `cpu`, `cuda` and `cuda:N`, or this build has no CUDA.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device is {device!r}; it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    has_cuda = "CUDAExecutionProvider" in available
    if kind == "cuda" and not has_cuda:
        raise ConfigError(
            f"device is {device!r}; this onnxruntime has {', '.join(available)}: for CUDA, pip install onnxruntime-gpu"
        )
    if kind == "cpu" or not has_cuda:
        return ["CPUExecutionProvider"], [{}]
    return ["CUDAExecutionProvider", "CPUExecutionProvider"], [{"device_id": index or "0", **CUDA_OPTIONS}, {}]


def _device_in_use(
    device: str, wanted: Sequence[str], found: Sequence[str], provider_options: Sequence[Mapping[str, str]]
) -> str:
    """Where CUDA does not start ONNX Runtime takes the CPU and a line in the log; what was asked for is not replaced so."""
    if wanted[0] == "CPUExecutionProvider":
        return "cpu"
    if wanted[0] in found:
        return f"cuda:{provider_options[0]['device_id']}"
    if device != "auto":
        raise ConfigError(f"device is {device!r}, and CUDA did not start; ONNX Runtime uses {', '.join(found)} and logged why")
    return "cpu"


def _options(num_threads: int, *, spins: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.log_severity_level = 3  # errors; a warning about every unused initializer helps nobody
    return options


def _session(path: Path, options: Any, providers: Sequence[str], provider_options: Sequence[Mapping[str, str]]) -> Any:
    if not path.is_file():
        raise ModelLoadError(f"there is no file {path}")
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), provider_options=list(map(dict, provider_options))
        )
    except Exception as error:  # one of a dozen kinds, none of them public
        raise ModelLoadError(f"ONNX Runtime cannot load {path}: {type(error).__name__}: {error}") from error


def run_bound(session: Any, batch: Batch, outputs: Sequence[str], index: int) -> list[Array]:
    """Run on a GPU. The outputs stay there until all are ready, and are then copied to the host together.

    Args:
        session: of ONNX Runtime.
        batch: arrays by input.
        outputs: names in the graph; the arrays have their order.
        index: of the GPU that the session runs on.
    """
    binding = session.io_binding()
    for name, array in batch.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name, "cuda", index)
    session.run_with_iobinding(binding)
    arrays: list[Array] = binding.copy_outputs_to_cpu()
    return arrays


def _precision(signature: Signature) -> str:
    """Return the coarsest precision among the outputs: a graph that computes in half precision usually answers in it."""
    halves = [spec.dtype for spec in signature.outputs if spec.dtype in HALF_PRECISIONS]
    return halves[0] if halves else "float32"


def _as_float32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype in HALF_DTYPES else array  # `dtype.name` takes longer than this check


def _have_rows(inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Return whether all is `[rows, ...]`, as far as the graph says: no input is a number, and fixed first sizes are equal."""
    if not all(node.shape for node in inputs):
        return False
    sizes = [node.shape[0] for node in (*inputs, *outputs) if node.shape]
    return all(size == sizes[0] for size in sizes if isinstance(size, int))


def _read_signature(inputs: Sequence[Any], outputs: Sequence[Any], *, row_is_a_call: bool) -> Signature:
    """Return the signature of a graph that says nothing of batching."""
    specs = tuple(tuple(_spec(node, skip=0 if row_is_a_call else 1) for node in nodes) for nodes in (inputs, outputs))
    if row_is_a_call:
        reason = "the graph takes or gives what is not [rows, ...]: each row is a call of its own"
    else:
        reason = (
            "the file does not say how its rows may be batched, and no sample was given: size limits and the independence of "
            "rows are unknown"
        )
    return Signature(specs[0], specs[1], batching="alone", reason=reason)


def _spec(node: Any, *, skip: int) -> TensorSpec:
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if element not in DTYPES:
        raise ModelLoadError(f"{node.name!r} is {node.type}; nograd carries tensors of {', '.join(DTYPES)}")
    shape = tuple(size if isinstance(size, int | str) else f"{node.name}_{axis}" for axis, size in enumerate(node.shape))
    return TensorSpec(node.name, DTYPES[element], shape[skip:])
