"""QuantizedModel: the result of quantization, a module with a report of its measurements."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from nograd.core.module import own_signature
from nograd.core.parity import ParityReport
from nograd.errors import ConfigError
from nograd.runtime.fingerprint import Fingerprint, of_value

if TYPE_CHECKING:
    from nograd.core.independence import Independence
    from nograd.transforms.measuring import FirstCall
    from nograd.transforms.quantize import QuantizedFile, RecipeResult

__all__ = ["QuantizationReport", "QuantizedEngine", "QuantizedModel"]

MAX_ROW_EFFECT = 1e-5
"""Rows count as independent up to this difference, relative to the output's largest value: float32 rounding."""


@dataclass(frozen=True, slots=True)
class QuantizedEngine:
    """A kernel for the 8-bit weights, and its measurement."""

    name: str
    seconds: float | None = None
    """Seconds of one run of the first inputs; None: not measured."""

    reason: str = ""
    """Why it was not chosen; empty if it was."""


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Sizes, agreement and speed of a quantized model. None means not measured; `measured_on` names the measured inputs."""

    engine: str
    """Kernel that runs the 8-bit weights."""

    float_bytes: int
    num_bytes: int
    """Bytes of the state dict before and after quantization; for a file, of the graph."""

    measured_on: str = ""
    """The measured inputs; empty if nothing was measured yet."""

    parity: ParityReport | None = None
    """Comparison with the float model."""

    float_s: float | None = None
    """Seconds of one run of the float model on those inputs."""

    seconds: float | None = None
    """Seconds of one run of the quantized model on those inputs."""

    row_effect: float | None = None
    """Largest difference of a row's answer next to other rows, relative to the output's largest value; None: not measured."""

    float_row_effect: float | None = None
    """The same difference of the float model."""

    kept_float: tuple[str, ...] = ()
    """Layers that stayed in float because their answers did not agree."""

    engines: tuple[QuantizedEngine, ...] = ()
    """All kernels that were tried."""

    notes: tuple[str, ...] = ()
    file: QuantizedFile | None = field(default=None, repr=False)
    """The report of the written file, if there is one."""

    @property
    def rows_are_independent(self) -> bool | None:
        """True if other rows of the batch change an answer by no more than rounding; None: not measured."""
        return None if self.row_effect is None else self.row_effect <= MAX_ROW_EFFECT

    @property
    def speedup(self) -> float | None:
        """Speed relative to the float model; None: not measured."""
        return None if self.float_s is None or not self.seconds else self.float_s / self.seconds

    def __str__(self) -> str:
        if self.file is not None:
            return "\n".join([str(self.file), *self._rows(), *self.notes])
        lines = [f"{self.engine}: {self.float_bytes / 1e6:.2f} -> {self.num_bytes / 1e6:.2f} MB"]
        if not self.measured_on:
            return "\n".join([*lines, "speed and agreement are not measured yet: the first call measures them", *self.notes])
        if self.speedup is not None:
            lines[0] += f", {self.speedup:.2f} times float32's speed"
        lines += [f"measured on {self.measured_on}"] + ([] if self.parity is None else [str(self.parity)])
        if self.kept_float:
            lines.append(f"left in float: {', '.join(self.kept_float)}")
        lines += [f"not taken: {each.name}: {each.reason}" for each in self.engines if each.reason]
        return "\n".join([*lines, *self._rows(), *self.notes])

    def _rows(self) -> list[str]:
        if self.row_effect is None:
            return []
        if self.rows_are_independent:
            return [f"rows are independent: other rows move an answer by at most {self.row_effect:.1e} of its largest value"]
        own = f" (the float model: {self.float_row_effect:.1e})" if self.float_row_effect is not None else ""
        return [f"rows influence each other: other rows move an answer by {self.row_effect:.1e} of its largest value{own}"]


class QuantizedModel(nn.Module):
    """A model with 8-bit weights, called like the original, saved by its state dict, and usable as any module.

    The state dict has the model's names, with `weight_int8` and `weight_scale` for a quantized `weight`. To load one, quantize
    the same architecture and call `load_state_dict`. Unknown attributes are looked up on the inner model.
    """

    def __init__(self, model: nn.Module, report: QuantizationReport, first_call: FirstCall | None = None) -> None:
        super().__init__()
        self.model = model
        """The inner module: the model with replaced layers, or a graph in ONNX Runtime."""

        self._report = report
        self._first_call = first_call
        self._lock = threading.RLock()
        self.training = model.training
        self.register_load_state_dict_pre_hook(_before_loading)  # type: ignore[no-untyped-call]

    @property
    def report(self) -> QuantizationReport:
        """Sizes, agreement, speed and row independence."""
        return self._report

    # -- the written file

    @property
    def _file(self) -> QuantizedFile:
        if self._report.file is None:
            raise ConfigError("no file was written, because no path was given; pass path=, or save the state dict")
        return self._report.file

    @property
    def path(self) -> Path:
        """The written file.

        Raises:
            ConfigError: no path was given; the same applies to the following properties.
        """
        return self._file.path

    @property
    def chosen(self) -> RecipeResult:
        """The recipe of the written file."""
        return self._file.chosen

    @property
    def tried(self) -> tuple[RecipeResult, ...]:
        """All recipes that were tried for the file."""
        return self._file.tried

    @property
    def sensitivity(self) -> tuple[tuple[str, float], ...]:
        """See `QuantizedFile.sensitivity`."""
        return self._file.sensitivity

    @property
    def independence(self) -> Independence | None:
        """See `QuantizedFile.independence`."""
        return self._file.independence

    @property
    def saturates(self) -> bool:
        """See `QuantizedFile.saturates`."""
        return self._file.saturates

    @property
    def float_s(self) -> float:
        """Seconds of one run in float32, measured for the file."""
        return self._file.float_s

    @property
    def float_bytes(self) -> int:
        """Bytes in float32."""
        return self._report.float_bytes

    @property
    def parity(self) -> ParityReport:
        """Comparison with the float model.

        Raises:
            ConfigError: not measured yet.
        """
        if self._report.parity is None:
            raise ConfigError("the agreement is not measured yet; call the model once, or pass sample=")
        return self._report.parity

    @property
    def speedup(self) -> float:
        """Speed relative to float32.

        Raises:
            ConfigError: not measured yet.
        """
        if self._report.speedup is None:
            raise ConfigError("the speed is not measured yet; call the model once, or pass sample=")
        return self._report.speedup

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self._report)

    # -- running

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """The model's `forward`, with its parameters."""
        return own_signature(self._run, self.model)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self._first_call is not None:
            self._measure(args, kwargs)
        return self.model(*args, **kwargs)

    def _measure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self._lock:  # other threads wait for the measurement
            first, self._first_call = self._first_call, None
            if first is not None:
                self.model, self._report = first.measure(self.model, self._report, args, kwargs)

    def measure(self, *args: Any, measured_on: str = "the sample", **kwargs: Any) -> QuantizationReport:
        """Measure with these inputs now instead of at the first call; return the report."""
        if self._first_call is not None:
            self._first_call.measured_on = measured_on
            self._measure(args, kwargs)
        return self._report

    # -- other reports

    def describe(self, report: QuantizationReport) -> None:
        """Replace the report by a later measurement."""
        self._report = report

    def with_notes(self, *notes: str) -> QuantizedModel:
        """Return this model with notes added to its report."""
        self._report = replace(self._report, notes=(*self._report.notes, *notes))
        return self

    def without_file(self) -> QuantizedModel:
        """Return this model after its file was removed."""
        self._report = replace(self._report, file=None)
        return self

    # -- saving and copying

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.state_dict(*args, **kwargs)

    def loaded(self) -> None:
        """Discard measurements of other weights."""
        self._first_call = None
        report = self._report
        self._report = replace(report, measured_on="", parity=None, seconds=None, float_s=None, row_effect=None, notes=(
            *report.notes, "the weights were loaded later, and nothing was measured with them"))  # fmt: skip

    def fingerprint(self) -> Fingerprint:
        """Return a digest of the inner model."""
        return of_value("quantized", self.model)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return getattr(super().__getattr__("model"), name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_first_call", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.update(_first_call=None, _lock=threading.RLock())


def _before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Convert layers to float or 8-bit to match the state dict, and add the wrapped child's name to its keys."""
    from nograd.transforms.replacing import follow_state

    made = cast("QuantizedModel", module)
    own = {key: state[key] for key in state if key.startswith(prefix)}
    follow_state(made.model, _without(own, prefix))
    for key in own:
        state[f"{prefix}model.{key.removeprefix(prefix)}"] = state.pop(key)
    made.loaded()


def _without(state: Mapping[str, Any], prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key in state}
