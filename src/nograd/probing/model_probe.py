"""The probe: learns a model's Signature by running it, and how its rows may be batched.

All findings come from runs. From one or a few samples, the probe finds which dimensions vary (it runs shorter and longer
inputs), which output dimensions follow them, and whether a row's answer depends on other rows, on padding or on earlier calls.
The model's modes, buffers and attributes and torch's random state are restored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nograd.core.independence import Independence
from nograd.core.module import ModuleCall, to_tensors
from nograd.core.structure import Restore
from nograd.core.tensors import Signature
from nograd.errors import SignatureError
from nograd.probing.dims import find_dims, input_specs, output_specs
from nograd.probing.limits import within_limits
from nograd.probing.pad_values import Padding, check_stated, model_pads, stated_ids
from nograd.probing.padding import PaddingLayout, find_padding
from nograd.probing.row_coupling import RowFindings, compare_rows
from nograd.probing.runs import ProbeRuns, undisturbed
from nograd.probing.samples import Tensors, check_rows, completed, first_rows, with_rows
from nograd.probing.sizes import SizeLimits, find_size_limits
from nograd.probing.trials import inputs_of
from nograd.probing.unknown import SampleWarning, what_is_unknown

__all__ = ["ProbeResult", "probe"]

ENOUGH_ROWS = 8
"""Maximum rows of a sample for probing, unless the model accepts only its whole batch: about twenty runs follow."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The findings of the probe."""

    signature: Signature
    call: ModuleCall
    restore: Restore
    """Restores the model's output structure from outputs by name."""

    findings: tuple[str, ...] = ()
    """Limits of batching, one sentence each; empty for a model whose rows batch freely."""

    independence: Independence | None = None
    """How far rows influence each other, from the probe's runs; None if rows could not be compared."""

    samples: tuple[Tensors, ...] = ()
    """The probed samples by name, on the model's device; at most 8 rows each, at least 2 in the first."""


def probe(model: nn.Module, *samples: Any, padding: Mapping[str, float] | None = None) -> ProbeResult:
    """Learn how a model is called, its inputs and outputs, and how its rows may be batched.

    The probe runs the samples, and rows with other values of the same kind: random, small and large numbers, random ids, other
    masks. Its findings therefore do not depend on the sample's values, if the model runs other values. If it does not, and the
    sample is constant or a single row, a `SampleWarning` says what is unknown.

    Args:
        model: a module whose inputs share dimension 0, the row.
        samples: one or more inputs that the model can run: a tensor or array `[rows, ...]`, a tuple of them in the order of
            `forward`, or a dict by name. Two samples of different lengths are more reliable than one.
        padding: values that pad a shorter row, by input, such as `{"word_id": 250001, "pad_mask": True}`. They are verified
            like values that the probe finds. Default: values of padded rows in the samples, then the model's padding index, 0
            and 1.

    Returns:
        The signature, the call, the output structure, and the limits of batching.

    Raises:
        SignatureError: the model cannot run a sample, dimension 0 of an output is not the row, or `padding` contains an unknown
            input or a value that the input cannot have.
    """
    if not samples:
        raise SignatureError("no sample was given; the probe needs at least one input that the model can run")
    call = ModuleCall.learn(model, samples[0])
    tensors = [to_tensors(sample, call, model) for sample in samples]
    for sample in tensors:
        check_rows(sample)
    with undisturbed(model):
        probed, unknown = _probed(ProbeRuns(model, call), tensors, padding or {})
    if unknown:
        warnings.warn(unknown, SampleWarning, stacklevel=2)
    return probed


def _probed(runs: ProbeRuns, samples: list[Tensors], stated: Padding) -> tuple[ProbeResult, str]:
    """Return the findings, and a sentence about unknown properties."""
    ran = [(sample, runs.outputs(sample)) for sample in samples]
    shortest = min(range(len(ran)), key=lambda index: _row_size(samples[index]))
    sample, base = _few_rows(runs, *ran[shortest])
    restore = runs.restore
    dims = find_dims(runs, sample, samples)
    inputs = within_limits(runs, sample, input_specs(sample, dims))
    check_stated(stated, inputs)
    outputs, uncuttable = output_specs(base, dims, ran)
    values = inputs_of(sample, samples, inputs, (*model_pads(runs.model), *stated_ids(stated)))
    copies, state = _repeat(runs, sample, base)
    rows = RowFindings(state) if state else compare_rows(runs, sample, base, values)
    if rows.panel is None or rows.limit:
        signature, call = Signature(inputs, outputs, "alone", rows.limit, repeatable=not state), runs.call
    elif not dims:
        reason = "rows do not influence each other; all inputs have one fixed shape"
        signature, call = Signature(inputs, outputs, "pad", reason), runs.call
    else:
        signature, call = find_padding(runs, rows.panel, PaddingLayout(inputs, outputs, dims, uncuttable), samples, stated)
    sizes = SizeLimits({}, {}, {}) if state else find_size_limits(runs, sample, samples, dims)
    findings = () if signature.batching == "pad" else (signature.reason,)
    call = replace(call, copies=copies)
    kept = [first_rows(with_rows(each, 1 if index else 2), ENOUGH_ROWS) for index, each in enumerate(samples)]
    kept[shortest] = sample
    signature = replace(signature, max_sizes=sizes.largest, min_sizes=sizes.smallest, tried_sizes=sizes.tried)
    completed_samples = tuple(completed(each, signature.inputs) for each in kept)
    probed = ProbeResult(signature, call, restore, findings, rows.independence, completed_samples)
    count = sum(len(next(iter(each.values()))) for each in samples)
    return probed, "" if rows.limit else what_is_unknown(values, rows.varied, count, stated)


def _row_size(sample: Tensors) -> int:
    return sum(tensor[0].numel() for tensor in sample.values())


def _few_rows(runs: ProbeRuns, sample: Tensors, answers: Tensors) -> tuple[Tensors, Tensors]:
    """Return two to eight rows and their answers; more if the model accepts only its whole batch."""
    rows = len(next(iter(sample.values())))
    if 2 <= rows <= ENOUGH_ROWS:
        return sample, answers
    few = first_rows(with_rows(sample, 2), ENOUGH_ROWS)
    if (found := runs.attempt(few)) is not None:
        return few, found
    if rows > 1:
        return sample, answers
    repeated = {name: torch.cat([tensor, tensor]) for name, tensor in sample.items()}
    return repeated, runs.outputs(repeated)


def _repeat(runs: ProbeRuns, sample: Tensors, base: Tensors) -> tuple[bool, str]:
    """Run the sample twice without copies. Return whether the model needs copies, and a finding about its state.

    A model needs copies if it writes to its inputs, or returns memory that it shares with inputs, parameters or later outputs.
    """
    bare = ProbeRuns(runs.model, replace(runs.call, copies=False))
    first, second = ({name: tensor.clone() for name, tensor in sample.items()} for _ in range(2))
    earlier = bare.attempt(first)
    is_same = runs.same(base, earlier)
    later = bare.attempt(second)
    if not (is_same and runs.same(base, later)) and not all(runs.same(base, runs.attempt(sample)) for _ in range(2)):
        return True, "the same input gave two different answers: the model keeps state between calls, or draws random numbers"
    if earlier is None or later is None or any(not torch.equal(first[name], sample[name]) for name in sample):
        return True, ""
    owned = _memory((*first.values(), *later.values(), *runs.model.parameters(), *runs.model.buffers()))
    return not owned.isdisjoint(_memory(earlier.values())), ""


def _memory(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.layout is torch.strided}
