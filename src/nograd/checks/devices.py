"""Devices and dtypes: check that tensors have the device and dtype that inference expects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nograd.checks.resources import format_bytes
from nograd.checks.subject import TorchSubject
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHECKS"]


def _tensors(subject: TorchSubject) -> list[tuple[str, Tensor]]:
    return [*subject.module.named_parameters(), *subject.module.named_buffers()]


def _grouped(tensors: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, key in tensors:
        groups.setdefault(key, []).append(name)
    return groups


def _describe_groups(groups: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{len(names)} on {key} such as {names[0]}" for key, names in groups.items())


def check_mixed(subject: TorchSubject) -> Verdict:
    """Group parameters and buffers by device."""
    groups = _grouped((name, str(tensor.device)) for name, tensor in _tensors(subject))
    if len(groups) > 1:
        return error(
            f"parameters and buffers are on {len(groups)} devices: {_describe_groups(groups)}", devices=float(len(groups))
        )
    return passed(f"all {len(_tensors(subject))} parameters and buffers are on {next(iter(groups), subject.backend.device)}")


def check_dtypes(subject: TorchSubject) -> Verdict:
    """Group floating parameters by dtype."""
    floating = [(name, tensor) for name, tensor in subject.module.named_parameters() if tensor.is_floating_point()]
    groups = _grouped((name, str(tensor.dtype).removeprefix("torch.")) for name, tensor in floating)
    if len(groups) > 1:
        listed = _describe_groups(groups).replace(" on ", " in ")
        return warning(
            f"floating parameters have {len(groups)} dtypes: {listed}; values are converted between them, and inputs cannot be "
            "cast to a single dtype",
            dtypes=float(len(groups)),
        )
    return passed(f"all {len(floating)} floating parameters are {next(iter(groups), 'absent')}")


def check_float64(subject: TorchSubject) -> Verdict:
    """Find float64 parameters, and float64 answers to inputs that are not float64."""
    wide = [name for name, tensor in subject.module.named_parameters() if str(tensor.dtype) == "torch.float64"]
    answers = [name for name, array in subject.model.answer.items() if array.dtype.name == "float64"]
    given = any(str(tensor.dtype) == "torch.float64" for tensor in subject.sample.values())
    if wide:
        nbytes = sum(p.nbytes for p in subject.module.parameters() if str(p.dtype) == "torch.float64")
        return warning(
            f"{len(wide)} parameters are float64 ({wide[0]} and more): {format_bytes(nbytes)}, twice as much as in "
            "float32, and arithmetic at half the speed on a CPU and 1/32 or less on most GPUs",
            parameters=float(len(wide)), float64_bytes=float(nbytes),
        )  # fmt: skip
    if answers and not given:
        return warning(
            f"output {', '.join(map(repr, answers))} is float64 and no input or parameter is: something in forward promotes "
            "(a numpy number, a float64 buffer)",
            outputs=float(len(answers)),
        )
    return passed("neither parameters nor answers are float64 unintentionally")


def check_float_ids(subject: TorchSubject) -> Verdict:
    """Record the floating inputs that an embedding looks up."""
    import torch

    floating = {name: tensor for name, tensor in subject.sample.items() if tensor.is_floating_point()}
    if not any(isinstance(each, torch.nn.Embedding | torch.nn.EmbeddingBag) for each in subject.module.modules()):
        return passed("the model has no embedding")
    if not floating:
        return passed("ids are integers")
    found = _looked_up(subject, floating)
    if not found:
        return passed("no embedding looks up a floating input")
    name = found[0]
    dtype = str(floating[name].dtype).removeprefix("torch.")
    exact = {"float16": 2**11, "bfloat16": 2**8}.get(dtype, 2**24)
    severity = error if exact < 2**24 else warning
    return severity(
        f"input {name!r} contains ids and is {dtype}, which is exact only up to {exact}; larger ids are rounded to other ids",
        largest_exact_id=float(exact),
    )


def _looked_up(subject: TorchSubject, floating: Mapping[str, Tensor]) -> list[str]:
    """Return the floating inputs whose values an embedding looks up."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[str] = []

    class LookupRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if function is torch.ops.aten.embedding.default:
                found.extend(name for name, tensor in floating.items() if _equal(tensor, args[1]))
            return function(*args, **(kwargs or {}))

    with subject.as_found(), torch.inference_mode(), LookupRecorder():  # type: ignore[no-untyped-call]
        subject.answer()
    return found


def _equal(tensor: Tensor, ids: Tensor) -> bool:
    return tensor.shape == ids.shape and bool((tensor.to(ids.dtype) == ids).all())


def check_gpu(subject: TorchSubject) -> Verdict:
    """Check that the model uses the GPU, if torch has one."""
    import torch

    if not torch.cuda.is_available():
        return skipped("torch finds no GPU")
    name = torch.cuda.get_device_name(0)
    if subject.backend.device.startswith("cuda"):
        return passed(f"the model runs on {subject.backend.device} ({name})")
    return info(f"the model runs on {subject.backend.device}, and {name} is idle", device=subject.backend.device, gpu=name)


CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "devices.mixed", "All tensors are on one device", "grouped parameters and buffers by device",
        check_mixed, "model.to('cuda:0')  # or another device; no tensor may stay on 'meta'", "error",
    ),
    Check(
        "devices.dtypes", "All floating parameters have one dtype", "grouped floating parameters by dtype",
        check_dtypes, "model.float()  # or nograd.to_half(model, 'bfloat16'), which is compared with float32", "warning",
    ),
    Check(
        "devices.float64", "No tensor is float64 unintentionally", "examined the dtypes of parameters and answers",
        check_float64, "model.float(); register_buffer(name, tensor.float())", "warning",
    ),
    Check(
        "devices.float_ids", "Ids are integers", "recorded which inputs embeddings look up",
        check_float_ids, "send int64 ids; sample=ids.long()", "error",
    ),
    Check(
        "devices.gpu", "An available GPU is used", "queried torch for a GPU", check_gpu,
        "nograd.Predictor(model, device='cuda')", "info",
    ),
)  # fmt: skip
