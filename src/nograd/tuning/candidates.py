"""What there is to try: every backend and precision that this machine and this model allow, in every layout worth measuring."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nograd.errors import ConfigError
from nograd.parity import EXACT, HALF, INT8, Tolerance
from nograd.tuning.values import Candidate, Goal

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BACKENDS", "Variant", "layouts", "parse_tolerance", "simplicity", "variants"]

BACKENDS = ("eager", "onnx", "openvino", "torchscript", "aot", "compiled")
"""Simplest first: of candidates that are as good as each other, the first of these wins."""

PRECISIONS = ("float32", "bfloat16", "float16", "int8-dynamic", "int8-static")

LAID_OUT = ("eager", "onnx", "openvino")
"""Backends with lanes. Inductor's code knows its number of threads when it is compiled; TorchScript has one interpreter."""

LOWEST_FOR_INT8 = 0.995
"""8-bit integers do not reach cosines above this one (measured: .982 to .996); building them for nothing costs 15 s."""

SLOW_BUILD_S = 60.0
"""Seconds that Inductor takes to compile a model of the size of MiniLM, about (measured: 37 to 85 s of CPU)."""

TOLERANCES = {"exact": EXACT, "half": HALF, "int8": INT8}


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance that a user wrote: `exact`, `half` or `int8`, or limits such as `cosine=0.99,agreement=0.98`.

    Raises:
        ConfigError: it is none of these.
    """
    if text in TOLERANCES:
        return TOLERANCES[text]
    names = {"cosine": "min_cosine", "rel": "max_rel", "abs": "max_abs", "agreement": "min_agreement"}
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            limits[names[name.strip()]] = float(value)
        except (KeyError, ValueError):
            raise ConfigError(
                f"the tolerance is {text!r}; it must be {', '.join(TOLERANCES)}, or limits of {', '.join(names)}, "
                "such as cosine=0.99,agreement=0.98"
            ) from None
    return Tolerance(**{"min_cosine": -1.0, **limits})


@dataclass(frozen=True, slots=True)
class Variant:
    """A backend at a precision: what has to be built once, however it is laid out then."""

    backend: str
    precision: str = "float32"
    why_not: str = ""
    """Why it is not tried, in one sentence; empty where it is."""

    expected_build_s: float = 0.0
    """Seconds that building takes, where that is long; it is not begun with less time left."""

    def candidate(self, lanes: int = 1, num_threads: int = 1) -> Candidate:
        """Return the variant in a layout."""
        return Candidate(self.backend, self.precision, lanes, num_threads)


def variants(
    model: nn.Module, tolerance: Tolerance, *, has_metric: bool = False, backends: Sequence[str] | None = None
) -> list[Variant]:
    """Return what to build, most promising first; eager, which all others are compared with, before them.

    Args:
        model: the module.
        tolerance: how far answers may be from eager's.
        has_metric: whether the user's own function judges instead of the tolerance.
        backends: names to try beside eager; None: all.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = [name for name in backends or () if name not in BACKENDS]
    if unknown:
        raise ConfigError(f"backends holds {unknown[0]!r}; it must hold some of {', '.join(BACKENDS)}")
    found = [
        Variant("eager"),
        Variant("onnx", why_not=_missing("onnxruntime", "onnx")),
        *_int8(model, tolerance, has_metric=has_metric),
        Variant("openvino", why_not=_missing("openvino", "openvino")),
        *_halves(tolerance, has_metric=has_metric),
        Variant("torchscript"),
        Variant("aot", expected_build_s=SLOW_BUILD_S),
        Variant("compiled", expected_build_s=SLOW_BUILD_S),
    ]
    return [each for each in found if backends is None or each.backend in ("eager", *backends)]


def _missing(package: str, extra: str) -> str:
    if importlib.util.find_spec(package) is not None:
        return ""
    return f"{package} is not installed; run: pip install 'nograd[{extra}]'"


def _int8(model: nn.Module, tolerance: Tolerance, *, has_metric: bool) -> list[Variant]:
    """Matrix products are scaled at run time, convolutions by what calibration saw: the model's operations decide."""
    from torch.nn import LSTM, Conv1d, Conv2d, Conv3d, Linear

    weights = {"conv": 0, "product": 0}
    for module in model.modules():
        kind = (
            "conv" if isinstance(module, Conv1d | Conv2d | Conv3d) else "product" if isinstance(module, Linear | LSTM) else ""
        )
        if kind:
            weights[kind] += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    kinds = ["int8-static"] if weights["conv"] else []
    if weights["product"] > weights["conv"]:
        kinds.append("int8-dynamic")
    why_not = _missing("onnxruntime", "onnx")
    if not has_metric and tolerance.min_cosine > LOWEST_FOR_INT8:
        why_not = (
            f"8-bit integers do not reach a cosine of {tolerance.min_cosine:g}; --tolerance int8 allows {INT8.min_cosine:g}"
        )
    return [Variant("onnx", kind, why_not) for kind in kinds]


def _halves(tolerance: Tolerance, *, has_metric: bool) -> list[Variant]:
    from nograd.transforms.precision import half_support

    found = []
    for dtype in ("bfloat16", "float16"):
        support = half_support(dtype)
        why_not = "" if support.is_fast else f"{support.reason}: it would take many times as long as float32"
        if not has_metric and not why_not and tolerance.max_rel is not None and tolerance.max_rel < 1e-2:
            why_not = (
                f"half precision differs by more than {tolerance.max_rel:g} of an output's largest value; --tolerance half"
            )
        found.append(Variant("eager", dtype, why_not))
    return found


def layouts(variant: Variant, goal: Goal, cores: int) -> list[tuple[int, int]]:
    """Return the layouts to measure, as lanes and threads of each, the plain one (one lane, all cores) first.

    A lone row is answered by one lane: for latency, and for memory, layouts differ in threads only. What many rows gain by
    lanes depends on the model: two lanes of one thread carried 1.3 times as many sentences as one of two on 2 cores.
    """
    if variant.backend not in LAID_OUT or cores == 1:
        return [(1, cores)]
    halvings = [cores >> shift for shift in range(cores.bit_length()) if cores >> shift]
    if goal.kind in ("latency", "memory"):
        return [(1, threads) for threads in halvings]
    return [(1, cores), *((cores // threads, threads) for threads in halvings[1:])]


def simplicity(candidate: Candidate) -> float:
    """Return a rank; of candidates that are as good as each other the lowest wins: plainer backends, then float32, then fewer
    lanes, then fewer threads.
    """
    return (
        100 * PRECISIONS.index(candidate.precision)
        + 10 * BACKENDS.index(candidate.backend)
        + candidate.lanes
        + candidate.num_threads / 1000
    )
