"""Reports as `nograd tune` could write them, for tests and for looking: `python -m tests.sample_reports FOLDER` writes each as
text, JSON and a page. The figures are made up; they are shaped like what was measured on a two-core machine.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

from nograd.core.parity import EXACT, HALF, INT8, OutputParity, ParityReport, Tolerance, WorstRow
from nograd.report.figures import Figure
from nograd.tuning.values import Candidate, Confirmation, CurvePoint, Row, Status, TuneReport

MACHINE: dict[str, Any] = {
    "processor": "AMD EPYC 7B13",
    "cores": 2,
    "instructions": ["avx2", "fma", "f16c"],
    "memory_bytes": 8_240_000_000,
    "system": "Linux 6.6.0, glibc 2.41",
    "python": "3.13.5",
    "libraries": {
        "torch": "2.13.0+cpu",
        "onnxruntime": "1.24.1",
        "openvino": "2026.1.0",
        "transformers": "5.1.0",
        "numpy": "2.4.0",
    },
}


def around(median: float, spread: float = 0.04, samples: int = 9) -> Figure:
    """A figure whose interval reaches `spread` of it to each side."""
    return Figure(median, median * (1 - spread), median * (1 + spread * 1.2), samples)


def parity(
    cosine: float, mean: float, max_abs: float, tolerance: Tolerance = EXACT, *, rows: int = 200, failures: tuple[str, ...] = ()
) -> dict[str, Any]:
    outputs = (
        OutputParity("last_hidden_state", max_abs * 2.4, max_abs * 0.31, cosine - (1 - cosine) / 2, mean, None, 0, 46_080),
        OutputParity("embedding", max_abs, max_abs / 0.27, cosine, mean, None, 0, 384),
    )
    worst = tuple(
        WorstRow(row, "embedding", max_abs * (1 - step / 9), cosine + (mean - cosine) * step / 7)
        for step, row in enumerate((117, 42, 163, 8, 91))
    )
    return ParityReport(outputs, rows, tolerance, failures, worst).to_json()


def curve(fixed_s: float, unit_s: float, sizes: tuple[int, ...], spread: float = 0.03) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(size, around(fixed_s + unit_s * size, spread * (1 + 4 / size), 7)) for size in sizes)


TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def minilm() -> TuneReport:
    """A sentence encoder, nine candidates, all of them fine or refused for a reason; confirmed."""
    near = parity(0.9999997, 0.9999999, 4.1e-7)
    half = parity(0.99994, 0.99997, 2.1e-3, HALF)
    bad = parity(
        0.889, 0.954, 0.148, INT8, failures=("output 'embedding' has a row with cosine 0.889000; 0.98 is required",)
    )  # fmt: skip
    rows = (
        Row(
            Candidate("onnx", "float32", 1, 2), "winner", "", 11.4, 90_870_000, 312_000_000, near, None, around(0.00612),
            0.0071, around(72.1, 0.03), 8, around(2.32), 14, curve(0.0041, 0.00019, TOKENS), "tokens",
        ),
        Row(
            Candidate("openvino", "float32", 1, 2), "tied", "", 14.2, 91_300_000, 398_000_000, near, None, around(0.00621),
            0.0074, around(70.4, 0.03), 8, around(2.29), 14, curve(0.0039, 0.000198, TOKENS), "tokens",
        ),
        Row(
            Candidate("onnx", "float32", 2, 1), "measured", "", 11.4, 90_870_000, 401_000_000, near, None, around(0.00934),
            0.0102, around(94.3, 0.03), 1, around(1.52), 14, curve(0.0052, 0.00034, TOKENS), "tokens",
        ),
        Row(
            Candidate("aot", "float32", 1, 2), "measured", "", 66.0, 93_120_000, 534_000_000, near, None, around(0.0094, 0.05),
            0.0117, around(73.6, 0.04), 32, around(1.51, 0.05), 14, curve(0.0076, 0.000176, TOKENS), "tokens",
        ),
        Row(
            Candidate("eager", "float32", 1, 2), "measured", "", 0.1, None, 602_000_000, None, None, around(0.0142),
            0.0181, around(66.2, 0.03), 32, Figure(1, 1, 1, 14), 14,
        ),
        Row(
            Candidate("compiled", "float32", 1, 2), "dropped", "2.41x [2.30 .. 2.55] the time of onnx 1x2 over 6 rounds", 81.2,
            None, 811_000_000, near, None, around(0.0148, 0.06), 0.0204, around(68.0, 0.05), 32, around(0.96, 0.05), 6,
        ),
        Row(
            Candidate("torchscript", "float32", 1, 2), "dropped", "2.19x [2.08 .. 2.31] the time of onnx 1x2 over 7 rounds",
            3.4, 91_010_000, 590_000_000, near, None, around(0.0133, 0.05), 0.0166, around(66.9, 0.05), 16, around(1.06), 7,
        ),
        Row(
            Candidate("eager", "bfloat16", 1, 2), "dropped", "6.10x [5.61 .. 6.62] the time of onnx 1x2 over 2 rounds", 0.2,
            None, 498_000_000, half, None, around(0.0372, 0.08), 0.0412, around(18.4, 0.06), 8, around(0.381, 0.06), 2,
        ),
        Row(
            Candidate("onnx", "int8-dynamic", 1, 2), "refused",
            "output 'embedding' has a row with cosine 0.889000; 0.98 is required", 16.1, 23_100_000, None, bad,
        ),
    )  # fmt: skip
    return TuneReport(
        "sentence-transformers/all-MiniLM-L6-v2", "latency", "exact for float32, half for bfloat16, int8 for int8",
        "200 rows of sample.jsonl, 5 to 120 tokens", rows, "eager 1x2", MACHINE, 300.0,
        {"probing": 4.1, "building": 127.3, "measuring": 96.4, "curves": 31.0, "confirming": 20.3}, 14, 3,
        ("the machine was noisy: 3 of 17 rounds were thrown away",),
        Confirmation(50.5, 50.3, 0.0181, 0.0612, 0.0174, 0.0587, 1.03, confirmed=True), None, "2026-11-25 19:30", "0.1.0",
        "nograd tune sentence-transformers/all-MiniLM-L6-v2 --data sample.jsonl --goal latency --budget 300",
    )  # fmt: skip


def tiny() -> TuneReport:
    """A small perceptron: everything ties, in microseconds, and eager is the simplest."""
    exact = ParityReport((OutputParity("output", 0.0, 0.0, 1.0, 1.0, 1.0, 0, 4),), 64, EXACT).to_json()
    names = ("eager", "torchscript", "onnx", "openvino")
    lone = (0.0000412, 0.0000409, 0.0000415, 0.0000418)
    status: tuple[Status, ...] = ("winner", "tied", "tied", "tied")
    rows = tuple(
        Row(
            Candidate(name, "float32", 1, 1), state, "", 0.4, None if name == "eager" else 12_400,
            206_000_000 + step * 1_300_000,
            None if name == "eager" else exact, None, around(time, 0.05, 21), time * 1.9,
            around(412_000 - step * 900, 0.05), 256,
            Figure(1, 1, 1, 12) if name == "eager" else around(lone[0] / time, 0.02, 12), 12,
            curve(0.00004, 0.0000023, (1, 2, 4, 8, 16, 32, 64, 128, 256)) if step == 0 else (),
        )
        for step, (name, state, time) in enumerate(zip(names, status, lone, strict=True))
    )  # fmt: skip
    return TuneReport(
        "examples.mlp:build", "throughput", "exact", "64 rows of random numbers, from the signature", rows, "eager 1x1",
        MACHINE, 60.0, {"probing": 0.2, "building": 6.9, "measuring": 11.8, "curves": 2.2}, 12, 0, (), None, None,
        "2026-11-25 20:02", "0.1.0", "nograd tune examples.mlp:build --goal throughput --budget 60",
    )  # fmt: skip


COMPILE_FAILED = (
    "InductorError: CppCompileError: C++ compile error, command: g++ /tmp/torchinductor/mk/cmkq5x.main.cpp "
    "-D TORCH_INDUCTOR_CPP_WRAPPER -std=c++20 -fopenmp -march=native -O3: fatal error: Python.h: No such file or "
    "directory, compilation terminated; install the headers of this Python (on Debian: apt install python3-dev), or "
    "leave this candidate out with --backends"
)


def interrupted() -> TuneReport:
    """A classifier for a time limit, stopped with Ctrl-C: one refused, one failed, two never tried, and a doubt under load."""
    agreeing = ParityReport(
        (OutputParity("logits", 3.1e-6, 4.4e-7, 0.9999998, 0.9999999, 1.0, 0, 1000),), 120, EXACT,
        (), (WorstRow(71, "logits", 3.1e-6, 0.9999998),),
    ).to_json()  # fmt: skip
    refused = ParityReport(
        (OutputParity("logits", 7.92, 0.61, 0.417, 0.803, 0.742, 0, 1000),), 120, INT8,
        ("output 'logits' has a row with cosine 0.417000; 0.98 is required",),
        tuple(WorstRow(row, "logits", 7.92 - row / 50, 0.417 + row / 900) for row in (3, 54, 77, 80, 118)),
    ).to_json()  # fmt: skip
    stopped = "the run was interrupted before its turn"
    rows = (
        Row(
            Candidate("onnx", "float32", 2, 1), "winner", "", 9.1, 102_300_000, 377_000_000, agreeing, 0.761,
            around(0.0481, 0.07, 4),
            0.061, around(38.9, 0.09, 4), 4, around(1.63, 0.09, 4), 4, curve(0.006, 0.0262, (1, 2, 4, 8, 16), 0.05),
        ),
        Row(
            Candidate("eager", "float32", 1, 2), "measured", "", 0.3, None, 640_000_000, None, 0.761,
            around(0.0713, 0.08, 4), 0.0944,
            around(23.8, 0.07, 4), 8, Figure(1, 1, 1, 4), 4, curve(0.019, 0.041, (1, 2, 4, 8), 0.07),
        ),
        Row(
            Candidate("onnx", "int8-dynamic", 1, 2), "refused",
            "output 'logits' has a row with cosine 0.417000; 0.98 is required", 21.0, 26_200_000, None, refused, 0.583,
        ),
        Row(Candidate("compiled", "float32", 1, 2), "failed", COMPILE_FAILED, 4.2),
        Row(Candidate("openvino", "float32", 1, 2), "not_tried", stopped),
        Row(Candidate("openvino", "float32", 2, 1), "not_tried", stopped),
    )  # fmt: skip
    return TuneReport(
        "resnet50.pt2", "slo=200ms", "exact for float32, int8 for int8", "120 rows of images.parquet", rows,
        "eager 1x2", MACHINE,
        600.0, {"probing": 11.0, "building": 58.2, "measuring": 71.5, "curves": 24.4, "confirming": 15.0}, 4, 1,
        ("interrupted with Ctrl-C after 180 s of 600 s; what was measured until then is here",
         "only 4 rounds were measured, so the intervals are wide"),
        Confirmation(27.2, 26.9, 0.0593, 0.2410, 0.0571, 0.1620, 1.31, confirmed=False,
                     reason="the 99th percentile was 241 ms, 49 % above the predicted one"),
        0.761, "2026-11-25 20:41", "0.1.0",
        "nograd tune resnet50.pt2 --data images.parquet --goal slo=200ms --metric metrics:top1 --budget 600",
    )  # fmt: skip


def crowded() -> TuneReport:
    """Forty candidates, a range of a hundred, many of them with the same reason."""
    backends = ("onnx", "openvino", "aot", "torchscript", "compiled", "eager")
    precisions = ("float32", "bfloat16", "int8-dynamic", "int8-static")
    layouts = ((1, 8), (2, 4), (4, 2), (8, 1))
    every = [Candidate(b, p, *layout) for p in precisions for b in backends for layout in layouts][:40]
    rows = []
    for place, candidate in enumerate(every):
        lone = 0.002 * (1 + place % 7) * (1 + place / 6) / candidate.num_threads**0.5 * 2
        rate = 4000 * candidate.lanes**0.4 / (1 + place % 5) / (1 + place / 9)
        if place < 30:
            state: Status = "winner" if place == 0 else "tied" if place in (4, 8) else "measured" if place < 14 else "dropped"
            if state == "tied":
                lone, rate = 0.00143, 3970.0
            why = f"{1 + place / 10:.2f}x the time of onnx 1x8 over 5 rounds" if state == "dropped" else ""
            rows.append(
                Row(
                    candidate,
                    state,
                    why,
                    10.0 + place,
                    40_000_000,
                    300_000_000 + place * 7_000_000,
                    parity(0.99999, 0.999999, 1e-5),
                    None,
                    around(lone),
                    lone * 1.3,
                    around(rate),
                    2 ** (place % 6),
                    around(0.012 / lone),
                    9,
                )  # fmt: skip
            )
        else:
            fault: Status = "failed" if place < 34 else "not_tried"
            rows.append(
                Row(candidate, fault, "the compiler ran out of memory (2 GB)" if place < 34 else "the budget was spent")
            )
    return replace(
        minilm(), model="a-model-with-many-ways", goal="throughput", rows=tuple(rows), reference="eager 1x8", notes=()
    )


LONG_NAME = "an-organisation-of-renown/a-model-whose-name-has-eighty-characters-exactly-v12.3"
LONG_REASON = "it_failed_with_a_word_that_has_no_space_" * 6 + " and then it went on, with sentences of a common length" * 5
MARKUP = "<script>alert('x')</script><img src=x onerror=alert(1)>&amp;\"'`"


def awkward() -> TuneReport:
    """Everything from outside is hostile or odd: markup, long words, control characters, NaN and infinities."""
    odd = Figure(nan, nan, inf, 0)
    broken = ParityReport(
        (OutputParity(MARKUP, inf, inf, nan, nan, nan, 17, 1),), 3, EXACT, (MARKUP,), (WorstRow(1, MARKUP, inf, nan),)
    )
    rows = (
        Row(
            Candidate(MARKUP, "float32", 1, 1), "winner", MARKUP, nan, 0, 0, broken.to_json(), nan, Figure(1e-9, 1e-10, 5.0, 2),
            inf, Figure(1e12, 0.0, inf, 2), 1, odd, 1, (CurvePoint(1, odd), CurvePoint(2, Figure(0.0, 0.0, 0.0))),
        ),
        Row(Candidate("x" * 80, "float32", 1, 1), "tied", LONG_REASON, parity={"unknown": 1}, lone_s=odd, ratio=odd),
        Row(
            Candidate("b", "y" * 80, 64, 128), "measured", "", lone_s=around(3.0), rows_per_s=around(1e-5),
            ratio=Figure(-1, -2, 0),
            curve=(CurvePoint(1, Figure(1.0, 0.5, 2.0)),),
        ),
        Row(Candidate("zero"), "refused", LONG_REASON),
        Row(Candidate("\x1b[31mred\x1b[0m\x00\udcff\u202e"), "failed", "\x1b[2J\x07 gone\n\nand\tspaced"),
    )  # fmt: skip
    return TuneReport(
        LONG_NAME, "slo=20ms", MARKUP, MARKUP, rows, MARKUP, {MARKUP: MARKUP, "nested": {"a": [1, {"b": None}]}, "n": nan}, nan,
        {MARKUP: 1.0, "building": inf, "measuring": -1.0}, 1, 9, (MARKUP, LONG_REASON),
        Confirmation(nan, inf, 0.0, nan, inf, -1.0, nan, confirmed=False, reason=MARKUP), nan, MARKUP, MARKUP, MARKUP,
    )  # fmt: skip


def unmeasured() -> TuneReport:
    """Nothing could be measured."""
    rows = (
        Row(Candidate("eager"), "failed", "the model raised ValueError: no"),
        Row(Candidate("onnx"), "not_tried", "eager failed"),
    )
    return TuneReport("broken:build", "latency", "", "", rows, "eager 1x1")


def empty() -> TuneReport:
    """No candidate, no machine, no words."""
    return TuneReport("", "latency", "", "", (), "")


def alone() -> TuneReport:
    """One candidate, with a figure that has no interval."""
    row = Row(Candidate("eager"), "winner", lone_s=Figure(0.5, 0.5, 0.5), rows_per_s=Figure(2.0, 2.0, 2.0), batch_rows=1)
    return TuneReport("one:build", "latency", "exact", "1 row", (row,), "eager 1x1")


SAMPLES = {
    report.__name__: report for report in (minilm, tiny, interrupted, crowded, awkward, unmeasured, empty, alone)
}  # fmt: skip


def main(folder: str) -> None:
    from nograd.tuning.html import to_html
    from nograd.tuning.report import dumps, to_text

    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, sample in SAMPLES.items():
        Path(folder, f"{name}.txt").write_text(to_text(sample()), "utf-8")
        Path(folder, f"{name}.json").write_bytes(dumps(sample()))
        Path(folder, f"{name}.html").write_text(to_html(sample()), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
