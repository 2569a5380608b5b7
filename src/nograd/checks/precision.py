"""Precision: check for NaN and infinity, and for the effect of fewer bits. Agreement with eager needs no labels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.checks.arrays import difference
from nograd.checks.subject import ModelSubject, TorchSubject
from nograd.core.parity import HALF, ParityReport, compare
from nograd.core.tensors import Batch, num_rows
from nograd.errors import ConfigError, ExportError, MissingExtraError, NogradError
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

if TYPE_CHECKING:
    from torch import Tensor

    from nograd.transforms.precision import HalfDtype

__all__ = ["CHECKS", "MODULE_CHECKS"]

DENORMAL_SHARE = 1e-3
"""Reported share of a model's weights below float32's smallest normal number (1.2e-38). On a processor without flush-to-zero,
each costs a few hundred cycles.
"""

HALF_BUDGET_S = 0.25
"""A sample that takes longer in float32 is not run in half precision. Without hardware support, half precision takes 40 times
as long (ResNet-18: 2.2 s instead of 50 ms on an AVX2 machine).
"""


def check_answers(subject: ModelSubject) -> Verdict:
    """Find NaN and infinity in the answers to the sample."""
    bad = {name: int((~np.isfinite(array)).sum()) for name, array in subject.answer.items() if array.dtype.kind in "fc"}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        counts_text = ", ".join(f"{count} in output {name!r}" for name, count in bad.items())
        values = float(sum(bad.values()))
        return error(f"NaN or infinity: {counts_text}; JSON does not support them, so clients get 500", values=values)
    return passed(f"answers to {num_rows(subject.rows)} rows are finite")


def check_weights(subject: TorchSubject) -> Verdict:
    """Find NaN and infinity in parameters, and NaN in buffers. Masks contain minus infinity on purpose."""
    bad = [name for name, p in subject.module.named_parameters() if _holds(p, infinite=True)]
    bad += [name for name, buffer in subject.module.named_buffers() if _holds(buffer, infinite=False)]
    total = sum(1 for _ in subject.module.parameters())
    if bad:
        return error(f"{len(bad)} tensors contain NaN or infinity, such as {bad[0]}", tensors=float(len(bad)))
    return passed(f"{total} parameters are finite")


def _holds(tensor: Tensor, *, infinite: bool) -> bool:
    if not tensor.is_floating_point() or tensor.device.type == "meta":
        return False
    return bool((~tensor.detach().isfinite()).any() if infinite else tensor.isnan().any())


def check_denormals(subject: TorchSubject) -> Verdict:
    """Count weights that are not 0 and below their dtype's smallest normal number."""
    import torch

    found = total = 0
    for parameter in subject.module.parameters():
        if parameter.is_floating_point() and parameter.device.type != "meta":
            size = parameter.detach().abs()
            found += int(((size > 0) & (size < torch.finfo(parameter.dtype).tiny)).sum())
            total += parameter.numel()
    share = found / total if total else 0.0
    if share > DENORMAL_SHARE:
        return warning(
            f"{found} of {total} weights ({share:.1%}) are denormal: arithmetic with them is many times slower",
            denormals=float(found), share=share,
        )  # fmt: skip
    return passed(f"{found} of {total} weights are denormal", denormals=float(found), share=share)


def check_hardware(subject: TorchSubject) -> Verdict:
    """Compare the dtype of the parameters with the processor's features."""
    from nograd.transforms.precision import half_support

    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in subject.module.parameters()}
    halves: list[HalfDtype] = [name for name in ("float16", "bfloat16") if name in dtypes]
    if not halves:
        return passed("no parameter is in half precision")
    support = half_support(halves[0], subject.backend.device)
    if support.is_fast:
        return passed(f"parameters are {halves[0]}; {support.reason}")
    return warning(
        f"parameters are {halves[0]}; {support.reason}: torch then silently computes tens of times slower than float32",
        dtype=halves[0],
    )


def check_bfloat16(subject: TorchSubject) -> Verdict:
    """Compare the answers of a bfloat16 copy with the model's."""
    return _half(subject, "bfloat16")


def check_float16(subject: TorchSubject) -> Verdict:
    """Compare the answers of a float16 copy with the model's."""
    return _half(subject, "float16")


def _half(subject: TorchSubject, dtype: HalfDtype) -> Verdict:
    from nograd.core.module import floating_dtype

    if str(floating_dtype(subject.module)) != "torch.float32":
        return skipped("the model's parameters are not all float32")
    model = subject.model
    rows = {name: array[:2] for name, array in model.rows.items()}
    begun = model.clock()
    expected = model.run(rows)
    if model.clock() - begun > HALF_BUDGET_S:
        return skipped(f"two rows take more than {HALF_BUDGET_S} s in float32; use `nograd tune` to measure half precision")
    try:
        given = _in_half(subject, dtype, rows)
    except ConfigError as failure:
        return info(f"the model cannot be converted: {failure}")
    except Exception as failure:  # noqa: BLE001  operators without a half-precision form raise any error
        return info(f"the model cannot run in {dtype}: {' '.join(str(failure).split())[:200]}")
    return _judge_parity(compare([expected], [given], tolerance=HALF, outputs=subject.backend.signature.outputs), dtype)


def _in_half(subject: TorchSubject, dtype: HalfDtype, rows: Batch) -> Batch:
    from nograd.backends.modules import ModuleBackend
    from nograd.transforms.precision import to_half

    own = subject.backend
    with subject.as_found():
        return ModuleBackend(to_half(subject.module, dtype), own.signature, own.call, own.restore).run(rows)


def _judge_parity(report: ParityReport, precision: str) -> Verdict:
    agreement = "" if report.agreement is None else f", {report.agreement:.1%} agreement"
    most = f"{report.max_rel:.1e} of the largest value"
    said = f"{precision}: minimum cosine {report.min_cosine:.5f}, maximum difference {most}{agreement}"
    figures: dict[str, Any] = {"min_cosine": report.min_cosine, "max_rel": report.max_rel}
    if report.agreement is not None:
        figures["agreement"] = report.agreement
    if report.passed:
        return passed(said, **figures)
    if any(output.num_nonfinite for output in report.outputs):
        return warning(f"{said}; values overflow: NaN or infinity instead of finite float32 values", **figures)
    return info(f"{said}; {report.failures[0]}", **figures)


def check_int8(subject: TorchSubject) -> Verdict:
    """Quantize to 8 bits with the best of several recipes, and compare with eager."""
    from nograd.backends.exporting import quiet

    try:
        from nograd.transforms.quantize import quantize_dynamic

        with tempfile.TemporaryDirectory() as folder, quiet():
            made = quantize_dynamic(subject.backend, path=Path(folder) / "model.onnx")
    except (MissingExtraError, ModuleNotFoundError) as failure:
        return skipped(str(failure))
    except ExportError as failure:
        return info(f"no 8-bit recipe is accurate enough: {' '.join(str(failure).split())[:300]}")
    verdict = _judge_parity(made.parity, f"int8 ({made.chosen.recipe})")
    return passed(verdict.evidence, **{**verdict.figures, "speedup": made.float_s / (made.chosen.seconds or made.float_s)})


def check_saturation(subject: ModelSubject) -> Verdict:
    """Sum 256 products of 8-bit numbers in ONNX Runtime, and compare with the exact sum."""
    try:
        from nograd.transforms.int8 import saturates
    except (MissingExtraError, ModuleNotFoundError) as failure:
        return skipped(f"{failure}; 8-bit models need it")
    if subject.predictor.backend.device != "cpu":
        return skipped(f"the model runs on {subject.predictor.backend.device}, not on a CPU")
    if saturates():
        return info(
            "sums of 8-bit products silently overflow on this processor (no VNNI): 8-bit weights need a range of 7 bits"
        )
    return passed("sums of 8-bit products are exact on this processor")


def check_rounding(subject: ModelSubject) -> Verdict:
    """Change every floating input by one rounding error of float32, and measure the change of the answers."""
    floating = [name for name, array in subject.rows.items() if array.dtype.name == "float32"]
    if not floating or not subject.is_repeatable:
        return skipped("no input is float32" if not floating else "answers are not repeatable")
    one = subject.one
    nudged = {name: np.nextafter(array, np.float32(np.inf)) if name in floating else array for name, array in one.items()}
    try:
        moved = difference(subject.run(one), subject.run(nudged))
    except NogradError as failure:
        return skipped(f"the model cannot run the changed input: {failure}")
    if moved > subject.tolerance:
        return warning(
            f"a change of the inputs by one rounding error of float32 changes answers by {moved:.1%} of the largest "
            "value: the model amplifies rounding, so other backends, batch sizes and precisions cannot agree with it",
            difference=moved,
        )
    return passed(
        f"a change of the inputs by one rounding error changes answers by {moved:.1e} of the largest value", difference=moved
    )


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "precision.answers", "Answers are finite", "looked for NaN and infinity in the answers to the sample",
        check_answers, "eps in divisions and logarithms: x / (norm + 1e-12), log(x.clamp(min=1e-12))", "error",
    ),
    Check(
        "precision.rounding", "The model does not amplify rounding", "changed float32 inputs by one rounding error",
        check_rounding, "remove rounding, comparisons and integer conversions of floating values from forward", "warning",
    ),
    Check(
        "precision.saturation", "8-bit sums are exact on this processor", "summed 256 products of 8-bit numbers",
        check_saturation, "nograd.quantize_static(...)  # it uses 7 bits if needed; in other tools: reduce_range=True", "info",
    ),
)  # fmt: skip

MODULE_CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "precision.weights", "Weights are finite", "looked for NaN and infinity in parameters and buffers",
        check_weights, "load an earlier checkpoint; train with gradient clipping", "error",
    ),
    Check(
        "precision.denormals", "Few weights are denormal", "counted weights below the smallest normal number",
        check_denormals, "torch.set_flush_denormal(True)", "warning",
    ),
    Check(
        "precision.hardware", "The processor supports the model's precision",
        "queried the processor's half-precision arithmetic",
        check_hardware, "model.float()", "warning",
    ),
    Check(
        "precision.bfloat16", "bfloat16 is accurate enough", "compared a bfloat16 copy with the model on the sample",
        check_bfloat16, "keep float32, or nograd.transforms.precision.with_autocast(model)", "warning",
    ),
    Check(
        "precision.float16", "float16 is accurate enough", "compared a float16 copy with the model on the sample",
        check_float16, "keep float32, or use bfloat16, which has float32's range", "warning",
    ),
    Check(
        "precision.int8", "8 bits are accurate enough", "quantized with several recipes, and compared the best with eager",
        check_int8, "nograd.quantize_static(model, calibration)  # with real data, or keep float32", "info", is_deep=True,
    ),
)  # fmt: skip
