"""Shared memory: check for inputs that the model writes to, and answers that a later call overwrites. Part of the family
`batching`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nograd.checks.subject import TorchSubject
from nograd.report.verdict import Check, Verdict, passed, warning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKS"]


def check_inputs(subject: TorchSubject) -> Verdict:
    """Call the module, and compare its inputs with a copy."""
    import torch

    from nograd.probing.runs import undisturbed

    given = {name: tensor.clone() for name, tensor in subject.sample.items()}
    with undisturbed(subject.module):
        _bare(subject, given)
    written = [name for name, tensor in given.items() if not torch.equal(tensor, subject.sample[name])]
    if written:
        return warning(
            f"forward writes to its input {', '.join(map(repr, written))}, which is the caller's; nograd copies it before each "
            "run, which takes time",
            inputs=float(len(written)),
        )
    return passed("a call does not change its inputs")


def check_answers(subject: TorchSubject) -> Verdict:
    """Call the module twice on different rows, and check that the first answer is unchanged."""
    import torch

    from nograd.probing.runs import undisturbed

    with undisturbed(subject.module):
        answer = _bare(subject, {name: tensor.clone() for name, tensor in subject.sample.items()})
        before = {name: tensor.clone() for name, tensor in answer.items()}
        _bare(subject, {name: tensor.flip(0) for name, tensor in subject.sample.items()})
        lost = [name for name, tensor in answer.items() if not torch.allclose(tensor, before[name], 0, 0, equal_nan=True)]
    if lost:
        return warning(
            f"output {', '.join(map(repr, lost))} is in memory that the next call overwrites; nograd copies it after each "
            "run, which takes time",
            outputs=float(len(lost)),
        )
    return passed("a later call does not change an answer")


def _bare(subject: TorchSubject, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the module's own answer to the given tensors, without copies."""
    from nograd.core.inputs import is_tensor
    from nograd.core.structure import flatten

    leaves, _ = flatten(replace(subject.backend.call, copies=False)(subject.module, given), is_tensor)
    return leaves


CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "batching.inputs", "The model does not change its inputs", "compared the inputs before and after a call",
        check_inputs, "x = x + 1 instead of x += 1; nn.ReLU(inplace=False) as the first layer", "warning",
    ),
    Check(
        "batching.answers", "Answers are not overwritten", "compared an answer before and after the next call",
        check_answers, "return answer.clone() instead of a reused buffer", "warning",
    ),
)  # fmt: skip
