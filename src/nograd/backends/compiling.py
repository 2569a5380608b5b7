"""CompiledModel: a module that runs through torch.compile, with fallbacks and their reasons if compiling fails."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from nograd.backends.exporting import quiet
from nograd.core.module import Accelerated, ModuleCall, own_signature
from nograd.errors import ConfigError
from nograd.runtime.fingerprint import Fingerprint, of_value

if TYPE_CHECKING:
    from nograd.backends.compiled import CompiledBackend
    from nograd.core.tensors import Batch, Signature

__all__ = ["MODES", "CompiledModel", "ExecutionMode", "Failure", "Mode", "failure_of", "next_way"]

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

Failure = Literal["limit", "break", "other"]


@dataclass(frozen=True, slots=True)
class ExecutionMode:
    """One way to run the module."""

    is_compiled: bool = True
    in_one_piece: bool = True
    """Whether a graph break is an error. If not, the graph is compiled in pieces."""

    dynamic: bool | None = None
    """Whether one graph serves every size; None: torch decides from the sizes of the calls."""


EAGER = ExecutionMode(is_compiled=False)


def next_way(way: ExecutionMode, failure: Failure, *, fullgraph: bool, can_be_dynamic: bool) -> ExecutionMode:
    """Return the fallback after a failure: dynamic shapes after too many sizes, pieces after a graph break, otherwise eager.

    Args:
        way: the way that failed.
        failure: kind of failure.
        fullgraph: whether pieces are forbidden.
        can_be_dynamic: whether dynamic shapes are possible. They are not if CUDA graphs are recorded, one per size.
    """
    if failure == "limit" and way.dynamic is not True and can_be_dynamic:
        return replace(way, dynamic=True)
    if failure == "break" and way.in_one_piece and not fullgraph:
        return replace(way, in_one_piece=False)
    return EAGER


def failure_of(error: BaseException) -> Failure:
    """Return the kind of failure in torch.compile."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported

    kinds = [type(each) for each in _chain(error)]
    if FailOnRecompileLimitHit in kinds:
        return "limit"
    return "break" if any(issubclass(kind, Unsupported) for kind in kinds) else "other"


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


def reason_of(error: BaseException) -> str:
    """Return the reason in one sentence, without torch's advice."""
    if failure_of(error) == "limit":
        return "it was given more sizes than torch.compile's limit of recompilations allows"
    chain = _chain(error)
    if any(type(each).__name__ == "InvalidCxxCompiler" for each in chain) or "No working C++ compiler" in str(error):
        return "torch.compile found no working C++ compiler; on Debian: apt-get install g++"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(line for line in lines[:4] if not line.startswith('Hint'))[:300]}"


class CompiledModel(Accelerated):
    """The model through torch.compile: called like the model, with the model's answers, for every size that it accepts.

    As with torch's own compiled modules, `_orig_mod` is the model, and names in the state dict start with `_orig_mod.`.
    Parameters, training flag and attributes are the model's, and `to()` moves it. It compiles at the first call, or
    immediately if `optimize_model_compile` is called with a sample.

    A call that torch.compile cannot serve runs eagerly. After too many sizes the model is recompiled with dynamic shapes;
    after a graph break, in pieces unless `fullgraph`. If that also fails, the model runs eagerly from then on, with one
    warning. `reason` gives the cause. Errors of the model itself are raised unchanged.
    """

    def __init__(self, model: nn.Module, *, mode: Mode, dynamic: bool | None, fullgraph: bool, max_graphs: int | None) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
        self._orig_mod = model
        self._state = _State(mode, fullgraph, max_graphs, ExecutionMode(dynamic=dynamic))

    # -- properties

    @property
    def original(self) -> nn.Module:
        return cast("nn.Module", self._modules["_orig_mod"])

    @property
    def training(self) -> bool:
        """The model's training flag."""
        return self.original.training if "_orig_mod" in self.__dict__.get("_modules", {}) else False

    @training.setter
    def training(self, value: bool) -> None:
        if "_orig_mod" in self.__dict__.get("_modules", {}):
            self.original.training = value

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)

    @property
    def way(self) -> ExecutionMode:
        """The current way to run."""
        return self._state.way

    @property
    def reason(self) -> str:
        """Why the model is not compiled as requested; empty if it is."""
        return self._state.reason

    @property
    def num_graphs(self) -> int:
        """Graphs compiled so far."""
        return self._state.num_graphs

    def fingerprint(self) -> Fingerprint:
        """Return a digest of the model and of the way it is compiled."""
        return of_value("compiled", self._state.mode, self.original)

    # -- the backend

    def warmed_by(self, backend: CompiledBackend) -> None:
        """Set the backend that was made with a sample."""
        self._state.backend = backend

    @property
    def backend(self) -> CompiledBackend:
        """The backend that was made with a sample: it runs named arrays, and warms up the sizes to be served.

        Raises:
            ConfigError: no sample was given.
        """
        if self._state.backend is None:
            raise ConfigError("the compiled model has no backend, because no sample was given; pass sample=, or use Predictor")
        return self._state.backend

    @property
    def signature(self) -> Signature:
        """Signature of the model, probed with the sample."""
        return self.backend.signature

    @property
    def compilations(self) -> int:
        """Graphs compiled since the warm-up; without a sample, all of them."""
        return self._state.backend.compilations if self._state.backend is not None else self.num_graphs

    def run(self, batch: Batch) -> Batch:
        """Run named arrays; needs a sample."""
        return self.backend.run(batch)

    # -- running

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """The model's `forward`, with its parameters."""
        return own_signature(self._run, self.original)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            args, kwargs = _arguments_of(self.original, args[0])
        way = self._state.way
        if not way.is_compiled:
            return self.original(*args, **kwargs)
        try:
            return self._state.compiled(self.original, way)(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  of the model or of the compiler: the eager run tells which
            answer = self.original(*args, **kwargs)  # the model's own error is the caller's
            self._state.fall_back(way, error)
            return answer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": self._state.fresh()}


def _arguments_of(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return named inputs in the form of the model's arguments: keywords, or one dict."""
    if all(isinstance(name, str) for name in inputs) and ModuleCall.learn(model, inputs).style == "keywords":
        return (), dict(inputs)
    return (inputs,), {}


class _State:
    """State of compilation. Copies and pickles of the model keep only the settings."""

    def __init__(self, mode: Mode, fullgraph: bool, max_graphs: int | None, way: ExecutionMode) -> None:  # noqa: FBT001
        self.mode, self.fullgraph, self.max_graphs, self.way = mode, fullgraph, max_graphs, way
        self.first_way = way
        self.reason = ""
        self.num_graphs = 0
        self.backend: CompiledBackend | None = None
        self._compiled: dict[ExecutionMode, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def fresh(self) -> _State:
        return _State(self.mode, self.fullgraph, self.max_graphs, self.first_way)

    def __reduce__(self) -> tuple[Any, ...]:
        return _State, (self.mode, self.fullgraph, self.max_graphs, self.first_way)

    def compiled(self, model: nn.Module, way: ExecutionMode) -> Callable[..., Any]:
        if way not in self._compiled:
            with self._lock, quiet():
                if way not in self._compiled:
                    options: dict[str, Any] = {
                        "dynamic": way.dynamic,
                        "fullgraph": way.in_one_piece,
                        **_limits(self.max_graphs),
                    }
                    self._compiled[way] = torch.compile(model, backend=partial(self._count, way), **options)
        return self._compiled[way]

    def _count(self, way: ExecutionMode, graph: Any, example_inputs: Any) -> Any:
        """Count the graph and pass it to inductor, like torch.compile with a mode."""
        with self._lock:
            self.num_graphs += 1
        with quiet():  # importing inductor and compiling emit warnings about torch's own code
            from torch._inductor import list_mode_options
            from torch._inductor.compile_fx import compile_fx

            return compile_fx(graph, example_inputs, config_patches=list_mode_options(self.mode, way.dynamic))

    def fall_back(self, way: ExecutionMode, error: Exception) -> None:
        """Switch to the next way; warn once if that is eager."""
        with self._lock:
            if self.way != way:  # another thread was first
                return
            can_be_dynamic = not (self.mode in ("reduce-overhead", "max-autotune") and torch.cuda.is_available())
            self.way = next_way(way, failure_of(error), fullgraph=self.fullgraph, can_be_dynamic=can_be_dynamic)
            self.reason = reason_of(error) if not self.reason or not self.way.is_compiled else self.reason
        if not self.way.is_compiled:
            warnings.warn(f"the model runs eagerly, not compiled: {self.reason}", stacklevel=2)


def _limits(max_graphs: int | None) -> dict[str, Any]:
    """Return options that count graphs per model; by default torch counts over all models of a class."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:  # before torch 2.13
        return {}
    return {"isolate_recompiles": True, "recompile_limit": max_graphs}
