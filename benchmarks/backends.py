"""Every backend and precision on real models with labels: build time, latency, rate, memory, parity, accuracy.

`python -m benchmarks.backends [CASE ...] [--only=VARIANT,...]` runs each variant in a process of its own,
against eager in turn.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import report, run_child, spread

VARIANTS = (
    "eager", "compiled", "torchscript", "aot", "onnx", "openvino", "eager-bfloat16", "eager-float16", "autocast-bfloat16",
    "onnx-float16", "int8-dynamic", "int8-static",
)  # fmt: skip
LIMIT_S = 420
ROUNDS = 7


def build(variant: str, case: Any, reference: Any, folder: Path) -> Any:
    """Return the backend under test."""
    from nograd.backends.aot import load_pt2
    from nograd.backends.compiled import optimize_model_compile
    from nograd.backends.eager import eager_backend
    from nograd.core.parity import Tolerance
    from nograd.exports import export_model, open_file
    from nograd.transforms.precision import to_half, with_autocast
    from nograd.transforms.quantize import quantize_dynamic, quantize_static

    loose = Tolerance(min_cosine=0.9)
    ends = {"torchscript": "m.pt", "aot": "m.pt2", "onnx": "m.onnx", "openvino": "m.xml", "onnx-float16": "m.onnx"}
    kinds = {"aot": "pt2", "onnx-float16": "onnx"}
    if variant == "eager":
        return reference
    if variant == "compiled":
        return optimize_model_compile(reference)
    if variant in ends:
        precision = "float16" if variant.endswith("float16") else "float32"
        made = export_model(reference, folder / ends[variant], to=kinds.get(variant, variant), precision=precision)  # type: ignore[arg-type]
        return load_pt2(made, trusted=True) if variant == "aot" else open_file(made.path, trusted=True)
    if variant.startswith("eager-"):
        return eager_backend(to_half(case.model, variant.removeprefix("eager-")), [case.sample])  # type: ignore[arg-type]
    if variant.startswith("autocast-"):
        return eager_backend(with_autocast(case.model), [case.sample])
    if variant == "int8-dynamic":
        made_int8 = quantize_dynamic(reference, path=folder / "q.onnx", evaluation=case.batches[:4], tolerance=loose)
    else:
        made_int8 = quantize_static(
            reference, case.calibration, path=folder / "q.onnx", evaluation=case.batches[:4], tolerance=loose
        )
    sys.stderr.write(f"{made_int8}\n")
    return open_file(made_int8.path)


def child(name: str, variant: str) -> dict[str, Any]:
    """Measure one variant against eager, in turn."""
    from benchmarks.zoo import CASES
    from nograd.backends.eager import eager_backend
    from nograd.core.parity import Tolerance, compare

    warnings.simplefilter("ignore")
    case = CASES[name]()
    reference = eager_backend(case.model, [case.sample])
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        backend = build(variant, case, reference, Path(folder))
        build_s = time.perf_counter() - begun
        expected = [dict(reference.run(batch)) for batch in case.batches]
        given = [dict(backend.run(batch)) for batch in case.batches]
        parity = compare(expected, given, tolerance=Tolerance(min_cosine=-1), outputs=reference.signature.outputs)
        single, batches = case.single[:32], case.batches[:6]
        lone = paired(lambda b: [b.run(each) for each in single], reference, backend)
        bulk = paired(lambda b: [b.run(each) for each in batches], reference, backend)
        rows = sum(len(next(iter(batch.values()))) for batch in batches)
        return {
            "build_s": build_s,
            "lone_ms": [s / len(single) * 1000 for s in lone["variant"]],
            "lone_ratio": [a / b for a, b in zip(lone["eager"], lone["variant"], strict=True)],
            "rate": [rows / s for s in bulk["variant"]],
            "rate_ratio": [a / b for a, b in zip(bulk["eager"], bulk["variant"], strict=True)],
            "accuracy": case.accuracy(given), "reference_accuracy": case.accuracy(expected),
            "min_cosine": parity.min_cosine, "max_rel": parity.max_rel, "agreement": parity.agreement,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "is_convolutional": case.is_convolutional,
        }  # fmt: skip


def paired(work: Callable[[Any], object], reference: Any, backend: Any) -> dict[str, list[float]]:
    """Measure both in turn; a variant ten times slower than eager is run once only."""
    runs = {"eager": partial(work, reference), "variant": partial(work, backend)}
    times: dict[str, list[float]] = {"eager": [], "variant": []}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for kind, run in runs.items():
            begun = time.perf_counter()
            run()
            times[kind].append(time.perf_counter() - begun)
        if times["variant"][0] > 10 * times["eager"][0]:
            break
    return times


def line(name: str, variant: str, found: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    if "failed" in found:
        return [name, variant, found["failed"], *[""] * 7]
    agreement = "-" if found["agreement"] is None else f"{found['agreement']:.1%}"
    return [
        name, variant, f"{found['build_s']:.1f}", spread(found["lone_ms"]), f"{median(found['lone_ratio']):.2f}x",
        spread(found["rate"]), f"{median(found['rate_ratio']):.2f}x", f"{found['peak_mb']:.0f}",
        f"{found['min_cosine']:.5f} {agreement}", f"{found['accuracy']:.3f} ({found['reference_accuracy']:.3f})",
    ]  # fmt: skip


def main(names: list[str], variants: Sequence[str]) -> None:
    from benchmarks.zoo import CASES

    rows = [
        [
            "model",
            "variant",
            "build s",
            "lone ms",
            "x eager",
            "rows/s",
            "x eager",
            "peak MB",
            "cosine agree",
            "accuracy (eager)",
        ]
    ]
    data: dict[str, dict[str, Any]] = {}
    for name in names or list(CASES):
        for variant in variants:
            found = run_child("backends", name, variant, limit_s=LIMIT_S)
            data.setdefault(name, {})[variant] = found
            rows.append(line(name, variant, found))
            sys.stderr.write("  ".join(rows[-1]) + "\n")
    lone = best(data.get("minilm-sentiment", {}), "lone_ratio")
    conv = max(
        (best(found, "rate_ratio") for found in data.values() if any(v.get("is_convolutional") for v in found.values())),
        default=0,
    )
    goal = "MiniLM alone >= 2x eager, a convolutional net's rate >= 3x eager's, each with cosine >= .98"
    report("backends", rows, data, goal=f"{goal} (found {lone:.2f}x, {conv:.2f}x)", met=lone >= 2 and conv >= 3)


def best(found: dict[str, Any], figure: str) -> float:
    """Return the best ratio among variants that answer as eager does."""
    good = [each for each in found.values() if "failed" not in each and each["min_cosine"] >= 0.98]
    return max((median(each[figure]) for each in good), default=0.0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:4])))
    else:
        chosen = [each.removeprefix("--only=").split(",") for each in sys.argv[1:] if each.startswith("--only=")]
        main([each for each in sys.argv[1:] if not each.startswith("--")], chosen[0] if chosen else VARIANTS)
