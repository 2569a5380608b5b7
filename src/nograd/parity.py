"""Parity: the answers of a backend compared with eager's, and the verdict. Pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nograd.errors import ConfigError
from nograd.tensors import Array, Batch

__all__ = ["EXACT", "HALF", "INT8", "OutputParity", "ParityReport", "Tolerance", "WorstRow", "compare"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far answers may be from eager's. A limit that is None is not looked at."""

    min_cosine: float = 0.999
    """Smallest cosine between a row's answer and eager's."""

    max_rel: float | None = None
    """Largest difference, divided by the largest absolute value of that output over the whole sample."""

    max_abs: float | None = None
    """Largest difference, in the output's own unit."""

    min_agreement: float | None = None
    """Smallest share of rows with the same class (see `OutputParity.agreement`)."""

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
"""For float32 in another order of operations: exports show cosines of 1 - 1e-7."""

HALF = Tolerance(min_cosine=0.999, max_rel=5e-2)
"""For float16 and bfloat16: MiniLM in bfloat16 shows .99995."""

INT8 = Tolerance(min_cosine=0.98)
"""For 8-bit integers: good recipes show .982 to .996, bad ones .33 to .94."""


@dataclass(frozen=True, slots=True)
class OutputParity:
    """One output compared, over all rows."""

    name: str
    max_abs: float
    max_rel: float
    """`max_abs` divided by the largest absolute value that eager gave; infinite where eager gave only zeros."""

    min_cosine: float
    mean_cosine: float
    agreement: float | None
    """Floating `[rows, classes]`: share of rows whose largest value stands at the same place (ties count as the same).
    Integers and booleans: share of equal elements. Else None."""

    num_nonfinite: int
    """Elements that are NaN or infinite on one side, and not the same on the other."""

    row_size: int
    """Elements of one row, in the largest run."""


@dataclass(frozen=True, slots=True)
class WorstRow:
    """A row that is far off."""

    row: int
    """Its position in the sample, counted over all runs."""

    output: str
    max_abs: float
    cosine: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All outputs compared, and the verdict."""

    outputs: tuple[OutputParity, ...]
    rows: int
    tolerance: Tolerance
    failures: tuple[str, ...] = ()
    """What is outside of the tolerance, one sentence each; empty: it passed."""

    worst: tuple[WorstRow, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """True where nothing failed."""
        return not self.failures

    @property
    def min_cosine(self) -> float:
        """The smallest cosine of any row of any output."""
        return min((output.min_cosine for output in self.outputs), default=math.nan)

    @property
    def max_abs(self) -> float:
        """The largest difference in any output."""
        return max((output.max_abs for output in self.outputs), default=math.nan)

    @property
    def max_rel(self) -> float:
        """The largest relative difference in any output."""
        return max((output.max_rel for output in self.outputs), default=math.nan)

    @property
    def agreement(self) -> float | None:
        """The smallest agreement of any output that has one."""
        return min((output.agreement for output in self.outputs if output.agreement is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists; NaN and infinities, which JSON lacks, as strings."""
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
    expected: Sequence[Batch], given: Sequence[Batch], *, tolerance: Tolerance = EXACT, num_worst: int = 5
) -> ParityReport:
    """Return how far answers are from those expected.

    A missing output, another shape, another kind of number, or a NaN that only one side has, fails whatever the tolerance.

    Args:
        expected: eager's outputs by name, each `[rows, ...]`, run by run; runs may differ in rows and lengths.
        given: the other's, for the same inputs.
        tolerance: what is allowed.
        num_worst: rows to list, worst first.

    Raises:
        ConfigError: there is no run to compare.
    """
    if not expected:
        raise ConfigError("there are no answers to compare; give one run at least")
    failures = [] if len(expected) == len(given) else [f"{len(given)} runs were given, {len(expected)} expected"]
    tallies: dict[str, _Tally] = {}
    first_row = 0
    for ours, theirs in zip(expected, given, strict=False):
        failures += [f"output {name!r} is not expected" for name in theirs if name not in ours]
        for name, array in ours.items():
            if fault := _misfit(name, array, theirs.get(name)):
                failures.append(fault)
            else:
                tallies.setdefault(name, _Tally(name)).add(array, theirs[name], first_row)
        first_row += max(map(len, ours.values()), default=0)
    outputs = tuple(tally.result() for tally in tallies.values())
    failures += [failure for output in outputs for failure in _failures(output, tolerance)]
    if not outputs:
        failures.append("no output could be compared")
    rows = sorted(
        (row for tally in tallies.values() for row in tally.worst(num_worst)), key=lambda row: (row.cosine, -row.max_abs)
    )
    return ParityReport(outputs, first_row, tolerance, tuple(dict.fromkeys(failures)), tuple(rows[:num_worst]))


def _misfit(name: str, expected: Array, given: Array | None) -> str:
    if given is None:
        return f"output {name!r} is missing"
    if expected.shape != given.shape:
        return f"output {name!r} is {list(given.shape)}, expected {list(expected.shape)}"
    if _kind(expected) != _kind(given):
        return f"output {name!r} is {given.dtype.name}, expected {expected.dtype.name}"
    return ""


def _kind(array: Array) -> str:
    return "float" if "float" in array.dtype.name else array.dtype.kind.replace("u", "i")


class _Tally:
    """One output's sums, run by run: nothing is kept but a number or two for each row."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._largest = self._scale = 0.0
        self._cosines: list[Array] = []
        self._differences: list[Array] = []
        self._rows: list[Array] = []
        self._same = self._compared = self._nonfinite = self._row_size = 0

    def add(self, expected: Array, given: Array, first_row: int) -> None:
        is_float = _kind(expected) == "float"
        if not is_float:
            self._count(expected == given)
        elif expected.ndim == 2 and expected.shape[1] > 1:
            places = given.argmax(1)[:, None]
            self._count(np.take_along_axis(expected, places, 1)[:, 0] == expected.max(1))
        a, b = (array.reshape(len(array), -1).astype(np.complex128 if array.dtype.kind == "c" else np.float64)
                for array in (expected, given))  # fmt: skip
        agree = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        self._nonfinite += int((~finite & ~agree).sum())
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
        difference = np.abs(a - b)
        self._differences.append(difference.max(1, initial=0))
        self._cosines.append(np.where(difference.any(1), _cosines(a, b), 1.0))
        self._rows.append(np.arange(first_row, first_row + len(a)))
        self._scale = max(self._scale, float(np.abs(a).max(initial=0)))
        self._row_size = max(self._row_size, a.shape[1])

    def _count(self, same: Array) -> None:
        self._same += int(same.sum())
        self._compared += same.size

    def result(self) -> OutputParity:
        cosines, largest = self._final_cosines(), float(np.concatenate(self._differences).max(initial=0))
        rel = largest / self._scale if self._scale else (math.inf if largest else 0.0)
        agreement = self._same / self._compared if self._compared else None
        return OutputParity(
            self._name, largest, rel, float(cosines.min(initial=1)), float(cosines.mean()) if cosines.size else 1.0, agreement,
            self._nonfinite, self._row_size,
        )  # fmt: skip

    def _final_cosines(self) -> Array:
        """One number has no direction: its cosine is 1, or -1 where a zero was crossed by however little. A small angle e has
        the cosine 1 - e^2/2; the same closeness, for one number, is a difference of e times the output's largest value.
        """
        if self._row_size != 1:
            return np.concatenate(self._cosines)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.concatenate(self._differences) / self._scale
        return np.maximum(-1.0, 1 - np.nan_to_num(relative, posinf=2.0) ** 2 / 2)

    def worst(self, count: int) -> Iterable[WorstRow]:
        differences, rows = np.concatenate(self._differences), np.concatenate(self._rows)
        cosines = self._final_cosines()
        order = np.lexsort((-differences, cosines))[:count]
        return [WorstRow(int(rows[i]), self._name, float(differences[i]), float(cosines[i])) for i in order if differences[i]]


def _cosines(a: Array, b: Array) -> Array:
    """Return the cosine of each pair of rows, scaled so that nothing overflows; 1 where both are zero, 0 where one is."""
    a_scale, b_scale = (np.abs(x).max(1, initial=0, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = a / a_scale, b / b_scale
        found = (a * b.conj()).sum(1).real / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    zero = (a_scale[:, 0] == 0).astype(int) + (b_scale[:, 0] == 0)
    cosines: Array = np.where(zero == 2, 1.0, np.where(zero == 1, 0.0, np.clip(found, -1, 1)))
    return cosines


def _failures(output: OutputParity, tolerance: Tolerance) -> list[str]:
    name, found = output.name, []
    if output.num_nonfinite:
        found.append(f"output {name!r} is NaN or infinite in {output.num_nonfinite} places where eager is not, or the reverse")
    if not output.min_cosine >= tolerance.min_cosine:
        said = f"has a row with cosine {output.min_cosine:.6f}; {tolerance.min_cosine:g} is required"
        if output.row_size == 1:  # see `_final_cosines`
            allowed = math.sqrt(2 * (1 - tolerance.min_cosine))
            said = f"differs by {output.max_rel:.2e} of its largest value; {allowed:.2e} is allowed"
        found.append(f"output {name!r} {said}")
    if tolerance.max_rel is not None and not output.max_rel <= tolerance.max_rel:
        found.append(
            f"output {name!r} differs by {output.max_rel:.2e} of its largest value; {tolerance.max_rel:.2e} is allowed"
        )
    if tolerance.max_abs is not None and not output.max_abs <= tolerance.max_abs:
        found.append(f"output {name!r} differs by {output.max_abs:.2e}; {tolerance.max_abs:g} is allowed")
    if tolerance.min_agreement is not None and output.agreement is not None and not output.agreement >= tolerance.min_agreement:
        found.append(f"output {name!r} agrees in {output.agreement:.2%}; {tolerance.min_agreement:.2%} is required")
    return found
