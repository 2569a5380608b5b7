"""Mode: check for training behaviour that is still active."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nograd.checks.arrays import difference
from nograd.checks.subject import TorchSubject
from nograd.core.inputs import to_host
from nograd.core.tensors import Batch
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CHECKS"]

SEED = 20_240_229

HALVES = ("torch.float16", "torch.bfloat16")


def _host(answer: dict[str, Tensor]) -> Batch:
    """Return an answer in the form of the backends: half precision as float32."""
    return {name: to_host(tensor.float() if str(tensor.dtype) in HALVES else tensor) for name, tensor in answer.items()}


def _names(module: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[str]:
    """Return the names of the submodules of a kind that are in training mode."""
    return [name or "the module itself" for name, each in module.named_modules() if isinstance(each, kind) and each.training]


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_eval(subject: TorchSubject) -> Verdict:
    """Compare the answer in the module's given mode with the answer in eval mode."""
    from torch import inference_mode, nn

    training = _names(subject.module, nn.Module)
    total = sum(1 for _ in subject.module.modules())
    if not training:
        return passed(f"all {total} modules are in eval mode")
    with subject.as_found(), inference_mode():
        try:
            found = subject.answer()
        except Exception as failure:  # noqa: BLE001  batch norm refuses one row in training mode: that is the finding
            return error(f"{_join_names(training)} are in training mode, in which the model cannot run its sample: {failure}")
    distance = difference(_host(dict(subject.backend.forward(subject.sample))), _host(found))
    said = f"{len(training)} of {total} modules are in training mode ({_join_names(training)})"
    figures = {"modules_in_training": float(len(training)), "modules": float(total), "difference": distance}
    if distance <= subject.model.tolerance:
        return info(f"{said}; their mode does not change the answers", **figures)
    return error(f"{said}: answers differ by {distance:.1%} of the largest value from those in eval mode", **figures)


def check_dropout(subject: TorchSubject) -> Verdict:
    """If a dropout layer is in training mode, run the module twice in its given mode."""
    from torch import inference_mode, nn

    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
    layers = [each for each in subject.module.modules() if isinstance(each, kinds) and each.p > 0]
    active = [name for name, each in subject.module.named_modules() if each in layers and each.training]
    if not active:
        return passed(f"{len(layers)} dropout layers, all inactive" if layers else "the model has no dropout layer")
    with subject.as_found(), inference_mode():
        distance = difference(_host(subject.answer()), _host(subject.answer()))
    figures = {"active_layers": float(len(active)), "difference": distance}
    said = f"{len(active)} dropout layers are active ({_join_names(active)})"
    if distance <= subject.model.tolerance:
        return info(f"{said}, and do not change the answers to the sample", **figures)
    return error(f"{said}: answers of two calls with the same input differ by {distance:.1%} of the largest value", **figures)


def check_batch_norm(subject: TorchSubject) -> Verdict:
    """Run the module in its given mode, and check whether a running statistic changed."""
    import torch

    statistics = {
        f"{name}.{own}": buffer
        for name, each in subject.module.named_modules()
        if isinstance(each, torch.nn.modules.batchnorm._NormBase)  # noqa: SLF001  the common base of batch and instance norms
        for own, buffer in each.named_buffers(recurse=False)
    }
    if not statistics:
        return passed("the model has no batch norm")
    before = {name: buffer.clone() for name, buffer in statistics.items()}
    with subject.as_found(), torch.no_grad():
        subject.answer()
        moved = [name for name, buffer in statistics.items() if not torch.equal(buffer, before[name])]
    if moved:
        return error(
            f"one call changed {len(moved)} of {len(statistics)} running statistics ({_join_names(moved)}): "
            "every request changes the answers to later requests",
            moved=float(len(moved)), statistics=float(len(statistics)),
        )  # fmt: skip
    return passed(f"a call does not change the {len(statistics)} running statistics", statistics=float(len(statistics)))


def check_random(subject: TorchSubject) -> Verdict:
    """If the same input gave different answers in eval mode, run it twice from the same random state."""
    if subject.model.is_repeatable:
        return passed("three runs of the same rows in eval mode gave the same answers")
    distance = random_difference(subject)
    if distance is None:
        return skipped("answers also differ with the same random state: see batching.state")
    return error(
        f"in eval mode, answers to the same input differ by {distance:.1%} of the largest value, but are equal with the same "
        "random state: the model draws random numbers",
        difference=distance,
    )


def random_difference(subject: TorchSubject) -> float | None:
    """Return the difference of answers from two random states; None if answers from the same state differ as well."""
    import torch

    def run(seed: int) -> Batch:
        torch.manual_seed(seed)
        return subject.model.run(subject.model.rows)

    with torch.random.fork_rng(devices=[]):
        first, same, other = run(SEED), run(SEED), run(SEED + 1)
    found = difference(first, other)
    return found if difference(first, same) < found / 10 else None


CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "mode.eval", "The module is in eval mode",
        "ran the sample in the module's given mode, and in eval mode",
        check_eval, "model.eval()  # nograd.Predictor sets it for its runs; other callers must do it themselves", "error",
    ),
    Check(
        "mode.dropout", "No dropout is active", "ran the same input twice in the module's given mode",
        check_dropout, "model.eval()", "error",
    ),
    Check(
        "mode.batch_norm", "Requests do not update batch norm statistics",
        "compared running statistics before and after a call",
        check_batch_norm, "model.eval()  # and no .train() in forward; momentum=0.0 for a layer that stays in training mode",
        "error",
    ),
    Check(
        "mode.random", "No random numbers are drawn in eval mode",
        "ran the same input twice, with equal and with different random states",
        check_random, "F.dropout(x, p, training=self.training)  # its default is training=True", "error",
    ),
)  # fmt: skip
