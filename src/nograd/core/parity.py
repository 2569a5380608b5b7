"""Parity: a backend's answers compared with eager's, and the verdict. Pure functions of arrays.

Rows that are numerical noise in eager (`measures.NOISE`), such as zeros, have no direction and no class. Cosine and agreement
exclude them. Their difference is compared with the output's largest value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nograd.core.measures import NOISE, class_agreement, cosines, kind_of, magnitudes, sign_agreement
from nograd.core.tensors import Array, Batch, TensorSpec
from nograd.errors import ConfigError

__all__ = ["EXACT", "HALF", "INT8", "OutputParity", "ParityReport", "Tolerance", "WorstRow", "compare"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits for differences from eager's answers. A limit of None is not checked."""

    min_cosine: float = 0.999
    """Smallest cosine between a row's answer and eager's."""

    max_rel: float | None = None
    """Largest difference, divided by the output's largest absolute value over the whole sample."""

    max_abs: float | None = None
    """Largest difference, in the unit of the output."""

    min_agreement: float | None = None
    """Smallest share of equal classes, signs or elements (see `OutputParity.agreement`); outputs without agreement pass."""

    def __post_init__(self) -> None:
        if not -1 <= self.min_cosine <= 1:
            raise ConfigError(f"min_cosine is {self.min_cosine}; it must be from -1 to 1")
        for name in ("max_rel", "max_abs"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}; it must be 0 or more")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise ConfigError(f"min_agreement is {self.min_agreement}; it must be from 0 to 1")


EXACT = Tolerance(min_cosine=0.9999, max_rel=1e-3)
"""For float32 with another order of operations: exports have cosines of 1 - 1e-7."""

HALF = Tolerance(min_cosine=0.999, max_rel=5e-2)
"""For float16 and bfloat16: MiniLM in bfloat16 has .99995."""

INT8 = Tolerance(min_cosine=0.98)
"""For 8-bit integers: good recipes have .982 to .996, bad ones .33 to .94."""


@dataclass(frozen=True, slots=True)
class OutputParity:
    """The comparison of one output over all rows."""

    name: str
    max_abs: float
    max_rel: float
    """`max_abs` divided by eager's largest absolute value. If eager's values are all zero: 0 for differences up to 1e-6,
    otherwise infinite.
    """

    min_cosine: float
    """Over rows above numerical noise in eager; 1 if there are none."""

    mean_cosine: float
    agreement: float | None
    """For floating `[rows, classes]`: share of rows whose largest value has the same position (ties are equal); for an output
    named `logits` of `[rows, tokens, classes]`: share of tokens. For floating `[rows, tokens]` of varying length: share of
    elements with the same sign, if eager has both signs. For integers and booleans: share of equal elements. Otherwise None.
    """

    num_nonfinite: int
    """Number of elements that are NaN or infinite on one side and differ on the other."""

    row_size: int
    """Elements per row in the largest run."""

    num_noise_rows: int = 0
    """Number of rows that are numerical noise in eager; they are excluded from cosine and floating-point agreement."""

    noise_rel: float = 0.0
    """Largest difference in noise rows, divided by eager's largest absolute value (see `max_rel`)."""


@dataclass(frozen=True, slots=True)
class WorstRow:
    """A row with a large difference."""

    row: int
    """Position in the sample, counted over all runs."""

    output: str
    max_abs: float
    cosine: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The comparison of all outputs, and the verdict."""

    outputs: tuple[OutputParity, ...]
    rows: int
    tolerance: Tolerance
    failures: tuple[str, ...] = ()
    """Violations of the tolerance, one sentence each; empty if the comparison passed."""

    worst: tuple[WorstRow, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """True if there were no failures."""
        return not self.failures

    @property
    def min_cosine(self) -> float:
        """Smallest cosine of any row of any output."""
        return min((output.min_cosine for output in self.outputs), default=math.nan)

    @property
    def max_abs(self) -> float:
        """Largest difference of any output."""
        return max((output.max_abs for output in self.outputs), default=math.nan)

    @property
    def max_rel(self) -> float:
        """Largest relative difference of any output."""
        return max((output.max_rel for output in self.outputs), default=math.nan)

    @property
    def agreement(self) -> float | None:
        """Minimum agreement of all outputs with an agreement."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; NaN and infinities become strings."""
        plain: dict[str, Any] = _plain({**asdict(self), "passed": self.passed})
        return plain

    def __str__(self) -> str:
        head = ("output", "cosine min", "mean", "max abs", "max rel", "agreement")
        rows = [head, *(_line(output) for output in self.outputs)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [
            f"{'passed' if self.passed else 'FAILED'} over {self.rows} rows",
            *(f"  {failure}" for failure in self.failures),
        ]
        if self.worst and not self.passed:
            lines.append("worst rows: " + ", ".join(f"{w.row} ({w.output}, cosine {w.cosine:.4f})" for w in self.worst))
        return "\n".join(lines)


def _line(output: OutputParity) -> tuple[str, ...]:
    agreement = "-" if output.agreement is None else f"{output.agreement:.2%}"
    return (
        output.name, f"{output.min_cosine:.7f}", f"{output.mean_cosine:.7f}", f"{output.max_abs:.2e}", f"{output.max_rel:.2e}",
        agreement,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    expected: Sequence[Batch],
    given: Sequence[Batch],
    *,
    tolerance: Tolerance = EXACT,
    num_worst: int = 5,
    outputs: Sequence[TensorSpec] = (),
) -> ParityReport:
    """Compare answers with expected answers.

    Missing outputs, other shapes, other kinds of numbers and NaN on one side fail at any tolerance.

    Args:
        expected: eager's outputs by name for each run, `[rows, ...]`; runs may differ in rows and lengths.
        given: outputs to compare, for the same inputs.
        tolerance: limits for the verdict.
        num_worst: number of rows to list, worst first.
        outputs: specs of the outputs, which mark varying row shapes. Without them, varying shapes are inferred from the runs.

    Raises:
        ConfigError: there are no runs.
    """
    if not expected:
        raise ConfigError("there are no answers to compare; give at least one run")
    failures = [] if len(expected) == len(given) else [f"{len(given)} runs were given, {len(expected)} expected"]
    varying = {spec.name for spec in outputs if spec.varying}
    tallies: dict[str, _Tally] = {}
    first_row = 0
    for ours, theirs in zip(expected, given, strict=False):
        failures += [f"output {name!r} is not expected" for name in theirs if name not in ours]
        for name, array in ours.items():
            if fault := _misfit(name, array, theirs.get(name)):
                failures.append(fault)
            else:
                tallies.setdefault(name, _Tally(name, varies=name in varying)).add(array, theirs[name], first_row)
        first_row += max(map(len, ours.values()), default=0)
    found = tuple(tally.result() for tally in tallies.values())
    failures += [failure for output in found for failure in _failures(output, tolerance)]
    if not found:
        failures.append("no output could be compared")
    rows = sorted(
        (row for tally in tallies.values() for row in tally.worst(num_worst)), key=lambda row: (row.cosine, -row.max_abs)
    )
    return ParityReport(found, first_row, tolerance, tuple(dict.fromkeys(failures)), tuple(rows[:num_worst]))


def _misfit(name: str, expected: Array, given: Array | None) -> str:
    if given is None:
        return f"output {name!r} is missing"
    if expected.shape != given.shape:
        return f"output {name!r} is {list(given.shape)}, expected {list(expected.shape)}"
    if kind_of(expected) != kind_of(given):
        return f"output {name!r} is {given.dtype.name}, expected {expected.dtype.name}"
    return ""


class _Tally:
    """Running statistics of one output: a few numbers per row.

    Args:
        name: name of the output.
        varies: whether the row shape is known to vary.
    """

    def __init__(self, name: str, *, varies: bool) -> None:
        self._name = name
        self._varies = varies
        self._is_float = True
        self._shapes: set[tuple[int, ...]] = set()
        self._largest = self._scale = 0.0
        self._cosines: list[Array] = []
        self._differences: list[Array] = []
        self._magnitudes: list[Array] = []
        self._rows: list[Array] = []
        self._classes: list[Array] = []
        self._signs: list[tuple[Array, Array, bool]] = []
        self._same = self._compared = self._nonfinite = self._row_size = 0

    def add(self, expected: Array, given: Array, first_row: int) -> None:
        self._is_float = kind_of(expected) == "float"
        self._shapes.add(expected.shape[1:])
        a, b = (array.reshape(len(array), -1).astype(np.complex128 if array.dtype.kind == "c" else np.float64)
                for array in (expected, given))  # fmt: skip
        agree = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        self._nonfinite += int((~finite & ~agree).sum())
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        self._count(expected, given, a, b)
        difference = np.abs(a - b)
        self._differences.append(difference.max(1, initial=0))
        self._magnitudes.append(magnitudes(a))
        self._cosines.append(np.where(difference.any(1), cosines(a, b), 1.0))
        self._rows.append(np.arange(first_row, first_row + len(a)))
        self._scale = max(self._scale, float(self._magnitudes[-1].max(initial=0)))
        self._row_size = max(self._row_size, a.shape[1])

    def _count(self, expected: Array, given: Array, a: Array, b: Array) -> None:
        """Count equal classes and signs. The last run shows which of them applies to the output."""
        if not self._is_float:
            self._same += int((expected == given).sum())
            self._compared += expected.size
        elif expected.ndim in (2, 3) and all(expected.shape[1:]):
            self._classes.append(class_agreement(expected, given))
            self._signs.append(sign_agreement(a, b))

    def result(self) -> OutputParity:
        judged, noise = self._judged_cosines(), self._noise()
        cosines = judged[~noise] if self._row_size != 1 else judged
        differences = self._relative()
        return OutputParity(
            self._name, float(np.concatenate(self._differences).max(initial=0)), float(differences.max(initial=0)),
            float(cosines.min(initial=1)), float(cosines.mean()) if cosines.size else 1.0, self._agreement(noise),
            self._nonfinite, self._row_size, int(noise.sum()), float(differences[noise].max(initial=0)),
        )  # fmt: skip

    def _noise(self) -> Array:
        """Return a mask of the rows that are numerical noise in eager."""
        found: Array = np.concatenate(self._magnitudes) <= NOISE * self._scale
        return found & self._is_float

    def _relative(self) -> Array:
        """Return the largest difference of each row, divided by the output's largest value."""
        differences = np.concatenate(self._differences)
        if self._scale:
            with np.errstate(over="ignore"):
                return differences / self._scale
        return np.where(differences > (NOISE if self._is_float else 0), math.inf, 0.0)

    def _judged_cosines(self) -> Array:
        """Return cosines, with substitutes for rows of one number and noise rows, which have no direction.

        The cosine of a single number is 1, or -1 after any change of sign. A small angle e has the cosine 1 - e^2/2; the
        equivalent for a single number is a difference of e times the output's largest value.
        """
        relative = np.maximum(-1.0, 1 - np.minimum(self._relative(), 2.0) ** 2 / 2)
        if self._row_size == 1:
            return relative
        return np.where(self._noise(), relative, np.concatenate(self._cosines))

    def _agreement(self, noise: Array) -> float | None:
        if not self._is_float:
            return self._same / self._compared if self._compared else None
        ranks = {len(shape) for shape in self._shapes}
        if not self._classes or len(ranks) != 1 or len(self._classes) != len(self._cosines):
            return None
        is_fixed = len(self._shapes) == 1 and not self._varies
        sizes = {shape[-1] for shape in self._shapes}
        if is_fixed and sizes == {1}:
            return None
        if is_fixed if ranks == {1} else self._name == "logits" and len(sizes) == 1:
            shares = np.concatenate(self._classes)[~noise]
            return float(shares.mean()) if shares.size else None
        return self._sign_agreement(noise) if ranks == {1} else None

    def _sign_agreement(self, noise: Array) -> float | None:
        same, counted = (np.concatenate(parts)[~noise] for parts in zip(*(run[:2] for run in self._signs), strict=True))
        has_both = any(run[2] for run in self._signs)
        return float(same.sum() / counted.sum()) if has_both and counted.sum() else None

    def worst(self, count: int) -> Iterable[WorstRow]:
        differences, rows = np.concatenate(self._differences), np.concatenate(self._rows)
        cosines = self._judged_cosines()
        order = np.lexsort((-differences, cosines))[:count]
        return [WorstRow(int(rows[i]), self._name, float(differences[i]), float(cosines[i])) for i in order if differences[i]]


def _failures(output: OutputParity, tolerance: Tolerance) -> list[str]:
    name, found = output.name, []
    if output.num_nonfinite:
        found.append(f"output {name!r} is NaN or infinite in {output.num_nonfinite} places where eager is not, or the reverse")
    allowed = max(NOISE, math.sqrt(2 * (1 - tolerance.min_cosine)))  # see `_judged_cosines`
    if not output.min_cosine >= tolerance.min_cosine:
        said = f"has a row with cosine {output.min_cosine:.6f}; {tolerance.min_cosine:g} is required"
        if output.row_size == 1:
            said = f"differs by {output.max_rel:.2e} of its largest value; {allowed:.2e} is allowed"
        found.append(f"output {name!r} {said}")
    elif output.row_size != 1 and tolerance.min_cosine > -1 and output.noise_rel > allowed:
        found.append(
            f"output {name!r} differs by {output.noise_rel:.2e} of its largest value in a row that is about zero in eager; "
            f"{allowed:.2e} is allowed"
        )
    if tolerance.max_rel is not None and not output.max_rel <= tolerance.max_rel:
        found.append(
            f"output {name!r} differs by {output.max_rel:.2e} of its largest value; {tolerance.max_rel:.2e} is allowed"
        )
    if tolerance.max_abs is not None and not output.max_abs <= tolerance.max_abs:
        found.append(f"output {name!r} differs by {output.max_abs:.2e}; {tolerance.max_abs:g} is allowed")
    if tolerance.min_agreement is not None and output.agreement is not None and not output.agreement >= tolerance.min_agreement:
        found.append(f"output {name!r} agrees in {output.agreement:.2%}; {tolerance.min_agreement:.2%} is required")
    return found
