"""Padding: whether rows of different lengths may be padded, and with which values, from runs of padded rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nograd.core.module import ModuleCall
from nograd.core.tensors import Signature, TensorSpec
from nograd.probing.dims import Dim
from nograd.probing.pad_values import Padding, candidates, read_padding
from nograd.probing.row_coupling import RowPanel
from nograd.probing.runs import ProbeRuns
from nograd.probing.samples import Tensors, completed, cut, padded, resized

__all__ = ["PaddingLayout", "find_padding"]


@dataclass(frozen=True, slots=True)
class PaddingLayout:
    """Inputs and outputs of a model, and their varying dimensions."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Sequence[Dim]
    uncuttable: Mapping[str, str]
    """Dimension that an output follows in another proportion -> that output."""


def find_padding(
    runs: ProbeRuns, panel: RowPanel, layout: PaddingLayout, samples: Sequence[Tensors], stated: Padding
) -> tuple[Signature, ModuleCall]:
    """Find padding values that leave every answer unchanged, with a generated mask if `forward` takes one.

    Args:
        runs: runs a model whose rows do not influence each other.
        panel: rows to pad, and their answers.
        layout: the specs and the varying dimensions.
        samples: all samples; padded rows in them provide candidate values.
        stated: padding values stated by the user; verified like all others.
    """
    inputs, outputs, dims = layout.inputs, layout.outputs, layout.dims
    for dim, output in layout.uncuttable.items():
        reason = f"output {output!r} follows {dim} in another proportion and could not be cut back"
        return Signature(inputs, outputs, "equal_lengths", reason), runs.call
    answers: dict[tuple[str, str, float | None], RowPanel | None] = {}
    for specs, call in candidates(runs.model, runs.call, panel.rows, inputs, read_padding(samples, inputs), stated):
        mask = specs[-1] if call is not runs.call else None
        key = (mask.name, mask.dtype, mask.default) if mask is not None else ("", "", None)
        if key not in answers:
            answers[key] = panel if mask is None else _with_mask(runs, call, panel, specs)
        own = answers[key]
        if own is not None and _is_harmless(runs, call, own, dims, specs, outputs):
            return Signature(specs, outputs, "pad", f"padding {_describe(specs)} leaves every answer unchanged"), call
    return Signature(inputs, outputs, "equal_lengths", _refusal(dims, inputs, stated)), runs.call


def _describe(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} with {spec.pad_value:g}" for spec in specs if spec.varying)


def _refusal(dims: Sequence[Dim], inputs: Sequence[TensorSpec], stated: Padding) -> str:
    names = " and ".join(dim.name for dim in dims)
    words = ", ".join(f"{spec.name} with {stated[spec.name]:g}" for spec in inputs if spec.varying and spec.name in stated)
    return f"padding {names} changes the answers" + (f", also with the stated values: {words}" if words else "")


def _with_mask(runs: ProbeRuns, call: ModuleCall, panel: RowPanel, specs: Sequence[TensorSpec]) -> RowPanel | None:
    """Return the panel with a generated mask, or None if the mask changes an answer."""
    rows = completed(panel.rows, specs)
    answers = runs.attempt(rows, call)
    if answers is None or not runs.same_rows(panel.answers, answers, panel.scales):
        return None
    return RowPanel(rows, answers, panel.scales)


def _is_harmless(
    runs: ProbeRuns,
    call: ModuleCall,
    panel: RowPanel,
    dims: Sequence[Dim],
    specs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> bool:
    """Pad each dimension by one place and to every size that the model is known to run; then all of them together."""
    check = _Check(runs, call, specs, outputs)
    grown: dict[str, int] = {}
    for dim in dims:
        rows, size, targets = check.shortened(panel, dim)
        if rows is None or not targets:
            return False
        if size + 1 < targets[0] and check.keeps(rows, {dim.name: (size, size + 1)}) is False:
            return False
        if not all(check.keeps(rows, {dim.name: (size, target)}) for target in targets):
            return False
        if size == dim.size:
            grown[dim.name] = targets[0]
    together = {dim.name: (dim.size, grown[dim.name]) for dim in dims if dim.name in grown}
    return len(together) < 2 or check.keeps(panel, together) is True


@dataclass(frozen=True, slots=True)
class _Check:
    runs: ProbeRuns
    call: ModuleCall
    specs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]

    def keeps(self, panel: RowPanel, sizes: Mapping[str, tuple[int, int]]) -> bool | None:
        """Return whether padding from one size to another keeps the answers; None if the model does not run it."""
        rows = panel.rows
        for dim, (_, target) in sizes.items():
            rows = padded(rows, self.specs, dim, target)
        given = self.runs.attempt(rows, self.call)
        if given is None:
            return None
        for dim, (size, _) in sizes.items():
            given = cut(given, self.outputs, dim, size)
        return self.runs.same_rows(panel.answers, given, panel.scales)

    def shortened(self, panel: RowPanel, dim: Dim) -> tuple[RowPanel | None, int, list[int]]:
        """Return rows, their size and the target sizes; the rows are shortened if the model accepts no larger sizes."""
        larger = [size for size in dim.known if size > dim.size]
        if larger:
            return panel, dim.size, sorted({larger[0], larger[-1]})
        size = min(dim.near, max(1, dim.size // 2))
        places = [(spec.name, axis) for spec in self.specs for axis, name in enumerate(spec.shape, start=1) if name == dim.name]
        rows = resized(panel.rows, places, size)
        answers = self.runs.attempt(rows, self.call)
        return (None if answers is None else RowPanel(rows, answers, panel.scales)), size, [dim.size]
