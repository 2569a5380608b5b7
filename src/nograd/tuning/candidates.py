"""List the candidates: every backend and precision that this machine and model allow, in every layout worth measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nograd.backends.kinds import FLOAT_PRECISIONS, PRECISIONS
from nograd.backends.registry import all_kinds, find_kind, rank
from nograd.core.parity import EXACT, HALF, INT8, Tolerance
from nograd.errors import ConfigError
from nograd.tuning.values import Candidate, Goal

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends.kinds import Kind
    from nograd.transforms.precision import HalfDtype

__all__ = ["Variant", "layouts", "parse_tolerance", "simplicity", "variants"]

LOWEST_FOR_INT8 = 0.995
"""8-bit integers do not reach cosines above this value (measured: 0.982 to 0.996). A useless build costs 15 s."""

HALVES: tuple[HalfDtype, ...] = ("bfloat16", "float16")

LOWEST_REL_FOR_HALF = 1e-2
"""Half precision differs from float32 by more than this share of an output's largest value."""

TOLERANCES = {"exact": EXACT, "half": HALF, "int8": INT8}


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance that a user wrote: `exact`, `half` or `int8`, or limits such as `cosine=0.99,agreement=0.98`.

    Raises:
        ConfigError: the text has none of these forms.
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
    """A backend at a precision. It is built once, for all of its layouts."""

    backend: str
    precision: str = "float32"
    why_not: str = ""
    """Reason for skipping the variant, in one sentence; empty if it is tried."""

    expected_build_s: float = 0.0
    """Expected build time in seconds if it is long, else 0. The build is skipped if less time is left."""

    def candidate(self, lanes: int = 1, num_threads: int = 1) -> Candidate:
        """Return the variant in a layout."""
        return Candidate(self.backend, self.precision, lanes, num_threads)


def variants(
    model: nn.Module, tolerance: Tolerance, *, has_metric: bool = False, backends: Sequence[str] | None = None
) -> list[Variant]:
    """Return the variants to build: eager first, because all others are compared with it, then the most promising.

    Args:
        model: the module.
        tolerance: maximum difference from eager's answers.
        has_metric: True if the user's metric decides instead of the tolerance.
        backends: names of the backends to try in addition to eager; None: all.

    Raises:
        ConfigError: a name is unknown.
    """
    found = [
        Variant(kind.name, precision, _why_not(kind, precision, tolerance, has_metric=has_metric), kind.build_s)
        for kind in _kinds(backends)
        for precision in _precisions(kind, model)
    ]
    return sorted(found, key=lambda each: (each.expected_build_s, each.precision in HALVES))  # stable sort: eager remains first


def _kinds(backends: Sequence[str] | None) -> list[Kind]:
    if backends is None:
        return list(all_kinds())
    for name in backends:
        if find_kind(name) is None:
            known = ", ".join(kind.name for kind in all_kinds())
            raise ConfigError(f"backends contains {name!r}; it must contain some of {known}")
    wanted = {"eager", *backends}
    return sorted((kind for name in wanted if (kind := find_kind(name)) is not None), key=lambda kind: rank(kind.name))


def _precisions(kind: Kind, model: nn.Module) -> list[str]:
    """Return the precisions of a backend kind that the model's operations allow."""
    int8 = _int8_precisions(model) if kind.has_int8 else ()
    return [each for each in kind.precisions if each in FLOAT_PRECISIONS or each in int8]


def _why_not(kind: Kind, precision: str, tolerance: Tolerance, *, has_metric: bool) -> str:
    """Return the reason for skipping a precision of a kind, in one sentence; empty if it is tried."""
    if precision.startswith("int8") and not has_metric and tolerance.min_cosine > LOWEST_FOR_INT8:
        return f"8-bit integers do not reach a cosine of {tolerance.min_cosine:g}; --tolerance int8 allows {INT8.min_cosine:g}"
    if missing := kind.why_missing():
        return missing
    if precision not in HALVES:
        return ""
    from nograd.transforms.precision import half_support

    support = half_support(precision) if kind.runs_module else None
    if support is not None and not support.is_fast:
        return f"{support.reason}: it would take many times as long as float32"
    if not has_metric and tolerance.max_rel is not None and tolerance.max_rel < LOWEST_REL_FOR_HALF:
        return f"half precision differs by more than {tolerance.max_rel:g} of an output's largest value; --tolerance half"
    return ""


def _int8_precisions(model: nn.Module) -> list[str]:
    """Return the 8-bit precisions that fit the model's operations.

    Matrix products are scaled at run time (dynamic). Convolutions are scaled by ranges from calibration (static).
    """
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
    return kinds


def layouts(variant: Variant, goal: Goal, cores: int) -> list[tuple[int, int]]:
    """Return the layouts to measure, as (lanes, threads per lane). The default layout (one lane, all cores) is first.

    One lane answers a single row, so layouts for latency and memory differ only in the number of threads. The gain from
    lanes for many rows depends on the model: on 2 cores, two lanes of one thread carried 1.3 times as many sentences as one
    lane of two.
    """
    if not variant.candidate().kind.has_lanes or cores == 1:
        return [(1, cores)]
    halvings = [cores >> shift for shift in range(cores.bit_length()) if cores >> shift]
    if goal.kind in ("latency", "memory"):
        return [(1, threads) for threads in halvings]
    return [(1, cores), *((cores // threads, threads) for threads in halvings[1:])]


def simplicity(candidate: Candidate) -> float:
    """Return a rank for candidates that are equally fast; the lowest rank wins.

    Plainer backends come first, then float32, then fewer lanes, then fewer threads.
    """
    return (
        1e6 * PRECISIONS.index(candidate.precision)
        + 1e3 * rank(candidate.backend)
        + candidate.lanes
        + candidate.num_threads / 1000
    )
