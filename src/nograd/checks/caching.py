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
            "this model's cache keys are unique to this process: cached answers are lost at each restart and cannot be "
            f"shared with other replicas: {found.private_because}"
        )
    return passed(f"the fingerprint is {found.text[:16]} in every process")


def check_repeatable(subject: ModelSubject) -> Verdict:
    """Compare the repeatability of three runs with the signature's."""
    reason = why_not(subject.signature)
    if reason:
        return info(f"answers are not cached: {reason}")
    if subject.is_repeatable:
        return passed("the same rows gave the same answers, so answers may be cached")
    return error("the same rows gave different answers, but the signature declares that answers may be cached")


def check_stale(subject: TorchSubject) -> Verdict:
    """Change every kind of weight of a copy of the model in place, and check that its fingerprint changes."""
    try:
        module = copy.deepcopy(subject.module)
    except Exception as failure:  # noqa: BLE001  modules may hold any object
        return skipped(f"the module cannot be copied, and this check changes only copies: {failure}")
    unseen = [name for name, tensor in _registered(subject.module) if tensor.is_inference()]
    tried = [*_some(_registered(module)), *_unregistered(module)]
    unseen += [name for name, tensor in tried if not _is_noticed(subject, module, tensor)]
    if unseen:
        more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
        return warning(
            f"{unseen[0]}{more}: a change in place does not change the model's fingerprint, so cached answers become stale. "
            "Tensors that are neither parameters nor buffers are also ignored by .to() and state_dict(); tensors created in "
            "inference mode do not record changes",
            tensors=float(len(unseen)), tried=float(len(tried)),
        )  # fmt: skip
    return passed(
        f"{len(tried)} tensors of a copy were changed in place, and each change changed the fingerprint",
        tried=float(len(tried)),
    )


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
        "caching.key", "Cache keys are valid after a restart", "computed the model's fingerprint",
        check_key, "add a method `fingerprint(self) -> str` to the named object", "warning",
    ),
    Check(
        "caching.repeatable", "Cached answers are repeatable", "compared three runs with the signature's declaration",
        check_repeatable, "nograd serve MODEL --cache-size 0", "error",
    ),
)  # fmt: skip

MODULE_CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "caching.stale", "Changed weights invalidate cached answers",
        "changed weights of a copy in place, and compared fingerprints",
        check_stale, "self.register_buffer('table', table)  # instead of a plain attribute", "warning",
    ),
)  # fmt: skip
