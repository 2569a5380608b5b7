"""OnnxBackend: ONNX Runtime runs any ONNX file, without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, FileFingerprint, check_lanes
from nograd.backends.coupling import how_to_batch, measured_signature
from nograd.backends.onnx.graph_signature import have_rows, read_signature
from nograd.backends.onnx.session import (
    VERSION,
    available_providers,
    device_in_use,
    open_session,
    providers_for,
    run_bound,
    session_options,
)
from nograd.backends.onnx_data import data_files
from nograd.core.independence import HALF_PRECISIONS
from nograd.core.inputs import by_name, to_host
from nograd.core.manifest import KEY, Manifest, graph_outputs
from nograd.core.structure import Restore, restore_from
from nograd.core.tensors import TEXT, Array, Batch, Signature, num_rows
from nograd.errors import ModelError
from nograd.runtime.cores import processors
from nograd.runtime.fingerprint import Fingerprint

if TYPE_CHECKING:
    from nograd.backends.kinds import LoadOptions

__all__ = ["OnnxBackend", "load_file"]

HALF_DTYPES = (np.dtype("float16"), np.dtype("bfloat16"))


def load_file(path: Path, options: LoadOptions) -> OnnxBackend:
    """Return a backend over an ONNX file."""
    return OnnxBackend(
        path, device=options.device, lanes=options.lanes, num_threads=options.num_threads, spins=options.spins,
        digest=options.digest,
    )  # fmt: skip


class OnnxBackend(Backend):
    """Runs any ONNX file.

    A file that nograd exported contains a manifest with its signature and how its rows may be batched. For any other file,
    names, dtypes and shapes are read from the graph. How its rows may be batched is learned by running a sample; without a
    sample, rows are not batched. If some input or output of a graph is not `[rows, ...]` (a scalar setting, a state of
    `[layers, rows, ...]`), each row is one call: a first dimension is added to inputs, and the calls run one by one.

    Args:
        path: the file.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: the first GPU if ONNX Runtime has CUDA, otherwise the CPU.
        lanes: number of calls to `run` that may run at the same time, each with its own threads.
        num_threads: threads per run; default: the processors divided by the lanes.
        spins: whether waiting threads spin. This saves up to a fifth of a single request's time, but slows down all other
            computation in the process (a torch operation took 43 ms instead of 17). Default: only with one lane, in a process
            that has not imported torch.
        sample: inputs that the model can run.
        digest: digest of the files, if known; otherwise the files are read for the fingerprint.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelLoadError: the file does not exist or cannot be read, or an input or output is not a tensor.
        ConfigError: the device does not exist, or a setting is out of its range.
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
        wanted, provider_options = providers_for(device, available_providers())
        options = session_options(self.num_threads, spins=spins)
        # A session with one thread runs in the caller's thread, so one session serves all lanes.
        # A session on a GPU also serves all lanes, because each session has a copy of the weights there.
        is_shared = self.num_threads == 1 or wanted[0] != "CPUExecutionProvider"
        count = 1 if is_shared else lanes
        self._all = [open_session(Path(path), options, wanted, provider_options) for _ in range(count)]
        self.providers: tuple[str, ...] = tuple(self._all[0].get_providers())
        """Execution providers of ONNX Runtime, in order of preference."""

        self.device = device_in_use(device, wanted, self.providers, provider_options)
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
        self._row_is_a_call = not have_rows(inputs, outputs)
        size = inputs[0].shape[0] if inputs and inputs[0].shape else None
        self._fixed_rows = size if isinstance(size, int) and not self._row_is_a_call else 0
        signature = read_signature(inputs, outputs, row_is_a_call=self._row_is_a_call)
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
        """Return the signature with a measured independence, for files of older versions of nograd that lack it."""
        if sample is None or signature.independence is not None:
            return signature
        given = signature.check(by_name(to_host(sample), signature))
        return measured_signature(self.run, [given], signature, precision=_precision(signature), backend=self.name)

    @property
    def problem_type(self) -> str:
        return self._problem_type

    def fingerprint(self) -> Fingerprint:
        return self._file.of(self.name, VERSION, *self.providers)

    def run(self, batch: Batch) -> Batch:
        rows = num_rows(batch)
        if self._row_is_a_call:
            return self._call_for_each(batch)
        if not self._fixed_rows or rows == self._fixed_rows:
            return self._run(batch)
        if rows % self._fixed_rows:
            raise ModelError(f"the batch has {rows} rows; the model was exported for multiples of {self._fixed_rows} rows")
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
                listed = " and ".join(str(list(shape)) for shape in shapes[:2])
                raise ModelError(f"output {name!r} is {listed} for different rows of one batch; run the rows one by one")
        return {name: np.stack([call[name] for call in calls]) for name in calls[0]}

    def _call(self, batch: Batch) -> Batch:
        """Run the graph once with these arrays."""
        shared = self._shared
        session = shared if shared is not None else self._free.get()
        try:
            arrays = self._run_on_gpu(session, batch) if self.device != "cpu" else session.run(self._graph_outputs, batch)
        except Exception as error:  # ONNX Runtime raises a dozen kinds of errors, none of them public
            given = ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in batch.items())
            raise ModelError(f"the model raised {type(error).__name__} on {given}: {error}") from error
        finally:
            if shared is None:
                self._free.put(session)
        return dict(zip(self._outputs, map(_as_float32, arrays), strict=True))

    def _run_on_gpu(self, session: Any, batch: Batch) -> list[Array]:
        """Run with outputs that stay on the GPU until all are ready; a model with text takes the plain path."""
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


def _precision(signature: Signature) -> str:
    """Return the lowest precision of the outputs: a graph that computes in half precision usually returns it."""
    halves = [spec.dtype for spec in signature.outputs if spec.dtype in HALF_PRECISIONS]
    return halves[0] if halves else "float32"


def _as_float32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype in HALF_DTYPES else array  # `dtype.name` takes longer than this check
