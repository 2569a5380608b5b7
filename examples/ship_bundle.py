"""Tune here, ship a file, run it where there is no torch.

Shows: `nograd.tune` with ONNX Runtime as what may win; the bundle that it writes; and a second process, in which
torch cannot be imported, that opens the bundle and gives the same answers. Where eager PyTorch is the fastest on
this machine, an exported .onnx file is shipped instead: it needs no torch either.

Run:    python ship_bundle.py FOLDER [SECONDS]        (both halves)
        python ship_bundle.py --use FOLDER            (the second half alone: copy FOLDER to another machine)

Needs, to tune: pip install 'nograd[torch,onnx]'; to run what was shipped: pip install nograd onnxruntime

Prints: the report of the tuning, then what the process without torch found.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nograd


class NoTorch:
    """Refuses to import torch: this machine has it, the one that is shipped to has not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002  Python's way of calling
        """Raise what Python raises where a package is not installed."""
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def make(folder: Path, budget_s: float) -> None:
    """Tune a model on rows, and write what is shipped: the model, and some rows with their answers."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).eval()
    rows = torch.randn(64, 64)
    tuned = nograd.tune(model, rows, output=folder / "model.bundle", backends=["onnx"], budget_s=budget_s, name="digits")
    print(tuned)
    if tuned.bundle is None or tuned.needs_trust or not list(tuned.bundle.glob("*.onnx")):
        nograd.export_to_onnx(model, rows[:2], folder / "model.onnx")
    np.savez(folder / "expected.npz", rows=rows.numpy(), answers=nograd.Predictor(model, sample=rows[:2]).predict(rows).numpy())


def use(folder: Path) -> None:
    """Open what was shipped, in a process that cannot import torch."""
    sys.meta_path.insert(0, NoTorch())
    exported = folder / "model.onnx"
    predictor = nograd.load(str(exported if exported.exists() else folder / "model.bundle"))
    expected = np.load(folder / "expected.npz")
    answers = predictor.predict(expected["rows"])
    cosines = (
        (answers * expected["answers"]).sum(1) / np.linalg.norm(answers, axis=1) / np.linalg.norm(expected["answers"], axis=1)
    )
    print(f"without torch: {len(answers)} answers by {predictor.backend.name}, cosine to eager's at least {cosines.min():.4f}")
    assert "torch" not in sys.modules
    assert cosines.min() > 0.99


def main(folder: Path, budget_s: float = 60.0) -> None:
    """Both halves, each as it would be on its own machine."""
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, budget_s)
    subprocess.run([sys.executable, __file__, "--use", str(folder)], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "--use":
        use(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), *map(float, sys.argv[2:]))
