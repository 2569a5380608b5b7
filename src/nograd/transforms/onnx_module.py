"""OnnxModule: an ONNX graph in ONNX Runtime as a torch module, called and saved like the original model."""

from __future__ import annotations

import inspect
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nograd.core.inputs import to_host
from nograd.core.module import ModuleCall
from nograd.errors import SignatureError
from nograd.runtime.fingerprint import Fingerprint, of_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from nograd.backends.onnx import OnnxBackend

__all__ = ["OnnxModule"]


class OnnxModule(nn.Module):
    """Runs a graph written by nograd, on the CPU, without gradients. Takes tensors and returns the model's output structure.

    It computes with torch's number of threads at the first call.

    The graph is a byte buffer: the state dict contains it, and `torch.load(weights_only=True)` can read it.

    Args:
        graph: content of the ONNX file.
        call: how the model takes its inputs.
    """

    graph: Tensor

    def __init__(self, graph: bytes, call: ModuleCall) -> None:
        super().__init__()
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self._call = call
        self._backend: OnnxBackend | None = None
        self._lock = threading.Lock()
        self.training = False

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Calls the model: tensors in order, by name, or in one dict."""
        run = partial(self._run)
        names = ["batch"] if self._call.style == "mapping" else list(self._call.names)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names if name.isidentifier()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    @property
    def problem_type(self) -> str:
        """The `problem_type` of the source model."""
        return self.backend().problem_type

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        backend, inputs = self.backend(), self._inputs_by_name(args, kwargs)
        device = next((tensor.device for tensor in inputs.values() if isinstance(tensor, Tensor)), torch.device("cpu"))
        outputs = backend.run(backend.signature.check({name: to_host(value) for name, value in inputs.items()}))
        return backend.restore({name: torch.from_numpy(array).to(device) for name, array in outputs.items()})

    def _inputs_by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        first = args[0] if len(args) == 1 else None
        if isinstance(first, Mapping):
            args, kwargs = (), {**first, **kwargs}
        names = self._call.names
        if len(args) > len(names):
            raise SignatureError(f"{len(args)} inputs were given; the model takes {', '.join(names)}")
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def backend(self) -> OnnxBackend:
        """Return the backend of the graph, which the first call opens."""
        if self._backend is None:
            with self._lock:
                if self._backend is None:
                    self._backend = self._open_backend()
        return self._backend

    def _open_backend(self) -> OnnxBackend:
        from nograd.backends.onnx import OnnxBackend

        with tempfile.TemporaryDirectory(prefix="nograd-") as folder:
            path = Path(folder) / "graph.onnx"
            path.write_bytes(self.graph.cpu().numpy().tobytes())
            threads = torch.get_num_threads()  # as every torch module
            return OnnxBackend(path, device="cpu", num_threads=threads, digest=of_value(self.graph).text)

    def fingerprint(self) -> Fingerprint:
        """Return a digest of graph and runtime."""
        return self.backend().fingerprint()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.get(f"{prefix}graph")
        if given is not None:  # graphs differ in size
            self.graph, self._backend = torch.empty_like(given), None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_backend", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.update(_backend=None, _lock=threading.Lock())

    def extra_repr(self) -> str:
        return f"{len(self.graph) / 1e6:.1f} MB, inputs: {', '.join(self._call.names)}"
