"""The openvino backend: Intel's runtime, without torch and without its telemetry package. Extra: openvino."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.backends import Backend, FileFingerprint, check_lanes
from nograd.core.manifest import KEY, Manifest, graph_outputs
from nograd.core.structure import restore_from
from nograd.core.tensors import Batch, num_rows
from nograd.errors import ConfigError, MissingExtraError, ModelError, ModelLoadError
from nograd.runtime.cores import processors
from nograd.runtime.fingerprint import Fingerprint

_telemetry = sys.modules.get("openvino_telemetry")
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # openvino then takes its own stub, and reports nothing home
try:
    import openvino
except ImportError:
    raise MissingExtraError("openvino", "openvino") from None
finally:
    del sys.modules["openvino_telemetry"]
    if _telemetry is not None:
        sys.modules["openvino_telemetry"] = _telemetry

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends.exporting import Export
    from nograd.backends.kinds import LoadOptions
    from nograd.backends.modules import ModuleBackend
    from nograd.core.parity import Tolerance

__all__ = ["OpenVinoBackend", "export_to_openvino", "load_file", "write_file"]

INFO = [KEY, "manifest"]
"""Key of the manifest in the model's runtime information."""

_filling = threading.Lock()


def load_file(path: Path, options: LoadOptions) -> OpenVinoBackend:
    """Return a backend over an OpenVINO file."""
    return OpenVinoBackend(
        path, device=options.device, lanes=options.lanes, num_threads=options.num_threads, digest=options.digest
    )


def write_file(reference: ModuleBackend, path: Path) -> Export:
    """Write an OpenVINO file; see `export_to_openvino`."""
    return export_to_openvino(reference, None, path)


class OpenVinoBackend(Backend):
    """Runs an OpenVINO model that nograd exported.

    Args:
        path: the `.xml` file; its weights are in the `.bin` file next to it.
        device: `auto` and `cpu` select the CPU; otherwise an OpenVINO device, such as `GPU`.
        lanes: number of calls to `run` that may run at the same time, each in its own stream.
        num_threads: threads per run; default: the processors divided by the lanes.
        digest: digest of the files, if known; otherwise the files are read for the fingerprint.

    Raises:
        MissingExtraError: openvino is not installed.
        ModelLoadError: the file does not exist, cannot be read, or was not written by nograd.
        ConfigError: the device does not exist, or a setting is out of its range.
    """

    name = "openvino"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        lanes: int = 1,
        num_threads: int | None = None,
        digest: str = "",
    ) -> None:
        check_lanes(lanes, num_threads)
        fill_dtype_tables()
        self.lanes = lanes
        self.num_threads = num_threads or max(1, processors() // lanes)
        self._file = FileFingerprint(Path(path), _weights_of, known=digest)
        core = openvino.Core()
        wanted = "CPU" if device in ("auto", "cpu") else device.upper()
        if wanted.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
            raise ConfigError(f"device is {device!r}; OpenVINO has {', '.join(core.available_devices)}")
        self.device = "cpu" if wanted == "CPU" else wanted
        model = _read(core, Path(path))
        if not model.has_rt_info(INFO):
            raise ModelLoadError(f"{os.fspath(path)} has no nograd manifest; write it with nograd.export_to_openvino")
        manifest = Manifest.loads(model.get_rt_info(INFO).astype(str))
        self.signature = manifest.signature
        self._outputs = graph_outputs(manifest.signature)
        self._restore = restore_from(manifest.outline)
        self._problem_type = manifest.problem_type
        compiled = core.compile_model(model, wanted, _options(wanted, lanes, self.num_threads))
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(lanes):
            self._free.put(compiled.create_infer_request())

    @property
    def problem_type(self) -> str:
        return self._problem_type

    def fingerprint(self) -> Fingerprint:
        return self._file.of(self.name, openvino.__version__, self.device)

    def run(self, batch: Batch) -> Batch:
        request = self._free.get()
        try:
            found = request.infer(dict(batch), share_inputs=True)
            outputs = {name: found[in_graph].copy() for name, in_graph in self._outputs.items()}
        except Exception as error:  # RuntimeError for most errors, TypeError for values that OpenVINO cannot convert
            given = ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in batch.items())
            raise ModelError(f"the model raised {type(error).__name__} on {given}: {error}") from error
        finally:
            self._free.put(request)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != num_rows(batch):
                raise ModelError(
                    f"output {name!r} is {array.dtype.name} {list(array.shape)} for {num_rows(batch)} rows; "
                    "every output must be [rows, ...]"
                )
            if array.dtype.name in ("float16", "bfloat16"):
                outputs[name] = array.astype("float32")
        return outputs

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._restore(outputs)

    def close(self) -> None:
        while not self._free.empty():
            self._free.get()


def fill_dtype_tables() -> None:
    """Fill the two dtype tables of OpenVINO's Python binding, one thread at a time.

    The binding fills each table on its first use, as a static variable of a C++ function, and calls numpy for it. There the
    thread may give up Python's lock (the GIL) while it holds the lock of the static variable. A second thread whose first run
    begins at that moment waits for the variable and keeps the GIL: neither continues, and the process hangs with all its
    threads. On a busy machine with two lanes this happened to 9 of 150 runs of `nograd predict` (2026-12-01, OpenVINO 2026.4.1,
    `type_helpers` in pyopenvino's `core/common.cpp`). Full tables are only read.
    """
    with _filling:
        openvino.Type.f32.to_dtype()
        openvino.Type(np.dtype(np.float32))


def _read(core: Any, path: Path) -> Any:
    if not path.is_file():
        raise ModelLoadError(f"there is no file {path}")
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise ModelLoadError(f"OpenVINO cannot load {path}: {str(error).splitlines()[-1]}") from error


def _weights_of(path: Path) -> list[Path]:
    weights = path.with_suffix(".bin")
    return [weights] if weights.is_file() else []


def _options(device: str, lanes: int, num_threads: int) -> dict[str, Any]:
    """Return the options.

    float32 stays float32: by default OpenVINO computes in half precision if the processor supports it.
    """
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": lanes}
    if device == "CPU":
        options["INFERENCE_NUM_THREADS"] = lanes * num_threads
    return options


def export_to_openvino(
    model: nn.Module | Backend, sample: Any, path: str | os.PathLike[str], *, tolerance: Tolerance | None = None
) -> Export:
    """Write a model as an OpenVINO file, compare it with eager, and return its path and how closely it agrees.

    The graph is exported to ONNX first: that needs `nograd[onnx]`.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file; it must end in `.xml`. The weights are written to the `.bin` file next to it.
        tolerance: maximum difference from eager; default: `nograd.core.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: no exporter can export the model, OpenVINO cannot read it, or the file's answers differ from the model's.
        SignatureError: the model cannot run the sample.
        MissingExtraError: openvino, or a package for exporting to ONNX, is not installed.
    """
    from nograd.backends.exporting import exporter_errors, reference_of, write_verified
    from nograd.backends.loaded import check_file
    from nograd.backends.onnx.export import export_to_onnx

    target = Path(path)
    if target.suffix != ".xml":
        raise ConfigError(f"path is {str(target)!r}; it must end in .xml")
    check_file(target)
    reference = reference_of(model, sample)
    with tempfile.TemporaryDirectory(prefix="nograd-") as folder:
        graph = export_to_onnx(reference, None, Path(folder) / "graph.onnx", exporter="plain", tolerance=tolerance)
        with exporter_errors("OpenVINO"):
            converted = openvino.Core().read_model(str(graph.path))

        def write(file: Path, manifest: Manifest) -> None:
            with exporter_errors("OpenVINO"):
                converted.set_rt_info(manifest.dumps(), INFO)
                openvino.save_model(converted, str(file), compress_to_fp16=False)

        return write_verified(reference, target, write=write, load=OpenVinoBackend, tolerance=tolerance, notes=graph.notes)
