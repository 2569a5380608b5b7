"""Caching: check that cached answers can be found again, and that they are still valid."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nograd.caching.key_units import why_not
from nograd.checks.subject import ModelSubject, TorchSubject
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CHECKS", "MODULE_CHECKS"]


def check_key(subject: ModelSubject) -> Verdict:
    """Get the fingerprint that identifies the model in cache keys."""
    found = subject.predictor.fingerprint()
    if found.private_because:
        return warning(
            "no other process can have this model's cache keys, so that kept answers are lost with each restart and shared "
            f"with nobody: {found.private_because}"
        )
    return passed(f"answers are kept under {found.text[:16]}, wherever the model runs")


def check_repeatable(subject: ModelSubject) -> Verdict:
    """Compare the repeatability of three runs with the signature's."""
    reason = why_not(subject.signature)
    if reason:
        return info(f"no answers are kept: {reason}")
    if subject.is_repeatable:
        return passed("the same rows gave the same answers; they may be kept")
    return error("the same rows gave different answers, and the signature says that they may be kept: one of them would stay")


def check_stale(subject: TorchSubject) -> Verdict:
    """Change every kind of weight of a copy of the model in place, and check that its fingerprint changes."""
    try:
        module = copy.deepcopy(subject.module)
    except Exception as failure:  # noqa: BLE001  modules may hold any object
        return skipped(f"the module cannot be copied, and weights are changed in a copy only: {failure}")
    unseen = [name for name, tensor in _registered(subject.module) if tensor.is_inference()]
    tried = [*_some(_registered(module)), *_unregistered(module)]
    unseen += [name for name, tensor in tried if not _is_noticed(subject, module, tensor)]
    if unseen:
        more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
        return warning(
            f"{unseen[0]}{more}: changed in place, the model's fingerprint stays, and cached answers with it; what is no "
            "parameter or buffer is also left out by .to() and state_dict(), and what was made under inference_mode counts no "
            "changes",
            tensors=float(len(unseen)), tried=float(len(tried)),
        )  # fmt: skip
    return passed(f"{len(tried)} tensors of a copy were changed in place; each moved the fingerprint", tried=float(len(tried)))


def _registered(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _some(tensors: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return the first and the last tensor. All registered tensors are detected in the same way."""
    return tensors if len(tensors) < 3 else [tensors[0], tensors[-1]]


def _unregistered(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield unregistered tensors: attributes, and items of lists and dicts that are attributes."""
    import torch

    for prefix, each in module.named_modules():
        for name, value in vars(each).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
            for tensor in held:
                if isinstance(tensor, torch.Tensor):
                    yield (f"{prefix}.{name}" if prefix else name), tensor


def _is_noticed(subject: TorchSubject, module: nn.Module, tensor: Tensor) -> bool:
    import torch

    from nograd.backends.modules import ModuleBackend

    backend = ModuleBackend(module, subject.backend.signature, subject.backend.call, name=subject.backend.name)
    before = backend.fingerprint()
    if before.private_because:  # valid in this process only: see caching.key
        return True
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
    return backend.fingerprint() != before


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "caching.key", "Answers can be found again after a restart", "asked for the model's fingerprint",
        check_key, "give what it names a method `fingerprint(self) -> str`", "warning",
    ),
    Check(
        "caching.repeatable", "What is kept is repeatable", "compared three runs with what the signature says",
        check_repeatable, "nograd serve MODEL --cache-size 0", "error",
    ),
)  # fmt: skip

MODULE_CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "caching.stale", "Changed weights end old answers", "changed weights of a copy in place and compared fingerprints",
        check_stale, "self.register_buffer('table', table)  # instead of a plain attribute", "warning",
    ),
)  # fmt: skip
