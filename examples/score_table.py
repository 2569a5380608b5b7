"""Score a table: every row of a CSV gets a model's answer, in new columns.

Shows: a model whose inputs are columns, found by their names; `postprocess`, which makes a row's answer readable;
`nograd predict`, which carries the other columns through and goes on where it was killed.

Run:    python score_table.py [TABLE.csv] [OUTPUT.csv]

Without a table it takes iris.csv beside it: 150 flowers, four lengths in cm, and the species (R. A. Fisher, The use
of multiple measurements in taxonomic problems, 1936). A small net is fitted on two flowers of three when it is
first needed (two seconds).

Prints: what `nograd predict` says, the first scored rows, and how many of the flowers that the net never saw are
named rightly.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import nograd

HERE = Path(__file__).parent
MEASURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
SPECIES = ("setosa", "versicolor", "virginica")


class Species(nn.Module):
    """Four lengths in cm, float32 `[rows]` each, to logits `[rows, 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, sepal_length: Tensor, sepal_width: Tensor, petal_length: Tensor, petal_width: Tensor) -> Tensor:
        """Return the logits; the inputs have the names of the table's columns."""
        logits: Tensor = self.layers(torch.stack([sepal_length, sepal_width, petal_length, petal_width], dim=1))
        return logits


def is_held_out(flower: dict[str, str]) -> bool:
    """Every third flower is kept from the fitting."""
    return int(flower["id"]) % 3 == 0


def fitted() -> Species:
    """Return the net, fitted on two thirds of iris.csv."""
    with (HERE / "iris.csv").open() as file:
        flowers = [row for row in csv.DictReader(file) if not is_held_out(row)]
    columns = [torch.tensor([float(flower[name]) for flower in flowers]) for name in MEASURES]
    species = torch.tensor([SPECIES.index(flower["species"]) for flower in flowers])
    torch.manual_seed(0)
    model = Species()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(*columns), species)
        torch.autograd.backward(loss)
        optimizer.step()
    return model


def named(logits: Tensor) -> dict[str, str | float]:
    """Return one row's answer: the columns that stand behind the table's own."""
    probabilities = torch.as_tensor(logits).softmax(-1)
    best = int(probabilities.argmax())
    return {"predicted": SPECIES[best], "probability": round(float(probabilities[best]), 3)}


def scorer() -> nograd.Predictor:
    """What `nograd predict score_table:scorer` and `nograd serve score_table:scorer` load."""
    sample = tuple(torch.tensor([5.0, 6.0]) for _ in MEASURES)
    return nograd.Predictor(fitted(), postprocess=named, sample=sample)


def main(table: Path = HERE / "iris.csv", output: Path = Path("scored.csv")) -> None:
    """Score the table with the command that anybody would type, and look at what came."""
    command = [sys.executable, "-m", "nograd", "predict", "score_table:scorer", str(table), "-o", str(output), "--restart"]
    subprocess.run(
        command, check=True, env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    )
    with output.open() as file:
        scored = list(csv.DictReader(file))
    for row in scored[:3]:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    unseen = [row for row in scored if is_held_out(row)]
    right = sum(row["species"] == row["predicted"] for row in unseen)
    print(f"{right} of {len(unseen)} flowers that the net never saw are named rightly")
    assert right >= 0.9 * len(unseen)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
