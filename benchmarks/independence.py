"""The influence of the rows of a batch on each other: every backend and precision, over random batch compositions.

`python -m benchmarks.independence [MODEL ...] [--only=VARIANT,...] [--batches=1000]` measures each variant in its own process.
No figure is a time: the machine may be busy. `bound` compares a row with itself at the same batch size, lengths and place, next
to other rows; `size effect` compares a row alone with the same row among copies of itself, which is rounding.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.backends import VARIANTS, build
from benchmarks.common import keep, report, run_child, sentences

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends import Backend

BATCHES = 1000
BATCH_ROWS = (2, 2, 3, 3, 4, 4, 8, 16)
"""Rows of a batch, drawn from these: small batches run more often, because they are cheap."""
LIMIT_S = 3600

MAX_WORDS = 8
"""Words of MiniLM's sentences, at most: 1,000 batches of up to 120 words take half an hour for each variant."""

SIDE = 96
"""Pixels of a side of efficientnet-lite0's pictures; 224 take five times as long."""

COUPLED = frozenset(("int8-dynamic",))
"""Variants that scale activations over the whole batch: a bound within the tolerance would be a fault of the measurement."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and its rows; the fields are those of `benchmarks.zoo.Case` that building a variant reads."""

    model: nn.Module
    samples: list[dict[str, Any]]
    """Arrays by name, `[rows, ...]`; several if rows differ in length."""

    fixed: frozenset[str] = frozenset()
    """Dimensions that always have the sample's size, although the model runs some other sizes."""

    @property
    def sample(self) -> dict[str, Any]:
        """The first sample as tensors."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.samples[0].items()}

    @property
    def batches(self) -> list[dict[str, Any]]:
        """Batches that 8-bit recipes are compared with."""
        return self.samples

    @property
    def calibration(self) -> list[dict[str, Any]]:
        """Batches that 8-bit recipes are calibrated with."""
        return self.samples


def minilm() -> Subject:
    """MiniLM (22 M parameters) and 32 sentences of 5 to 8 words, in four batches of similar length."""
    from nograd import load

    predictor = load("minilm")
    short = [text for text in sentences() if len(text.split()) <= MAX_WORDS]
    texts = sorted(short[:: len(short) // 32][:32], key=len)
    samples = []
    for start in range(0, len(texts), 8):
        parts, _ = predictor.prepare(texts[start : start + 8])
        from nograd.core.tensors import concat

        samples.append(dict(concat(parts, predictor.signature.inputs)))
    return Subject(predictor.backend.model, samples)  # type: ignore[attr-defined]  # an eager backend


def efficientnet() -> Subject:
    """efficientnet-lite0 and 16 random pictures with structure at several scales."""
    import numpy as np

    from benchmarks.zoo.photos import efficientnet_model

    random = np.random.default_rng(0)
    pictures = sum(
        np.kron(random.standard_normal((16, 3, side, side)), np.ones((1, 1, SIDE // side, SIDE // side)))
        for side in (6, 24, SIDE)
    )
    pixels = np.asarray(pictures, np.float32) / 2
    return Subject(efficientnet_model(), [{"inputs": pixels[at : at + 4]} for at in range(0, 16, 4)])


def silero() -> Subject:
    """Silero's voice detector and 64 frames of noise bursts, each with a random state."""
    import numpy as np

    from benchmarks.zoo.speech import CONTEXT, FRAME, STATE, silero_model

    random = np.random.default_rng(0)
    frames = random.standard_normal((64, FRAME + CONTEXT)) * random.uniform(0.01, 0.3, (64, 1))
    state = random.standard_normal((2, 64, STATE)) * 0.3
    arrays = {"x": frames, "h": state[0], "c": state[1]}
    rows = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    samples = [{name: array[at : at + 16] for name, array in rows.items()} for at in range(0, 64, 16)]
    return Subject(silero_model(), samples, fixed=frozenset(("length",)))


def lstm() -> Subject:
    """A two-layer LSTM classifier (0.5 M parameters, seeded weights) over sequences of 12 to 48 steps."""
    import numpy as np
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(40, 160, num_layers=2, batch_first=True)
            self.head = nn.Linear(160, 12)

        def forward(self, steps: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.lstm(steps)[0][:, -1])
            return found

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    samples = [{"steps": random.standard_normal((8, length, 40)).astype(np.float32)} for length in (12, 24, 48)]
    return Subject(Classifier().eval(), samples)


MODELS: dict[str, Callable[[], Subject]] = {
    "minilm": minilm, "efficientnet-lite0": efficientnet, "silero-vad": silero, "lstm": lstm,
}  # fmt: skip


def precision_of(variant: str) -> str:
    """Return the precision that sets the tolerance of a variant."""
    kind = variant.rpartition("-")[2]
    return kind if kind in ("bfloat16", "float16") else "float32"


def child(name: str, variant: str, num_batches: int) -> dict[str, Any]:
    """Measure one variant."""
    from nograd.backends.coupling import measure_independence, without_independence
    from nograd.backends.eager import eager_backend
    from nograd.backends.onnx.naming import narrowed

    warnings.simplefilter("ignore")
    subject = MODELS[name]()
    reference = narrowed(eager_backend(subject.model, [subject.sample]), subject.fixed)
    with tempfile.TemporaryDirectory() as folder:
        backend: Backend = build(variant, subject, reference, Path(folder))
        signature = backend.signature
        found = measure_independence(
            backend.run, [signature.check(sample) for sample in subject.samples], without_independence(signature),
            precision=precision_of(variant), backend=backend.name, num_batches=num_batches, batch_rows=BATCH_ROWS,
        )  # fmt: skip
    if found is None:
        raise SystemExit("no row could be compared")
    return {**asdict(found), "verdict": found.verdict, "batching": signature.batching}


def line(name: str, variant: str, found: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    if "failed" in found:
        return [name, variant, found["failed"], *[""] * 6]
    figures = [f"{found[figure]:.1e}" for figure in ("bound", "tolerance", "size_effect")]
    return [
        name, variant, found["verdict"], *figures, found["companions"] or "-", f"{found['num_batches']}", found["batching"],
    ]  # fmt: skip


HEADS = ["model", "variant", "rows are", "bound", "allowed", "size effect", "largest next to", "batches", "file declares"]


def is_right(variant: str, found: dict[str, Any]) -> bool:
    """True if the file declares what was measured: coupled rows are never declared independent; a failure proves nothing."""
    if "failed" in found:
        return False
    verdict, batching = str(found["verdict"]), str(found["batching"])
    return verdict == "coupled" if variant in COUPLED else verdict == "independent" or batching == "alone"


def main(names: Sequence[str], variants: Sequence[str], num_batches: int) -> None:
    """Measure all, print the table and write the JSON."""
    rows: list[list[str]] = [HEADS]
    data: dict[str, dict[str, Any]] = {}
    for name in names or list(MODELS):
        for variant in variants:
            found = run_child("independence", name, variant, str(num_batches), limit_s=LIMIT_S)
            data.setdefault(name, {})[variant] = found
            rows.append(line(name, variant, found))
            sys.stderr.write("  ".join(rows[-1]) + "\n")
            keep("independence", data, goal="not all variants are measured", met=False)
    wrong = [
        f"{name} {variant}" for name, each in data.items() for variant, found in each.items() if not is_right(variant, found)
    ]
    coupled = [
        f"{name} {variant}"
        for name, each in data.items()
        for variant, found in each.items()
        if found.get("verdict") == "coupled" and found["batching"] != "alone"
    ]
    named = ", ".join(dict.fromkeys([*wrong, *coupled])) or "none"
    goal = f"every variant was measured, and no file whose rows are coupled declares that they may be batched (wrong: {named})"
    report("independence", rows, data, goal=goal, met=not wrong + coupled)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        options = dict(each.removeprefix("--").partition("=")[::2] for each in sys.argv[1:] if each.startswith("--"))
        chosen = options["only"].split(",") if "only" in options else VARIANTS
        main([each for each in sys.argv[1:] if not each.startswith("--")], chosen, int(options.get("batches", BATCHES)))
