"""Learn a model's Signature by running it, and find out how its rows may be batched.

Nothing is believed that was not run. From one or a few sample inputs the probe finds which dimensions vary (it runs
shorter and longer inputs), which outputs follow them, and whether a row's answer depends on its neighbours, on padding or on
earlier calls. The model is left as it was: modes, buffers, attributes and torch's random state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nograd.errors import SignatureError
from nograd.module import Call, to_tensors
from nograd.probing.dims import find_dims, input_specs, output_specs
from nograd.probing.limits import within_limits
from nograd.probing.padding import find_padding
from nograd.probing.runs import Runs, undisturbed
from nograd.probing.samples import Tensors, check_rows, completed, first_rows, neighbourhoods, only_row, with_rows
from nograd.structure import Restore
from nograd.tensors import Signature

__all__ = ["Probed", "probe"]

ENOUGH_ROWS = 8
"""A sample's first rows are all that is probed with, unless the model takes its whole batch only: some twenty runs follow."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found."""

    signature: Signature
    call: Call
    restore: Restore
    """Puts outputs by name back into the model's own structure."""

    findings: tuple[str, ...] = ()
    """What limits batching, one sentence each; empty for a model whose rows batch freely."""

    samples: tuple[Tensors, ...] = ()
    """What it was probed with, by name, on the model's device; at most 8 rows each, 2 at least in the first."""


def probe(model: nn.Module, *samples: Any) -> Probed:
    """Learn how `model` is called, what it takes and gives, and how its rows may be batched.

    Args:
        model: any module whose inputs share dimension 0, the row.
        samples: one or more inputs the model can run: a tensor or array `[rows, ...]`, a tuple of them in the order
            of `forward`, or a dict by name. Two samples of different lengths are surer than one.

    Returns:
        The signature, the way to call the model, its output structure, and what limits batching.

    Raises:
        SignatureError: the model cannot run a sample, or an output does not have the row as its dimension 0.
    """
    if not samples:
        raise SignatureError("no sample was given; the probe needs at least one input that the model can run")
    call = Call.learn(model, samples[0])
    tensors = [to_tensors(sample, call, model) for sample in samples]
    for sample in tensors:
        check_rows(sample)
    with undisturbed(model):
        return _probed(Runs(model, call), tensors)


def _probed(runs: Runs, samples: list[Tensors]) -> Probed:
    for sample in samples:
        runs.outputs(sample)
    sample = with_rows(samples[0], 2)
    few = first_rows(sample, ENOUGH_ROWS)
    sample = sample if runs.attempt(few) is None else few
    base = runs.outputs(sample)
    restore = runs.restore
    dims = find_dims(runs, sample, samples)
    inputs = within_limits(runs, sample, input_specs(sample, dims))
    outputs, uncuttable = output_specs(runs, sample, base, dims)
    state = _nothing_to_compare(base) or _state(runs, sample, base)
    if limit := state or _row_coupling(runs, sample, base):
        signature, call = Signature(inputs, outputs, "alone", limit, repeatable=not state), runs.call
    elif not dims:
        reason = "rows do not influence each other; all inputs have one fixed shape"
        signature, call = Signature(inputs, outputs, "pad", reason), runs.call
    else:
        signature, call = find_padding(runs, sample, base, dims, inputs, outputs, uncuttable)
    sizes = {dim.name: dim.max_size for dim in dims if dim.max_size is not None}
    findings = () if signature.batching == "pad" else (signature.reason,)
    call = replace(call, copies=_shares_memory(runs, sample))
    kept = tuple(completed(each, signature.inputs) for each in (sample, *(first_rows(s, ENOUGH_ROWS) for s in samples[1:])))
    return Probed(replace(signature, max_sizes=sizes), call, restore, findings, kept)


def _nothing_to_compare(base: Tensors) -> str:
    """NaN equals NaN whatever was done to the input: such an answer proves nothing."""
    for name, leaf in base.items():
        if leaf.is_floating_point() and leaf.numel() and not leaf.isfinite().any():
            return f"output {name!r} holds no finite number for the sample, so that nothing could be compared"
    return ""


def _state(runs: Runs, sample: Tensors, base: Tensors) -> str:
    """Run the sample twice more; returns what was found, or nothing."""
    if all(runs.same(base, runs.attempt(sample)) for _ in range(2)):
        return ""
    return "the same input gave two different answers: the model keeps state between calls, or draws random numbers"


def _row_coupling(runs: Runs, sample: Tensors, base: Tensors) -> str:
    """Compare the first and the last row with themselves alone, and among changed neighbours; returns what was found."""
    for row in (0, len(next(iter(sample.values()))) - 1):
        own = only_row(base, row)
        try:
            alone = runs.outputs(only_row(sample, row))
        except SignatureError as error:
            return f"one row alone does not run: {error}"
        among_others = next(filter(None, map(runs.attempt, neighbourhoods(sample, row))), base)
        if not runs.same(own, alone) or not runs.same(own, only_row(among_others, row)):
            return "a row's answer depends on the other rows of its batch"
    return ""


def _shares_memory(runs: Runs, sample: Tensors) -> bool:
    """Whether the model writes to its inputs, or answers with memory that is not the answer's alone: then all is copied."""
    bare = Runs(runs.model, replace(runs.call, copies=False))
    first, second = ({name: tensor.clone() for name, tensor in sample.items()} for _ in range(2))
    answers = bare.attempt(first), bare.attempt(second)
    if answers[0] is None or answers[1] is None or any(not torch.equal(first[name], sample[name]) for name in sample):
        return True
    owned = _memory((*first.values(), *answers[1].values(), *runs.model.parameters(), *runs.model.buffers()))
    return not owned.isdisjoint(_memory(answers[0].values()))


def _memory(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.layout is torch.strided}
