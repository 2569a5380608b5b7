"""CPU time of building an eager backend: this version and another one, in turn, on four models.

That is the probe, the size limits and the independence of rows. The models are MiniLM, an image net, an LSTM, and one whose
answer is a million times as long as its input.

    git worktree add /tmp/before db33093
    python -m benchmarks.probing --before /tmp/before/src

Each figure is the CPU time of one process that has loaded the model and probed it once before: only what follows is counted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ROUNDS, GOAL = 5, 1.5
WORKER = "--worker"


def minilm() -> tuple[nn.Module, list[Any]]:
    """MiniLM with the two sentences that it is always probed with."""
    import nograd

    backend: Any = nograd.load("minilm").backend
    return backend.model, [{name: tensor[:1] for name, tensor in sample.items()} for sample in backend.samples]


def image_net() -> tuple[nn.Module, list[Any]]:
    """efficientnet-lite0 if it is installed, else MobileNetV2; two pictures of 224 x 224, random weights."""
    import torch

    if importlib.util.find_spec("efficientnet_lite_pytorch") is not None:
        package: Any = importlib.import_module("efficientnet_lite_pytorch")
        model: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    else:
        from transformers import MobileNetV2Config, MobileNetV2Model

        model = MobileNetV2Model(MobileNetV2Config())
    return model.eval(), [torch.rand(2, 3, 224, 224)]


def lstm() -> tuple[nn.Module, list[Any]]:
    """Two layers of 128 over 50 steps."""
    import torch
    from torch import nn

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(32, 128, num_layers=2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.lstm(x)[0][:, -1]
            return found

    return Last().eval(), [torch.rand(4, 50, 32)]


def wide() -> tuple[nn.Module, list[Any]]:
    """An answer of 16 MB for each row: copies and comparisons of answers cost more than the model."""
    import torch
    from torch import nn

    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 1_000_000)

    return Wide(), [torch.rand(2, 4)]


MODELS: dict[str, Callable[[], tuple[nn.Module, list[Any]]]] = {
    "minilm": minilm, "image net": image_net, "lstm": lstm, "wide": wide,
}  # fmt: skip


def work(name: str, rounds: int) -> None:
    """Print the CPU seconds of each probe, after one that does not count."""
    import torch

    from nograd.backends.eager import eager_backend

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, samples = MODELS[name]()
    for index in range(rounds + 1):
        before = time.process_time()
        eager_backend(model, samples)
        if index:
            print(time.process_time() - before)


def measured(name: str, source: Path, rounds: int) -> list[float]:
    """Return the CPU seconds of each probe in a process that runs the given version."""
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(Path(__file__)), WORKER, name, "--rounds", str(rounds)]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [float(line) for line in found.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="src folder of the version to compare with")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes per version and model")
    parser.add_argument(WORKER, choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.rounds)
        return
    from benchmarks.common import report, spread

    here = Path(__file__).parents[1] / "src"
    versions = {"now": here, **({"before": options.before.resolve()} if options.before else {})}
    times: dict[str, list[float]] = {f"{name}, {version}": [] for name in MODELS for version in versions}
    for _ in range(options.rounds):
        for name in MODELS:
            for version, source in versions.items():
                times[f"{name}, {version}"] += measured(name, source, 2)
    table = [["model", *(f"{version}, CPU s" for version in versions), "ratio"]]
    ratios = []
    for name in MODELS:
        each = [times[f"{name}, {version}"] for version in versions]
        ratios.append(median(each[0]) / median(each[-1]))
        table.append([name, *map(spread, each), f"{ratios[-1]:.2f}" if options.before else "-"])
    goal = f"at most {GOAL} times the CPU time of the other version"
    report("probing", table, times, goal=goal, met=all(ratio <= GOAL for ratio in ratios))


if __name__ == "__main__":
    main()
