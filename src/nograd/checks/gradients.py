"""Gradients: check for memory and time that only training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nograd.checks.resources import format_bytes
from nograd.checks.subject import TorchSubject
from nograd.report.verdict import Check, Verdict, info, passed, warning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKS"]


def check_graph(subject: TorchSubject) -> Verdict:
    """Call the module without nograd, as a script would, and count the bytes that are saved for a backward pass."""
    requires = [name for name, parameter in subject.module.named_parameters() if parameter.requires_grad]
    if not requires:
        return passed("no parameter requires a gradient")
    kept = _graph_bytes(subject)
    rows = len(next(iter(subject.sample.values())))
    return info(
        f"{len(requires)} parameters require gradients: a call without nograd stores {format_bytes(kept)} of activations for a "
        f"backward pass of {rows} rows (nograd never records)",
        parameters=float(len(requires)), graph_bytes=float(kept), rows=float(rows),
    )  # fmt: skip


def _graph_bytes(subject: TorchSubject) -> int:
    """Return the bytes of distinct memory saved for the backward pass, without parameters."""
    import torch

    from nograd.core.module import EvalMode

    own = {tensor.untyped_storage().data_ptr() for tensor in (*subject.module.parameters(), *subject.module.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with subject.as_found(), EvalMode(subject.module)(), torch.enable_grad(), hooks:
        answer = subject.answer()  # keep it alive until all is counted: freed memory would be counted again at its old address
    del answer
    return sum(saved.values())


def check_answers(subject: TorchSubject) -> Verdict:
    """Call the module under `torch.no_grad()`, and check whether an answer still has a graph."""
    import torch

    from nograd.core.module import EvalMode

    with subject.as_found(), EvalMode(subject.module)(), torch.no_grad():
        recorded = [name for name, tensor in subject.answer().items() if tensor.requires_grad]
    if recorded:
        return warning(
            f"output {', '.join(map(repr, recorded))} has a graph although gradients were off, because forward enables "
            "them; the graph's memory is released only with the answer",
            outputs=float(len(recorded)),
        )
    return passed("under torch.no_grad() no answer has a graph")


def check_buffers(subject: TorchSubject) -> Verdict:
    """Count the bytes of gradients on parameters."""
    gradients = [p.grad for p in subject.module.parameters() if p.grad is not None]
    nbytes = sum(gradient.nbytes for gradient in gradients)
    if not gradients:
        return passed("no parameter has a gradient")
    return warning(
        f"{len(gradients)} parameters still have the gradient of their last training step: {format_bytes(nbytes)}",
        gradients=float(len(gradients)), gradient_bytes=float(nbytes),
    )  # fmt: skip


CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "gradients.graph", "No parameter requires gradients",
        "called the module with gradients enabled, and counted the stored bytes",
        check_graph, "model.requires_grad_(False), or `with torch.inference_mode():` around every call", "info",
    ),
    Check(
        "gradients.answers", "Answers have no graph", "called the module under torch.no_grad(), and examined its answers",
        check_answers, "remove torch.enable_grad() from forward, or return answer.detach()", "warning",
    ),
    Check(
        "gradients.buffers", "No parameter has a gradient", "looked for .grad on every parameter",
        check_buffers, "model.zero_grad(set_to_none=True)", "warning",
    ),
)  # fmt: skip
